"""Expectations under Gaussian laws, of one variable and of two correlated ones, to about twelve digits.

Gauss-Hermite quadrature converges slowly at a kink: its error for the slope of ELU moves the edge of chaos by a
hundredth. Here the integral is cut at the kinks, and ever more finely towards them and towards 0, the places where an
activation bends, and each piece is done by Gauss-Legendre. The function may grow no faster than a power.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Function = Callable[[Array], Array]
PairFunction = Callable[[Array, Array], Array]

# Beyond ten standard deviations lies 1e-23 of the mass.
_REACH = 10.0
_COARSE = np.array([-10.0, -6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 10.0])
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_NODES, _WEIGHTS = (_NODES + 1) / 2, _WEIGHTS / 2


def expectation(function: Function, q: Array, kinks: Sequence[float] = ()) -> Array:
    """E[f(sqrt(q) Z)] for each q > 0, Z standard normal; `kinks` are where f or its derivative jumps."""
    scale = np.sqrt(np.asarray(q, dtype=np.float64))[..., None]
    z, weights = _rule(_cuts(_marks(scale.max(), kinks), scale))
    return np.asarray((function(scale * z) * weights).sum(-1))


def pair_expectation(function: PairFunction, q: float, gap: float, kinks: Sequence[float] = ()) -> float:
    """E[f(u1, u2)], u1 and u2 of variance q > 0 and correlation c = 1 - gap.

    In the conditional form u1 = sqrt(q) z1, u2 = c u1 + sqrt(q (1 - c^2)) z2. The inner integral is cut where u2 meets
    a kink. That leaves a function of z1 which bends within r = sqrt(1 - c^2) of the kinks, so the outer one is cut at
    distances r, 2 r, 4 r, ... from them: the error stays the same as c nears 1 or -1. The correlation comes as its
    distance from 1, since 1 - c computed from a c near 1 has lost its digits.
    """
    scale, c = float(np.sqrt(q)), 1 - gap
    r = float(np.sqrt(gap * (2 - gap)))
    if r == 0:
        return float(expectation(lambda x: function(x, c * x), np.array([q]), kinks)[0])
    marks = _marks(scale, kinks)
    outer = np.unique(np.concatenate([_cuts(marks, scale), *_near_kinks(scale, c, r, kinks)]))
    z1, weights1 = _rule(outer)
    u1 = scale * z1
    inner = _cuts(marks - c * u1[:, None], scale * r)
    left, right = inner[:, :-1], inner[:, 1:]
    row, panel = np.nonzero(right > left)
    left, right = left[row, panel], right[row, panel]
    z2 = left[:, None] + (right - left)[:, None] * _NODES
    first = np.broadcast_to(u1[row][:, None], z2.shape)
    values = function(first, c * first + scale * r * z2)
    sums = (right - left) * ((values * _density(z2)) @ _WEIGHTS)
    return float(sums @ weights1[row])


def worst_panel(function: Function, kinks: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """The largest change that halving one piece of the integral of f over [-20, 20] makes, and where that piece lies.

    It is relative to the integral of abs(f). A large one tells of a kink that is not among `kinks`; the pieces end
    where kinks are unlikely, so not at 0.
    """
    inside = [kink for kink in kinks if abs(kink) < 20]
    cuts = np.unique(np.concatenate([np.arange(-20, 20, 0.5) + 0.0123, inside]))
    halved = np.sort(np.concatenate([cuts, (cuts[:-1] + cuts[1:]) / 2]))

    def panels(edges: Array, of: Function) -> Array:
        widths = np.diff(edges)
        return widths * (of(edges[:-1, None] + widths[:, None] * _NODES) @ _WEIGHTS)

    total = float(panels(cuts, lambda x: np.abs(function(x))).sum())
    change = np.abs(panels(cuts, function) - panels(halved, function).reshape(-1, 2).sum(1))
    worst = int(np.argmax(change))
    share = float(change[worst]) / total if total else 0.0
    return share, (float(cuts[worst]), float(cuts[worst + 1]))


def _marks(scale: float, kinks: Sequence[float]) -> Array:
    """Where to cut, as values of the function's argument: 0, the kinks, and 1/2, 1, 2, 4, ... from the nearest."""
    doublings = max(2, int(np.ceil(np.log2(_REACH * scale + 1))) + 2)
    steps = 0.5 * 2.0 ** np.arange(doublings)
    around = np.concatenate([-steps[::-1], [0.0], steps])
    centres = np.array(sorted({0.0, *kinks}))
    marks = centres[:, None] + around
    to_nearest = np.abs(marks[..., None] - centres).min(-1)
    return np.unique(marks[np.abs(around) <= to_nearest * (1 + 1e-12)])


def _cuts(marks: Array, scale: Array | float) -> Array:
    """The marks as standard normal values within reach, with the coarse ones, in order; equal ones stay."""
    inside = np.clip(marks / scale, -_REACH, _REACH)
    coarse = np.broadcast_to(_COARSE, (*inside.shape[:-1], len(_COARSE)))
    return np.sort(np.concatenate([inside, coarse], axis=-1), axis=-1)


def _near_kinks(scale: float, c: float, r: float, kinks: Sequence[float]) -> list[Array]:
    if not kinks:
        return []
    steps = r * 2.0 ** np.arange(-1, int(np.ceil(np.log2(2 * _REACH / r))) + 1)
    around = np.concatenate([-steps, steps])
    centres = [kink / scale for kink in kinks]
    if abs(c) > 0.01:
        centres += [kink / (scale * c) for kink in kinks]
    near = [np.append(centre + around, centre) for centre in centres]
    return [np.clip(cuts, -_REACH, _REACH) for cuts in near]


def _rule(cuts: Array) -> tuple[Array, Array]:
    """Nodes and weights, the normal density included, between neighbouring cuts along the last axis."""
    widths = np.diff(cuts, axis=-1)[..., None]
    z = cuts[..., :-1, None] + widths * _NODES
    weights = widths * _WEIGHTS * _density(z)
    shape = (*cuts.shape[:-1], -1)
    return z.reshape(shape), weights.reshape(shape)


def _density(z: Array) -> Array:
    return np.asarray(np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi))
