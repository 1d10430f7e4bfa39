"""How many weights stay: the exact count for a sparsity, and the sparsities an iterative method goes through."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from numbers import Real

from disbud.errors import DisbudError
from disbud.selection.names import check_name


def check_sparsity(sparsity: float) -> float:
    """The sparsity as a float in [0, 1]; else the error that says what was probably meant."""
    if isinstance(sparsity, bool) or not isinstance(sparsity, Real) or not math.isfinite(sparsity):
        raise DisbudError(
            f"sparsity is the fraction of weights to remove, a number from 0 to 1, not {sparsity!r}"
        )
    if 1 < sparsity <= 100:
        raise DisbudError(
            f"sparsity is the fraction of weights to remove, from 0 to 1; {sparsity} is above 1: "
            f"for {sparsity} per cent give sparsity={sparsity / 100:g}"
        )
    if not 0 <= sparsity <= 1:
        raise DisbudError(
            f"sparsity is the fraction of weights to remove, from 0 to 1; {sparsity} is outside"
        )
    return float(sparsity)


def kept_count(sparsity: float, total: int) -> int:
    """round((1 - sparsity) * total), halves up, in decimal: 0.55 of 10 weights keeps 5, not the 4 of binary floats.

    >>> kept_count(0.98, 270_896)
    5418
    >>> kept_count(0.55, 10)
    5
    """
    kept = (1 - Fraction(repr(check_sparsity(sparsity)))) * total
    return math.floor(kept + Fraction(1, 2))


def _one_shot(sparsity: float, rounds: int) -> list[float]:
    if rounds != 1:
        raise DisbudError(
            f"a one-shot schedule has 1 round, not {rounds}; use schedule='exponential' or 'linear'"
        )
    return [sparsity]


def _exponential(sparsity: float, rounds: int) -> list[float]:
    """Density after round k of n is (1 - s)^(k/n)."""
    return [1 - (1 - sparsity) ** (k / rounds) for k in range(1, rounds + 1)]


def _linear(sparsity: float, rounds: int) -> list[float]:
    """Density after round k of n is 1 - s*k/n."""
    return [sparsity * k / rounds for k in range(1, rounds + 1)]


SCHEDULES: dict[str, Callable[[float, int], list[float]]] = {
    "one-shot": _one_shot,
    "exponential": _exponential,
    "linear": _linear,
}


def schedule(name: str, sparsity: float, rounds: int) -> list[float]:
    """The sparsity after each round; after the last one it is exactly the one asked.

    >>> [round(s, 3) for s in schedule("exponential", 0.9, 2)]
    [0.684, 0.9]
    """
    check_name("schedule", name, SCHEDULES)
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise DisbudError(f"rounds is a whole number of at least 1, not {rounds!r}")
    return [*SCHEDULES[name](check_sparsity(sparsity), rounds)[:-1], sparsity]
