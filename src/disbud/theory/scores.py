"""The laws of pruning scores at initialisation: |Z1 Z2| of sensitivities, |Z| of magnitudes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]

# Scores from 1e-30 to 700 carry all but 1e-28 of either law.
LOG_GRID = np.linspace(np.log(1e-30), np.log(700.0), 20001)


def log_survival(law: str, log_x: Array) -> Array:
    """log P(score > x), of "sensitivity" or "magnitude"."""
    return np.asarray(np.interp(log_x, LOG_GRID, _tables(law)[0]))


def log_distribution(law: str, log_x: Array) -> Array:
    """log P(score <= x)."""
    return np.asarray(np.interp(log_x, LOG_GRID, _tables(law)[1]))


def log_quantile(law: str, log_survivals: Array) -> Array:
    """log x with log P(score > x) as given."""
    return np.asarray(np.interp(-log_survivals, -_tables(law)[0], LOG_GRID))


@lru_cache(maxsize=2)
def _tables(law: str) -> tuple[Array, Array]:
    x = np.exp(LOG_GRID)
    if law == "magnitude":
        return special.log_ndtr(-x) + np.log(2), np.log(special.erf(x / np.sqrt(2)))
    # |Z1 Z2| has density (2 / pi) K0(x). P(> x) = (2 / pi) int_0^inf exp(-x cosh t) / cosh t dt, where the trapezoid
    # rule converges geometrically; near 0, P(<= x) = (2 / pi) x (1 + log 2 - gamma - log x) up to O(x^3 log x).
    step = 0.2
    survival = np.zeros_like(x)
    for t in np.arange(step / 2, 40.0, step):
        survival += np.exp(-x * (np.cosh(t) - 1)) / np.cosh(t)
    below = 2 / np.pi * x * (1 + np.log(2) - np.euler_gamma - LOG_GRID)
    near = x < 1e-4
    log_survival = np.where(
        near, np.log1p(-np.where(near, below, 0)), np.log(2 / np.pi * step * survival) - x
    )
    distribution = np.where(near, np.log(below, where=near, out=np.zeros_like(x)), 0.0)
    distribution[~near] = np.log1p(-np.exp(log_survival[~near]))
    return log_survival, distribution
