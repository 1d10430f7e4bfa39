"""Points of a run to rewind to, as a user writes them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from disbud.catalogue import Value
from disbud.errors import DisbudError


@dataclass(frozen=True)
class Point:
    """So many epochs and steps into a run."""

    epochs: float = 0.0
    steps: int = 0

    @staticmethod
    def of(rewind: Value) -> Point:
        """Read "init", a number of epochs, or "500 steps".

        >>> from disbud.pruning.points import Point
        >>> Point.of("500 steps").step(23), Point.of(0.5).step(23), Point.of("init").step(23)
        (500, 12, 0)
        """
        if rewind == "init":
            return Point()
        if isinstance(rewind, str) and (counted := re.fullmatch(r"(\d+) ?steps?", rewind)):
            return Point(steps=int(counted[1]))
        number = isinstance(rewind, int | float) and not isinstance(rewind, bool)
        if not number or not math.isfinite(rewind) or rewind < 0:  # type: ignore[arg-type,operator]
            raise DisbudError(
                f'rewind={rewind!r}: give "init", an epoch of the dense run such as 2 or 0.5, a step such as '
                '"500 steps", or "none" to keep the trained weights'
            )
        return Point(epochs=float(rewind))  # type: ignore[arg-type]

    def step(self, steps_per_epoch: int) -> int:
        """The steps that are done at that point, the nearest whole number of them."""
        return self.steps + math.floor(self.epochs * steps_per_epoch + 0.5)
