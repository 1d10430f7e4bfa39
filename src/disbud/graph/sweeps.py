"""The paths of a network whose masks are being chosen: counted pass by pass, each layer decided on the way."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from disbud.errors import DisbudError
from disbud.graph.flow.passing import all_open, counted
from disbud.graph.flow.sweeping import Decide, Sweep, Visit, sweeping_rule
from disbud.isolation import Example

__all__ = ["Sweeps", "Visit"]


class Sweeps:
    """A model with masks in the place of its weights, dense at first, and passes that count paths and change masks.

    A weight's mask is a tensor of zeros and ones of its shape; parameters that are no layers' weights are ones.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], *, example: Example) -> None:
        self._model = model
        self._example = example
        self._names = list(names)
        self._state = all_open(model, torch.float64)
        self._leading: dict[int, Tensor] = {}
        self._shared: frozenset[str] = frozenset()
        self.log10_paths = -math.inf
        self.met: frozenset[str] = frozenset()  # the layers that a signal gets to
        self.run()

    def masks(self) -> dict[str, Tensor]:
        """The masks as they are now, on the CPU."""
        return {name: self.mask(name) for name in self._names}

    def mask(self, name: str) -> Tensor:
        """One layer's mask as it is now, on the CPU."""
        return (self._state[name] != 0).cpu()

    def put(self, name: str, mask: Tensor) -> None:
        """Set a layer's mask."""
        self._state[name].copy_(mask)

    def run(self, *, there: Decide | None = None, back: Decide | None = None) -> None:
        """One pass forwards and its derivative backwards.

        `there` decides each layer when the pass reaches it, with what led on from it in the pass before; `back` when
        the derivative comes back to it, with what arrived there in this pass. Both give a mask, or None to leave it.
        """
        signals = Sweep(
            self._state, self._names, leading=self._leading, there=there, back=back, shared=self._shared
        )
        with counted(self._model, self._state, signals, self._example, rule_of=sweeping_rule) as outputs:
            aligned, exponent = signals.align(outputs)
            total = torch.stack([tensor.sum() for tensor in aligned]).sum()
            if not total.requires_grad:
                raise DisbudError(
                    "no signal from the example reaches the model's outputs: its paths cannot be counted"
                )
            torch.autograd.backward(total, inputs=signals.roots)
        count = float(total.detach())
        self.log10_paths = math.log10(count) + exponent * math.log10(2) if count > 0 else -math.inf
        self._leading = signals.led
        self.met = frozenset(signals.met)
        self._shared = frozenset(name for name in signals.met if signals.met.count(name) > 1)
