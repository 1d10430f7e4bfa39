"""Paired differences: the same seed run both ways, so that what the seed does to both cancels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from disbud.claims.student import Array
from disbud.claims.words import Unit, check_unit, listed
from disbud.errors import DisbudError


@dataclass(frozen=True)
class Pairs:
    """One difference a seed, in the order in which seeds are added (which is the order the looks go by).

    `unit` is "points" for accuracies, whose differences are fractions from -1 to 1 and said in percentage points, or
    "plain" for anything else. `diverged` counts the runs that diverged and were given a value of their own.

    >>> from disbud import claims
    >>> pairs = claims.Pairs((0, 1, 2), (0.01, 0.02, 0.0))
    >>> len(pairs), pairs.values.mean().round(3)
    (3, np.float64(0.01))
    """

    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    unit: Unit = "points"
    diverged: int = 0

    def __post_init__(self) -> None:
        check_unit(self.unit)
        if len(self.seeds) != len(self.differences):
            raise DisbudError(f"{len(self.seeds)} seeds do not go with {len(self.differences)} differences")
        if len(set(self.seeds)) < len(self.seeds):
            twice = sorted({str(seed) for seed in self.seeds if self.seeds.count(seed) > 1})
            raise DisbudError(f"seeds are counted once each; twice there: {listed(twice)}")
        if not all(math.isfinite(d) for d in self.differences):
            raise DisbudError(
                "differences are finite; paired(..., diverged=0.1) says what diverged runs count as"
            )
        if self.unit == "points" and any(abs(d) > 1 for d in self.differences):
            raise DisbudError(
                f"accuracies are fractions here, so their differences lie between -1 and 1, not at "
                f"{max(self.differences, key=abs):g}; divide percentages by 100, or give unit='plain'"
            )

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def values(self) -> Array:
        """The differences as an array."""
        return np.array(self.differences, dtype=np.float64)

    def first(self, n: int) -> Pairs:
        """Those of the first n seeds."""
        return Pairs(self.seeds[:n], self.differences[:n], self.unit, self.diverged)

    def reversed(self) -> Pairs:
        """Right minus left."""
        return Pairs(self.seeds, tuple(-d for d in self.differences), self.unit, self.diverged)


def paired(
    left: Mapping[int, float],
    right: Mapping[int, float],
    *,
    unit: Unit = "points",
    diverged: float | None = None,
    names: tuple[str, str] = ("left", "right"),
) -> Pairs:
    """Left minus right, seed by seed, by rising seed; both must have run the same seeds.

    A run that diverged (its value is not finite) is a result, and to leave its pair out would favour whatever diverges:
    it counts as `diverged`, for an accuracy that of guessing (0.1 among 10 classes), and is counted in what is printed.

    >>> from disbud import claims
    >>> shuffled, unmodified = {0: 0.981, 1: 0.979}, {0: 0.978, 1: float("nan")}
    >>> claims.paired(shuffled, unmodified, diverged=0.1)
    Pairs(seeds=(0, 1), differences=(0.003, 0.879), unit='points', diverged=1)
    """
    check_unit(unit)
    missing = [
        f"{name} has no seed {listed([str(seed) for seed in sorted(other.keys() - own.keys())])}"
        for name, own, other in zip(names, (left, right), (right, left), strict=True)
        if other.keys() - own.keys()
    ]
    if missing:
        raise DisbudError(f"pairs need the same seeds on both sides: {'; '.join(missing)}")
    for name, runs in zip(names, (left, right), strict=True):
        _check(name, runs, unit, diverged)
    seeds = sorted(left)
    sides = [[runs[s] if math.isfinite(runs[s]) else diverged for s in seeds] for runs in (left, right)]
    differences = [a - b for a, b in zip(*sides, strict=True) if a is not None and b is not None]
    if unit == "points":  # accuracies are counts over a count: equal differences are made equal in binary too
        differences = [round(difference, 12) for difference in differences]
    count = sum(not math.isfinite(value) for runs in (left, right) for value in runs.values())
    return Pairs(tuple(seeds), tuple(differences), unit, count)


def _check(name: str, runs: Mapping[int, float], unit: Unit, diverged: float | None) -> None:
    lost = [str(seed) for seed, value in sorted(runs.items()) if not math.isfinite(value)]
    if lost and (diverged is None or not math.isfinite(diverged)):
        raise DisbudError(
            f"{name} diverged at seed {listed(lost)}; say what a diverged run counts as, for an accuracy that of "
            "guessing: diverged=0.1 among 10 classes"
        )
    given = [*(v for v in runs.values() if math.isfinite(v)), *([diverged] if diverged is not None else [])]
    odd = [v for v in given if not 0 <= v <= 1]
    if unit == "points" and odd:
        raise DisbudError(
            f"accuracies are fractions from 0 to 1, not {odd[0]:g}; divide percentages by 100, or give unit='plain'"
        )
