"""The Gaussian moments of an activation that the maps are made of: closed forms where known, else quadrature."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from disbud.theory.activations import Activation
from disbud.theory.gaussian import expectation, pair_expectation

Array = NDArray[np.float64]

# The limit q -> 0, where only the slopes on either side of 0 matter.
TINY = 1e-200


def second_moment(phi: Activation, q: Array) -> Array:
    """E[phi(sqrt(q) Z)^2]."""
    if phi.closed is not None:
        return phi.closed.second(q)
    return expectation(lambda x: phi.function(x) ** 2, q, phi.kinks)


def slope_moment(phi: Activation, q: Array) -> Array:
    """E[phi'(sqrt(q) Z)^2]."""
    if phi.closed is not None:
        return phi.closed.slope(q)
    return expectation(lambda x: phi.derivative(x) ** 2, q, phi.kinks)


def growth(phi: Activation, q: Array) -> Array:
    """d/dq E[phi(sqrt(q) Z)^2] = E[x phi(x) phi'(x)] / q at x = sqrt(q) Z: no second derivative, so kinks are fine."""
    return expectation(lambda x: x * phi.function(x) * phi.derivative(x), q, phi.kinks) / q


def product_moment(phi: Activation, q: float, gap: float) -> float:
    """E[phi(u1) phi(u2)] at variance q and correlation 1 - gap."""
    if phi.closed is not None:
        return phi.closed.product(q, gap)
    return pair_expectation(lambda x, y: phi.function(x) * phi.function(y), q, gap, phi.kinks)


def slope_product(phi: Activation, q: float, gap: float) -> float:
    """E[phi'(u1) phi'(u2)] at variance q and correlation 1 - gap."""
    if phi.closed is not None:
        return phi.closed.slopes(q, gap)
    return pair_expectation(lambda x, y: phi.derivative(x) * phi.derivative(y), q, gap, phi.kinks)


def half_difference(phi: Activation, q: float, gap: float) -> float:
    """E[(phi(u1) - phi(u2))^2] / 2 = E[phi(u1)^2] - E[phi(u1) phi(u2)], exact in relative terms as gap nears 0."""
    if phi.closed is not None:
        return phi.closed.half_difference(q, gap)
    return pair_expectation(lambda x, y: (phi.function(x) - phi.function(y)) ** 2, q, gap, phi.kinks) / 2
