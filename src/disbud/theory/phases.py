"""The phase of an initialisation: what becomes of signals, correlations and gradients far into the network."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from disbud.errors import DisbudError
from disbud.theory.activations import Activation, ActivationLike, activation
from disbud.theory.closed import Rectifier
from disbud.theory.fixed_points import fixed_points
from disbud.theory.maps import check_sigmas, next_gap
from disbud.theory.moments import second_moment, slope_moment, slope_product

# |log chi| below which an initialisation is on the edge of chaos.
EDGE = 1e-6


@dataclass(frozen=True)
class Phase:
    """Where (sigma_w, sigma_b) lies: "ordered" (chi < 1), "edge" (chi = 1) or "chaotic" (chi > 1).

    `q` is the variance that signals flow to; it may be 0 or infinite. `correlation` is the stable fixed point of the
    correlation map, NaN where every correlation stays. `correlation_depth` (xi_c) and `gradient_depth` (xi_grad) are
    the layers over which the distance to it, and the gradient's second moment, change by a factor e (Schoenholz et
    al. 2017); infinite where they do so more slowly than any exponential.

    >>> from disbud import theory
    >>> print(theory.phase("erf", sigma_w=2.0))
    erf with sigma_w = 2, sigma_b = 0: chaotic, chi = 1.532, q = 2.511, c = 0, xi_c = 5.962, xi_grad = 2.343
    """

    activation: str
    sigma_w: float
    sigma_b: float
    q: float
    chi: float
    name: str
    correlation: float
    correlation_depth: float
    gradient_depth: float

    def __str__(self) -> str:
        return (
            f"{self.activation} with sigma_w = {self.sigma_w:.4g}, sigma_b = {self.sigma_b:.4g}: {self.name}, "
            f"chi = {self.chi:.4g}, q = {self.q:.4g}, c = {self.correlation:.4g}, "
            f"xi_c = {self.correlation_depth:.4g}, xi_grad = {self.gradient_depth:.4g}"
        )


def phase(like: ActivationLike, *, sigma_w: float, sigma_b: float = 0.0, start: float = 1.0) -> Phase:
    """The phase of weights N(0, sw^2 / fan_in) and biases N(0, sb^2), for signals of variance `start` at first.

    chi = sw^2 E[phi'(sqrt(q) Z)^2] at the fixed point q they flow to; xi_grad = 1 / |log chi|;
    xi_c = -1 / log C'(c) at the fixed point c of the correlation map. Bias-free ReLU nets have |log chi| = |log sw^2/2|
    and yet an infinite xi_c whatever sw is: only their scale changes with depth.

    >>> from disbud import theory
    >>> theory.phase("relu", sigma_w=1.0).name, theory.phase("relu", sigma_w=1.0).correlation_depth
    ('ordered', inf)
    """
    phi, biases = activation(like), sigma_b
    check_sigmas(sigma_w, sigma_b)
    if not (0 < start < math.inf):
        raise DisbudError(f"start is the variance of the first signals, above 0, not {start!r}")
    q = fixed_points(phi, sigma_w=sigma_w, sigma_b=sigma_b).reached(start)
    if not 0 < q < math.inf:
        # Signals that vanish or diverge meet a function of two slopes, and leave the biases behind.
        phi, sigma_b = _two_sloped(phi, q), 0.0
        if phi.closed is None:
            return Phase(phi.name, sigma_w, biases, q, math.inf, "chaotic", math.nan, math.nan, 0.0)
    at = q if 0 < q < math.inf else 1.0
    chi = sigma_w**2 * float(slope_moment(phi, np.array([at]))[0])
    name = "edge" if _is_one(chi) else "ordered" if chi < 1 else "chaotic"
    gap = correlation_gap(phi, at, sigma_w, sigma_b) if chi > 1e-30 else math.nan
    slope = 1.0 if math.isnan(gap) else _slope(phi, at, gap, sigma_w, sigma_b)
    depths = _depth(slope), math.inf if name == "edge" else _depth(chi)
    return Phase(activation(like).name, sigma_w, biases, q, chi, name, 1 - gap, *depths)


def _two_sloped(phi: Activation, q: float) -> Activation:
    """What phi comes to at very small or very large variances, by its slopes there; itself where they are infinite."""
    far = 1e-100 if q == 0 else 1e10
    below, above = (float(slope) for slope in phi.derivative(np.array([-far, far])))
    nearer = phi.derivative(np.array([-1e5, 1e5]))
    if q > 0 and max(abs(below), abs(above)) > 2 * np.abs(nearer).max():
        return phi
    return Activation(phi.name, phi.function, phi.derivative, (), Rectifier(below, above))


def correlation_gap(phi: Activation, q: float, sigma_w: float, sigma_b: float) -> float:
    """1 - c at the stable fixed point c of the correlation map; NaN where every correlation is fixed.

    The map is a power series in c without negative coefficients (Hermite expansion), hence convex on [0, 1]: where its
    slope at 1 is at most 1, the fixed point is 1; else there is exactly one in [0, 1).
    """

    def excess(gap: float) -> float:
        return next_gap(phi, q, gap, sigma_w=sigma_w, sigma_b=sigma_b) / gap - 1

    at_zero = excess(1.0)
    if abs(at_zero) < 1e-12 and abs(excess(0.5)) < 1e-12:
        return math.nan
    slope = _slope(phi, q, 0.0, sigma_w, sigma_b)
    if slope < 1 or _is_one(slope):
        return 0.0
    if at_zero > -1e-12:
        return 1.0
    low = -1.0
    while excess(math.exp(low)) < 0:
        low -= 2
    return math.exp(float(optimize.brentq(lambda log_gap: excess(math.exp(log_gap)), low, 0.0, xtol=1e-11)))


def _slope(phi: Activation, q: float, gap: float, sigma_w: float, sigma_b: float) -> float:
    """C'(1 - gap)."""
    variance = sigma_b**2 + sigma_w**2 * float(second_moment(phi, np.array([q]))[0])
    return sigma_w**2 * slope_product(phi, q, gap) * q / variance


def _is_one(factor: float) -> bool:
    return factor > 0 and abs(math.log(factor)) <= EDGE


def _depth(factor: float) -> float:
    if factor == 0:
        return 0.0
    return math.inf if _is_one(factor) else 1 / abs(math.log(abs(factor)))
