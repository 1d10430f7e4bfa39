"""Statements of each kind, runs by seed, and differences of a known interval: what tests of claims judge."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from disbud import claims
from disbud.claims import Verdict

SUPPORTED, CONTRADICTED, UNDECIDED = Verdict.SUPPORTED, Verdict.CONTRADICTED, Verdict.UNDECIDED
D = claims.Margin(0.005)
STATEMENTS = [
    claims.Same("a", "b"),
    claims.AtLeast("a", "b"),
    claims.LosesAtMost("a", "b", 0.01),
    claims.Beats("a", "b"),
    claims.BeatsBy("a", "b", 0.01),
]


def runs(*values: float, start: int = 0) -> dict[int, float]:
    return dict(enumerate(values, start))


def around(mean: float, half: float, n: int, level: float) -> claims.Pairs:
    """n differences whose t interval at that level is mean -+ half, by scipy."""
    values = np.linspace(-1, 1, n)
    values *= half / (stats.t.ppf((1 + level) / 2, n - 1) * stats.sem(values))
    return claims.Pairs(tuple(range(n)), tuple((mean + values).tolist()))


def error(rate: float, runs: int) -> float:
    """Three and a half standard errors of a simulated rate."""
    return 3.5 * math.sqrt(rate * (1 - rate) / runs)
