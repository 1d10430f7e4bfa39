"""The losses of a run as numbers, and the first that is none."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from disbud.training.result import Divergence

if TYPE_CHECKING:
    from torch import Tensor

    from disbud.training.checkpoint import Position

# How many are read at once: on an accelerator reading a loss waits for the device.
_AT_ONCE = {"cpu": 1}
_AT_ONCE_ELSEWHERE = 50


class Losses:
    """Those of the epoch under way, kept in its position, and where the run diverged, once it has."""

    def __init__(self, position: Position, device: torch.device) -> None:
        self.diverged: Divergence | None = None
        self._position = position
        self._held: list[Tensor] = []  # not read yet
        self._most_held = _AT_ONCE.get(device.type, _AT_ONCE_ELSEWHERE)

    def add(self, loss: Tensor) -> None:
        """Take the loss of one more step, and read what is held if it is much."""
        self._held.append(loss)
        if len(self._held) >= self._most_held:
            self.read()

    def read(self) -> None:
        """Read all that is held."""
        for value in [float(loss) for loss in self._held]:
            self._position.losses.append(value)
            self._check(value, step=len(self._position.losses))
        self._held.clear()

    def mean(self) -> float:
        """The mean over the steps of the epoch so far."""
        self.read()
        return math.fsum(self._position.losses) / len(self._position.losses)

    def close(self, test_loss: float) -> None:
        """Take the loss after the last step of the epoch, which no loss of a step has seen."""
        self._check(test_loss, step=self._position.step)

    def _check(self, value: float, *, step: int) -> None:
        if not math.isfinite(value) and self.diverged is None:
            self.diverged = Divergence(self._position.epoch + 1, step, value)
