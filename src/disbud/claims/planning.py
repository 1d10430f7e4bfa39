"""How many seeds a decision needs: the power of a rule, at the mean and the spread seen so far."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.polynomial import legendre
from scipy import stats

from disbud.claims.rules import Rule
from disbud.claims.sequential import Looks
from disbud.claims.student import Array

POWER = 0.8
MOST_SEEDS = 10_000


def chance_of_decision(
    rule: Rule, n: int, *, mean: float, deviation: float, looks: Looks | None = None
) -> float:
    """P(n normal pairs of that mean and standard deviation support or contradict), at one look.

    The mean given s is normal, and (n-1) s^2 / deviation^2 is chi-squared with n - 1 degrees of freedom; integrated
    over the latter's quantiles (Phillips 1990, for two one-sided tests).

    >>> from disbud import claims
    >>> rule = claims.Same("shuffle", "none").rule(0.005)
    >>> round(claims.chance_of_decision(rule, 10, mean=0.0, deviation=0.005), 2)
    0.8
    """
    levels = [
        looks.level_a_look(lv) if looks else lv for lv in (rule.support_level, rule.contradiction_level)
    ]
    if deviation == 0:
        at = np.array(mean)
        shown = [2.0 ** (1 - n) <= 1 - level for level in levels]
        return float((shown[0] and rule.supported(at, at)) or (shown[1] and rule.contradicted(at, at)))
    quantiles, weights = _quantiles(n)
    error = deviation / math.sqrt(n)
    wide, wider = (stats.t.ppf((1 + level) / 2, n - 1) * error * quantiles for level in levels)

    def inside(low: float, high: float, half: Array) -> float:
        """P(low < lower bound and upper bound < high)."""
        chance = stats.norm.cdf((high - half - mean) / error) - stats.norm.cdf((low + half - mean) / error)
        return float(weights @ np.maximum(chance, 0.0))

    # A bound may both support and contradict (Beats by less than the margin): counted once.
    both = (
        inside(rule.above, min(rule.below, rule.falls_under), wide) if rule.falls_under > rule.above else 0.0
    )
    contradicts = inside(-math.inf, rule.falls_under, wider) + inside(rule.rises_over, math.inf, wider)
    return inside(rule.above, rule.below, wide) + contradicts - both


def seeds_for_decision(
    rule: Rule, n: int, *, mean: float, deviation: float, looks: Looks | None = None, power: float = POWER
) -> int | None:
    """The least number of seeds, more than n, that decides with that power; None where none within reach does.

    >>> from disbud import claims
    >>> rule = claims.Same("shuffle", "none").rule(0.005)
    >>> claims.seeds_for_decision(rule, 1, mean=0.0, deviation=0.007)
    19
    """

    def enough(seeds: int) -> bool:
        return chance_of_decision(rule, seeds, mean=mean, deviation=deviation, looks=looks) >= power

    if looks is not None:
        return next((look for look in looks.seeds if look > n and enough(look)), None)
    low, high = n, max(2 * n, 4)
    while not enough(high):
        if high >= MOST_SEEDS:
            return None
        low, high = high, min(2 * high, MOST_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


@lru_cache(maxsize=256)
def _quantiles(n: int, points: int = 80) -> tuple[Array, Array]:
    """Quantiles of s / sigma of n pairs at Legendre's nodes on (0, 1), and their weights."""
    nodes, weights = legendre.leggauss(points)
    quantiles = np.sqrt(stats.chi2.ppf((1 + nodes) / 2, n - 1) / (n - 1))
    return np.asarray(quantiles), np.asarray(weights / 2)
