"""A verdict is read off intervals: where an interval must lie to support a statement, and where to contradict it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from disbud.claims.holm import ALPHA
from disbud.claims.student import Array, p_above, p_below


class Verdict(StrEnum):
    """What is found of a claim.

    `SUPPORTED` and `CONTRADICTED` are shown at 5 %; `UNDECIDED` needs more seeds; `UNINFORMATIVE` would not be helped
    by them, since in this setting not even a positive control is worse by more than the margin.

    >>> from disbud import claims
    >>> [str(verdict) for verdict in claims.Verdict]
    ['supported', 'contradicted', 'undecided', 'uninformative']
    """

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"
    UNINFORMATIVE = "uninformative"


@dataclass(frozen=True)
class Rule:
    """Where intervals must lie for a statement to be supported, and to be contradicted.

    Supported: the interval at `support_level` lies inside (above, below). Contradicted: the interval at
    `contradiction_level` lies wholly under `falls_under`, or wholly over `rises_over`.

    >>> from disbud import claims
    >>> rule = claims.Beats("npb", "snip").rule(0.005)
    >>> rule.support_level, rule.above, rule.falls_under
    (0.95, 0.0, 0.005)
    """

    support_level: float
    above: float
    below: float
    contradiction_level: float
    falls_under: float
    rises_over: float = math.inf

    def supported(self, low: Array, high: Array) -> NDArray[np.bool_]:
        """Whether the interval at the level of support supports."""
        return (low > self.above) & (high < self.below)

    def contradicted(self, low: Array, high: Array) -> NDArray[np.bool_]:
        """Whether the interval at the level of contradiction contradicts."""
        return (high < self.falls_under) | (low > self.rises_over)

    def p_supported(self, values: Array) -> Array:
        """The larger one-sided p of both sides, which is what two one-sided tests come to."""
        return np.maximum(p_above(values, self.above), p_below(values, self.below))

    def p_contradicted(self, values: Array) -> Array:
        """The smaller one-sided p of both sides."""
        return np.minimum(p_below(values, self.falls_under), p_above(values, self.rises_over))

    def level_for(self, estimate: float) -> float:
        """The level of the interval to show: that by which a mean where this one lies could be decided."""
        outside = estimate < min(self.falls_under, self.above) or estimate > self.rises_over
        return self.contradiction_level if outside else self.support_level


def sides(level: float) -> float:
    """What a one-sided p is multiplied by, so that .05 decides at this level: 1 for 90 %, 2 for 95 %."""
    return round(2 * ALPHA / (1 - level), 9)
