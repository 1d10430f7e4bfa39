"""Student's t on paired differences, along the last axis of an array: bounds and one-sided p-values.

Differences that are all equal have no spread to estimate, and t would be certain after two pairs. The sign test is used
instead, which assumes nothing: n equal differences all lie above a bound by chance in 2^-n at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from disbud.errors import DisbudError

Array = NDArray[np.float64]
Values = Sequence[float] | Array


def checked(differences: Values, *, at_least: int = 2) -> Array:
    """The differences as an array, if they are finite and enough."""
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1:
        raise DisbudError(
            f"differences are one row of numbers, one a seed, not an array of shape {values.shape}"
        )
    if len(values) < at_least:
        raise DisbudError(f"{len(values)} paired differences given; at least {at_least} are needed here")
    if not np.isfinite(values).all():
        raise DisbudError(
            f"{(~np.isfinite(values)).sum()} of {len(values)} differences are not finite; leaving diverged runs out"
            " would favour what diverges, so say what they count as: paired(..., diverged=0.1) for guessing"
        )
    return values


def check_level(level: float) -> None:
    """Raise unless the level of an interval lies between 0.5 and 1."""
    if not 0.5 <= level < 1:
        raise DisbudError(f"level is an interval's coverage, from 0.5 to below 1, as 0.95, not {level!r}")


def summary(values: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
    """The mean, its standard error, and whether all values are equal (to rounding)."""
    mean = values.mean(-1)
    error = values.std(-1, ddof=1) / math.sqrt(values.shape[-1])
    equal = np.ptp(values, axis=-1) <= 1e-12 * np.abs(values).max(-1)
    return np.asarray(mean), np.asarray(np.where(equal, 0.0, error)), np.asarray(equal)


def t_bounds(values: Array, level: float) -> tuple[Array, Array]:
    """Mean -+ t_(n-1, (1+level)/2) s / sqrt(n); for equal values that value, or no bound where n is too small."""
    n = values.shape[-1]
    mean, error, equal = summary(values)
    half = stats.t.ppf((1 + level) / 2, n - 1) * error
    # The interval from the smallest to the largest of n covers the median with 1 - 2^(1-n).
    half = np.where(equal & (2.0 ** (1 - n) > 1 - level), np.inf, half)
    return mean - half, mean + half


def p_above(values: Array, bound: float) -> Array:
    """One-sided p-value of "the mean is at most the bound": small where it lies above."""
    n = values.shape[-1]
    if math.isinf(bound):
        return np.full(values.shape[:-1], 0.0 if bound < 0 else 1.0)
    mean, error, equal = summary(values)
    p = stats.t.sf((mean - bound) / np.where(equal, 1.0, error), n - 1)
    return np.asarray(np.where(equal, np.where(mean > bound, 2.0**-n, 1.0), p))


def p_below(values: Array, bound: float) -> Array:
    """One-sided p-value of "the mean is at least the bound": small where it lies below."""
    return p_above(-values, -bound)
