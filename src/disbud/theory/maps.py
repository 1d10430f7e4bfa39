"""The mean-field maps: how a layer changes the variance of its pre-activations and the correlation of two inputs.

y_l = W_l phi(y_(l-1)) + b_l with W ~ N(0, sw^2 / fan_in) and b ~ N(0, sb^2) (Poole et al. 2016; Schoenholz et al.
2017). A convolution, fan_in = input channels a group x kernel, has the same maps away from its borders, where padding
with zeros takes fan-in away (Xiao et al. 2018).
"""

from __future__ import annotations

import math

import numpy as np

from disbud.errors import DisbudError
from disbud.theory.activations import Activation, ActivationLike, activation
from disbud.theory.moments import (
    TINY,
    growth,
    half_difference,
    second_moment,
    slope_moment,
    slope_product,
)


def variance_map(like: ActivationLike, q: float, *, sigma_w: float, sigma_b: float = 0.0) -> float:
    """V(q) = sb^2 + sw^2 E[phi(sqrt(q) Z)^2], the next layer's variance (Poole et al. 2016, eq. 3).

    >>> from disbud import theory
    >>> theory.variance_map("relu", 0.5, sigma_w=2.0, sigma_b=1.0)
    2.0
    """
    phi, q = activation(like), checked_variance(q)
    check_sigmas(sigma_w, sigma_b)
    return sigma_b**2 + sigma_w**2 * float(second_moment(phi, _one(q))[0])


def variance_slope(like: ActivationLike, q: float, *, sigma_w: float) -> float:
    """V'(q) = sw^2 E[x phi(x) phi'(x)] / q at x = sqrt(q) Z: below 1 at a fixed point, variances return to it.

    >>> from disbud import theory
    >>> round(theory.variance_slope("relu", 3.0, sigma_w=1.0), 9)
    0.5
    """
    phi, q = activation(like), checked_variance(q)
    check_sigmas(sigma_w, 0.0)
    return sigma_w**2 * float(growth(phi, _one(q))[0])


def chi(like: ActivationLike, q: float, *, sigma_w: float) -> float:
    """sw^2 E[phi'(sqrt(q) Z)^2]: the factor by which one layer multiplies the gradient's second moment.

    It is also the slope at c = 1 of the correlation map at a fixed point q (Schoenholz et al. 2017, eq. 5).

    >>> from disbud import theory
    >>> theory.chi("relu", 0.5, sigma_w=2.0)
    2.0
    """
    phi, q = activation(like), checked_variance(q)
    check_sigmas(sigma_w, 0.0)
    return sigma_w**2 * float(slope_moment(phi, _one(q))[0])


def correlation_map(
    like: ActivationLike, c: float, *, q: float, sigma_w: float, sigma_b: float = 0.0
) -> float:
    """C(c) = (sb^2 + sw^2 E[phi(u1) phi(u2)]) / V(q), of two inputs of variance q and correlation c.

    u1 and u2 are Gaussian with that variance and correlation (Poole et al. 2016, eq. 6; V(q) = q at a fixed point).
    It is computed as 1 - sw^2 E[(phi(u1) - phi(u2))^2] / (2 V(q)), so that what is left to 1 keeps its digits.

    >>> from disbud import theory
    >>> round(theory.correlation_map("relu", 0.0, q=1.0, sigma_w=1.0), 6)  # 1 / pi
    0.31831
    """
    if not -1 <= c <= 1:
        raise DisbudError(f"a correlation lies between -1 and 1, not {c!r}")
    check_sigmas(sigma_w, sigma_b)
    gap = next_gap(activation(like), checked_variance(q), 1 - c, sigma_w=sigma_w, sigma_b=sigma_b)
    return 1 - gap


def correlation_slope(
    like: ActivationLike, c: float, *, q: float, sigma_w: float, sigma_b: float = 0.0
) -> float:
    """C'(c) = sw^2 E[phi'(u1) phi'(u2)] q / V(q), the slope of the correlation map.

    >>> from disbud import theory
    >>> theory.correlation_slope("relu", 1.0, q=1.0, sigma_w=2.0)
    1.0
    """
    if not -1 <= c <= 1:
        raise DisbudError(f"a correlation lies between -1 and 1, not {c!r}")
    check_sigmas(sigma_w, sigma_b)
    phi, q = activation(like), checked_variance(q)
    variance = _positive_variance(phi, q, sigma_w, sigma_b)
    return sigma_w**2 * slope_product(phi, q, 1 - c) * q / variance


def next_gap(phi: Activation, q: float, gap: float, *, sigma_w: float, sigma_b: float) -> float:
    """1 - C(1 - gap): the correlation map on distances from 1."""
    return sigma_w**2 * half_difference(phi, q, gap) / _positive_variance(phi, q, sigma_w, sigma_b)


def checked_variance(q: float) -> float:
    """The variance, 0 as the limit from above, where every formula still has its value."""
    if not (0 <= q < math.inf):
        raise DisbudError(f"a variance is a finite number of at least 0, not {q!r}")
    return max(float(q), TINY)


def check_sigmas(sigma_w: float, sigma_b: float) -> None:
    """Raise unless sigma_w is positive and sigma_b is not negative, both finite."""
    if not (0 < sigma_w < math.inf):
        raise DisbudError(f"sigma_w, the weights' deviation times sqrt(fan_in), is above 0, not {sigma_w!r}")
    if not (0 <= sigma_b < math.inf):
        raise DisbudError(f"sigma_b, the biases' deviation, is at least 0, not {sigma_b!r}")


def _positive_variance(phi: Activation, q: float, sigma_w: float, sigma_b: float) -> float:
    variance = sigma_b**2 + sigma_w**2 * float(second_moment(phi, _one(q))[0])
    if variance == 0:
        raise DisbudError(f"{phi.name} is 0 wherever signals of variance {q:g} lie: they have no correlation")
    return variance


def _one(q: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([q], dtype=np.float64)
