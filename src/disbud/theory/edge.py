"""The edge of chaos: the initialisations that neither blow gradients up nor let them vanish, chi = 1."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from disbud.errors import DisbudError
from disbud.theory.activations import Activation, ActivationLike, activation
from disbud.theory.fixed_points import GRID, ROUNDING, roots, table, vanishes
from disbud.theory.maps import check_sigmas, variance_slope
from disbud.theory.moments import TINY, growth, second_moment, slope_moment


@dataclass(frozen=True)
class EdgeOfChaos:
    """A point (sigma_w, sigma_b) of chi = 1 and the variance q it holds.

    `variance_slope` is V'(q): where it is above 1 the point is not `stable`, and variances leave q with depth (GELU and
    SiLU with small biases). `every_q` where each variance is held (ReLU, leaky ReLU, linear); `q` is 1 then.

    >>> from disbud import theory
    >>> print(theory.edge_of_chaos("relu"))
    relu: sigma_w = 1.414214, sigma_b = 0, any q
    """

    activation: str
    sigma_w: float
    sigma_b: float
    q: float
    chi: float
    variance_slope: float
    stable: bool
    every_q: bool = False

    def __str__(self) -> str:
        q = "any q" if self.every_q else f"q = {self.q:.6g}{'' if self.stable else ', not stable'}"
        return f"{self.activation}: sigma_w = {self.sigma_w:.7g}, sigma_b = {self.sigma_b:.7g}, {q}"


def edge_of_chaos(like: ActivationLike, sigma_b: float = 0.0) -> EdgeOfChaos:
    """The sigma_w that puts the activation on the edge of chaos with biases N(0, sigma_b^2).

    chi = 1 and q = V(q) give sw^2 = 1 / E[phi'^2] and sb^2 = q - E[phi^2] / E[phi'^2], both at x = sqrt(q) Z: one
    equation for q (after Hayou et al. 2019, "On the impact of the activation function"). Of several solutions the
    stable one with the smallest q is returned. Where there is none, as for ReLU with biases, that is an error.

    >>> from disbud import theory
    >>> edge = theory.edge_of_chaos("tanh", 0.2)
    >>> round(edge.sigma_w, 4), round(edge.q, 3)
    (1.3041, 0.512)
    """
    phi = activation(like)
    check_sigmas(1.0, sigma_b)
    second, slopes = table(phi)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        squares = GRID - second / slopes
    if not sigma_b and np.abs(squares / GRID).max() < ROUNDING:
        return _edge(phi, 0.0, 1.0, every=True)

    def excess(log_q: float) -> float:
        q = math.exp(log_q)
        slope = float(slope_moment(phi, np.array([q]))[0])
        return (q - sigma_b**2 - float(second_moment(phi, np.array([q]))[0]) / slope) / q

    usable = slopes > 1e-200
    values = np.where(usable, (squares - sigma_b**2) / GRID, -1.0)
    at = [0.0] if not sigma_b and vanishes(phi) and _sloped_at_zero(phi) else []
    found = [_edge(phi, sigma_b, q) for q in at + roots(excess, values)]
    if not found:
        raise DisbudError(_none(phi, sigma_b, squares[usable & (squares > 1e-9 * GRID)]))
    return next((edge for edge in found if edge.stable), found[0])


def least_stable_biases(like: ActivationLike) -> float | None:
    """About the smallest sigma_b whose edge of chaos is stable, to two decimals; None where there is none."""
    phi = activation(like)
    within = GRID[(GRID > 1e-10) & (GRID < 1e8)]
    slopes = slope_moment(phi, within)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        squares = within - second_moment(phi, within) / slopes
        stable = growth(phi, within) / slopes < 1 - ROUNDING
    found = squares[(squares >= 0) & stable]
    return math.ceil(100 * math.sqrt(float(found.min()))) / 100 if len(found) else None


def _edge(phi: Activation, sigma_b: float, q: float, *, every: bool = False) -> EdgeOfChaos:
    at = max(q, TINY)
    sigma_w = 1 / math.sqrt(float(slope_moment(phi, np.array([at]))[0]))
    slope = variance_slope(phi, at, sigma_w=sigma_w)
    chi = sigma_w**2 * float(slope_moment(phi, np.array([at]))[0])
    stable = every or slope < 1
    if q == 0:
        # The slope is 1: what counts is whether small variances shrink.
        changes = sigma_w**2 * table(phi)[0] / GRID - 1
        clear = changes[np.abs(changes) > ROUNDING]
        stable = not len(clear) or clear[0] < 0
    return EdgeOfChaos(phi.name, sigma_w, sigma_b, q, chi, slope, bool(stable), every)


def _sloped_at_zero(phi: Activation) -> bool:
    return float(slope_moment(phi, np.array([TINY]))[0]) > 0


def _none(phi: Activation, sigma_b: float, squares: np.ndarray[tuple[int], np.dtype[np.float64]]) -> str:
    asked = f"{phi.name} has no edge of chaos at sigma_b = {sigma_b:g}"
    if len(squares):
        return f"{asked}; it has one up to sigma_b = {math.sqrt(float(squares.max())):.4g}"
    if sigma_b and vanishes(phi) and _sloped_at_zero(phi):
        return f"{asked}: where chi = 1, biases make the variance grow without end; take sigma_b = 0"
    return f"{asked}: no variance that its map holds has chi = 1, whatever the biases"
