"""The margin within which a difference does not matter, fixed before looking and from seeds of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from disbud.claims.pairs import paired
from disbud.claims.words import Unit, amount, check_unit
from disbud.errors import DisbudError


@dataclass(frozen=True)
class Margin:
    """A margin (a fraction: 0.005 is half a point), why it is what it is, and the seeds it was found on.

    Claims are not tested on those seeds: a margin from the spread of the data tested would suit them.

    >>> from disbud import claims
    >>> print(claims.Margin(0.1, why="a tenth of a standard deviation", unit="plain"))
    margin 0.1 (a tenth of a standard deviation)
    """

    value: float
    why: str = ""
    unit: Unit = "points"
    seeds: frozenset[int] = field(default=frozenset())

    def __post_init__(self) -> None:
        check_unit(self.unit)
        if not 0 <= self.value < math.inf or (self.unit == "points" and self.value > 1):
            raise DisbudError(
                f"a margin is at least 0 and, in points, a fraction (0.005: half a point), not {self.value!r}"
            )

    def __str__(self) -> str:
        return f"margin {amount(self.value, self.unit)}" + (f" ({self.why})" if self.why else "")


def calibrated_margin(
    dense: Mapping[int, float],
    random_uniform: Mapping[int, float],
    *,
    least: float = 0.005,
    share: float = 0.1,
) -> Margin:
    """max(0.5 points, 10 % of dense minus random-uniform accuracy), from calibration seeds, by seed.

    One for each data set, model and sparsity. Where random pruning costs little, half a point is the margin.

    >>> from disbud import claims
    >>> print(claims.calibrated_margin({100: 0.98, 101: 0.98}, {100: 0.87, 101: 0.89}))
    margin 1 point (10 % of the 10 points between dense and random-uniform, 2 calibration seeds)
    """
    gaps = paired(dense, random_uniform, names=("dense", "random-uniform"))
    if not len(gaps):
        raise DisbudError(
            "a margin needs at least one calibration seed, run both dense and random-uniform; none given"
        )
    gap = math.fsum(gaps.differences) / len(gaps)
    seeds = f"{len(gaps)} calibration seed{'s' if len(gaps) > 1 else ''}"
    part = f"{100 * share:g} % of the {amount(gap, 'points')} between dense and random-uniform"
    if share * gap >= least:
        return Margin(round(share * gap, 12), f"{part}, {seeds}", seeds=frozenset(gaps.seeds))
    return Margin(least, f"the least; {part} is less, {seeds}", seeds=frozenset(gaps.seeds))
