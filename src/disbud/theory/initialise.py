"""Weights and biases that put a model on the edge of chaos, or into the ordered or the chaotic phase."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from disbud.errors import DisbudError, unknown_name
from disbud.theory.activations import ActivationLike, activation
from disbud.theory.edge import EdgeOfChaos, edge_of_chaos, least_stable_biases
from disbud.theory.phases import Phase, phase

if TYPE_CHECKING:
    from torch import nn

EDGE_OF_CHAOS = "edge-of-chaos"
# What sigma_w is, over the edge's, in the phase of that name; chi goes about with its square.
_FACTORS = {"ordered": 0.75, EDGE_OF_CHAOS: 1.0, "chaotic": 1.5}
# The |log chi| up to which a sigma_w of the caller's counts as on the edge: published values have four digits.
_NEAR = 1e-3


@dataclass(frozen=True)
class Initialised:
    """What `initialize_` did: the phase the weights are in, which parameters it drew and which it left alone.

    >>> import disbud, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    >>> done = disbud.theory.initialize_(model, activation="relu", seed=0)
    >>> done.drawn, done.left_alone
    (('0.weight', '0.bias'), ('1.weight', '1.bias'))
    """

    phase: Phase
    drawn: tuple[str, ...]
    left_alone: tuple[str, ...]

    def __str__(self) -> str:
        shown = f"{', '.join(self.left_alone[:4])}{', ...' if len(self.left_alone) > 4 else ''}"
        return f"{self.phase}; {len(self.drawn)} parameters drawn, left alone: {shown or 'none'}"


def initialize_(
    model: nn.Module,
    phase: str = EDGE_OF_CHAOS,
    *,
    activation: ActivationLike,
    seed: int,
    sigma_b: float = 0.0,
    sigma_w: float | None = None,
    orthogonal: bool = False,
) -> Initialised:
    """Draw, in place, weights N(0, sw^2 / fan_in) and biases N(0, sb^2) of every linear and convolution layer.

    `phase` is "edge-of-chaos", "ordered" or "chaotic". sigma_w is that of the edge at sigma_b, three quarters of it in
    the ordered phase, one and a half times it in the chaotic one; a given `sigma_w` has to lie in the phase asked.
    fan_in is the inputs of an output unit: channels a group x kernel (over the stride, in a transposed convolution).

    `orthogonal` draws orthonormal rows or columns times sigma_w, with the same second moments, and in convolutions
    only at the kernel's centre (delta-orthogonal, Xiao et al. 2018): with tanh-like activations and a small q every
    singular value of the Jacobian is then near one (dynamical isometry, Pennington et al. 2017).

    Normalisation layers, embeddings and attention's input projections are left alone and listed in the result. The
    theory is of nets without normalisation: with it, no scale of the weights before it matters. Each parameter has a
    random stream of its own, by its name; the global ones are left alone.

    >>> import disbud, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 10))
    >>> done = disbud.theory.initialize_(model, activation="tanh", sigma_b=0.2, seed=0)
    >>> done.phase.name, round(done.phase.sigma_w, 4)
    ('edge', 1.3041)
    """
    reached = _phase(phase, activation, sigma_w, sigma_b)
    import torch

    from disbud.theory.draws import biases, gaussian, orthonormal, sites

    found, left_alone = sites(model)
    draw = orthonormal if orthogonal else gaussian
    # All are drawn before any is written, so that a layer that cannot be drawn leaves the model as it was.
    weights = [draw(site, reached.sigma_w, seed) for site in found]
    with torch.no_grad():
        for site, weight in zip(found, weights, strict=True):
            site.weight.copy_(weight)
            bias = biases(site, sigma_b, seed)
            if site.bias is not None and bias is not None:
                site.bias.copy_(bias)
    names = dict.fromkeys(name for site in found for name in (site.name, site.bias_name) if name is not None)
    return Initialised(reached, tuple(names), left_alone)


def _phase(asked: str, like: ActivationLike, sigma_w: float | None, sigma_b: float) -> Phase:
    if asked not in _FACTORS:
        raise unknown_name("phase", asked, _FACTORS)
    phi = activation(like)
    if sigma_w is None:
        edge = _edge(asked, phi, sigma_b)
        sigma_w, start = edge.sigma_w * _FACTORS[asked], edge.q or 1.0
    else:
        start = 1.0
    found = phase(phi, sigma_w=sigma_w, sigma_b=sigma_b, start=start)
    at_edge = found.chi > 0 and abs(math.log(found.chi)) <= _NEAR and found.q < math.inf
    inside = at_edge if asked == EDGE_OF_CHAOS else found.name == asked
    if not inside:
        raise DisbudError(
            f"{phi.name} with sigma_w = {sigma_w:g}, sigma_b = {sigma_b:g} is {found.name} with "
            f"chi = {found.chi:.4g} and q = {found.q:.4g}, not {asked}: leave sigma_w out, or take another"
        )
    return found


def _edge(asked: str, phi: ActivationLike, sigma_b: float) -> EdgeOfChaos:
    try:
        edge = edge_of_chaos(phi, sigma_b)
    except DisbudError as error:
        if asked == EDGE_OF_CHAOS:
            raise
        raise DisbudError(f"{error}; for the {asked} phase give sigma_w") from error
    if edge.stable:
        return edge
    least = least_stable_biases(phi)
    what = (
        f"the edge of chaos of {edge.activation} at sigma_b = {sigma_b:g} is not stable: variances leave "
        f"q = {edge.q:.4g}; {'no biases make it so' if least is None else f'that at sigma_b = {least:g} is'}"
    )
    if edge.q == 0:  # no signal is there to begin with
        raise DisbudError(what if asked == EDGE_OF_CHAOS else f"{what}; for the {asked} phase give sigma_w")
    if asked == EDGE_OF_CHAOS:
        warnings.warn(what, stacklevel=4)
    return edge
