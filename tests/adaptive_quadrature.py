"""Expectations under a normal distribution by scipy's adaptive rule, beside which tests of theory hold their own."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from scipy import integrate


def quad(function, q: float, kinks: tuple[float, ...] = ()) -> float:
    """E[f(sqrt(q) Z)] by scipy's adaptive rule between the kinks."""
    cuts = sorted({-12.0, 0.0, 12.0, *(k / math.sqrt(q) for k in kinks if abs(k) < 12 * math.sqrt(q))})

    def weighted(z: float) -> float:
        value = float(function(np.array([math.sqrt(q) * z]))[0])
        return value * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    return sum(
        integrate.quad(weighted, low, high, epsabs=1e-14, epsrel=1e-13, limit=400)[0]
        for low, high in pairwise(cuts)
    )
