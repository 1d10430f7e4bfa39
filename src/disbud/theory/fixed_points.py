"""Where the variance map stands still, and which of those points signals flow to."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from disbud.theory.activations import Activation, ActivationLike, activation
from disbud.theory.maps import check_sigmas, variance_map, variance_slope
from disbud.theory.moments import second_moment, slope_moment

Array = NDArray[np.float64]

# The variances among which fixed points are sought, and how large a relative change is no rounding error.
GRID = np.logspace(-20, 12, 641)
ROUNDING = 1e-12
_MARGINAL = 1e-8


@dataclass(frozen=True)
class FixedPoint:
    """A variance q = V(q), the slope V'(q) there, and its stability: "stable", "unstable" or "marginal".

    A marginal point, of slope 1 or -1, counts as stable where variances on every side of it still come back to it.

    >>> from disbud import theory
    >>> (point,) = theory.fixed_points("erf", sigma_w=1.0, sigma_b=0.5).points
    >>> point.stability, round(point.q, 4)
    ('stable', 0.625)
    """

    q: float
    slope: float
    stability: str


@dataclass(frozen=True)
class FixedPoints:
    """All fixed points of a variance map, in order; `every` where it leaves each variance as it is.

    `grows` says of the variances below the first point above 0, between two, and above the last, whether V(q) > q.

    >>> from disbud import theory
    >>> points = theory.fixed_points("gelu", sigma_w=1.7)  # variances shrink to 0, or from an unstable point diverge
    >>> [point.stability for point in points.points], points.reached(0.1), points.reached(1.0)
    (['stable', 'unstable'], 0.0, inf)
    """

    points: tuple[FixedPoint, ...]
    every: bool
    grows: tuple[bool, ...]

    def reached(self, start: float) -> float:
        """The fixed point that variances from `start` > 0 flow to: 0 or infinite where they vanish or diverge.

        For maps that grow with q, as those of all named activations do: such a map steps over no fixed point.
        """
        known = [point.q for point in self.points if point.q > 0]
        at = next((q for q in known if math.isclose(q, start, rel_tol=1e-9)), None)
        if self.every or at is not None:
            return start if at is None else at
        above = bisect.bisect(known, start)
        if self.grows[above]:
            return known[above] if above < len(known) else math.inf
        return known[above - 1] if above else 0.0


def fixed_points(like: ActivationLike, *, sigma_w: float, sigma_b: float = 0.0) -> FixedPoints:
    """The fixed points q = sb^2 + sw^2 E[phi(sqrt(q) Z)^2] from 1e-20 to 1e12, and 0 where phi(0) = sb = 0.

    There may be none (ReLU with biases and sw^2 >= 2), one (tanh), several (GELU), or every q may be one (ReLU without
    biases at sw^2 = 2).

    >>> from disbud import theory
    >>> theory.fixed_points("relu", sigma_w=1.5, sigma_b=0.1).points
    ()
    >>> theory.fixed_points("relu", sigma_w=2**0.5).every
    True
    """
    phi = activation(like)
    check_sigmas(sigma_w, sigma_b)

    def change(q: float) -> float:
        return variance_map(phi, q, sigma_w=sigma_w, sigma_b=sigma_b) / q - 1

    changes = (sigma_b**2 + sigma_w**2 * table(phi)[0]) / GRID - 1
    if np.abs(changes).max() < ROUNDING:
        return FixedPoints((), True, ())
    at = [] if sigma_b or not vanishes(phi) else [0.0]
    at += roots(lambda log_q: change(math.exp(log_q)), changes)
    found = []
    for q in at:
        slope = variance_slope(phi, q, sigma_w=sigma_w)
        found.append(FixedPoint(q, slope, _stability(q, slope, changes)))
    above_zero = [q for q in at if q > 0]
    borders = [above_zero[0] * 1e-3, *above_zero, above_zero[-1] * 1e3] if above_zero else []
    between = [math.sqrt(low * high) for low, high in pairwise(borders)] or [_clearest(changes)]
    return FixedPoints(tuple(found), False, tuple(change(q) > 0 for q in between))


@lru_cache(maxsize=64)
def table(phi: Activation) -> tuple[Array, Array]:
    """E[phi^2] and E[phi'^2] at the variances of the grid."""
    return second_moment(phi, GRID), slope_moment(phi, GRID)


def vanishes(phi: Activation) -> bool:
    """Whether phi(0) = 0."""
    return bool(phi.function(np.zeros(1))[0] == 0)


def roots(function: Callable[[float], float], values: Array) -> list[float]:
    """The zeros of a function of log q whose values on the grid are known, as values of q.

    Where it comes near zero between grid points without a change of sign, the nearest value is looked at too.
    """
    at = np.flatnonzero(np.abs(values) > ROUNDING)
    grid, values = np.log(GRID[at]), values[at]
    brackets = [(grid[i], grid[i + 1]) for i in np.flatnonzero(values[:-1] * values[1:] < 0)]
    sizes = np.abs(values)
    touching: list[float] = []
    for i in range(1, len(at) - 1):
        same = values[i - 1] * values[i] > 0 and values[i] * values[i + 1] > 0
        if not same or not sizes[i] < min(sizes[i - 1], sizes[i + 1]) or sizes[i] > 0.05:
            continue
        low, high = float(grid[i - 1]), float(grid[i + 1])
        sign = float(np.sign(values[i]))
        best = optimize.minimize_scalar(
            lambda log_q, sign=sign: sign * function(log_q),
            bounds=(low, high),
            method="bounded",
            options={"xatol": 1e-10},
        )
        if best.fun < -ROUNDING:
            brackets += [(low, float(best.x)), (float(best.x), high)]
        elif best.fun < ROUNDING:
            touching.append(float(best.x))
    found = [float(optimize.brentq(function, low, high, xtol=1e-15, rtol=1e-14)) for low, high in brackets]
    return sorted(math.exp(log_q) for log_q in found + touching)


def _clearest(changes: Array) -> float:
    """The variance that the map changes most, relative to itself."""
    return float(GRID[np.argmax(np.abs(changes))])


def _stability(q: float, slope: float, changes: Array) -> str:
    """From the slope; where that is 1, from whether the variances beside the point come back to it."""
    if abs(abs(slope) - 1) > _MARGINAL:
        return "stable" if abs(slope) < 1 else "unstable"
    clear = np.abs(changes) > ROUNDING
    above, below = changes[clear & (q * 1.01 < GRID)], changes[clear & (q / 1.01 > GRID)]
    returns = (not len(above) or above[0] < 0, not len(below) or below[-1] > 0)
    if all(returns):
        return "stable"
    return "marginal" if any(returns) and q > 0 else "unstable"
