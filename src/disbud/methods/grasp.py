"""GraSP: keep the weights whose removal would hurt the gradient flow of the pruned net (Wang et al. 2020)."""

from __future__ import annotations

import math

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from disbud.batches import size_of
from disbud.errors import DisbudError
from disbud.methods.curvature import TwiceDifferentiable
from disbud.methods.scoring import Scoring, Tensors, as_leaves, at_least_single, gradient, unsigned


def grasp(s: Scoring, *, temperature: float) -> Tensors:
    """theta * (H g), the highest kept (the paper removes the highest of -theta * H g, eq. 8).

    g is the gradient of the mean loss over all batches, H its Hessian; logits are divided by the temperature.
    """
    if (
        isinstance(temperature, bool)
        or not isinstance(temperature, int | float)
        or not 0 < temperature < math.inf
    ):
        raise DisbudError(f"temperature is a number above 0 that divides the logits, not {temperature!r}")
    weights = s.masked()
    leaves = as_leaves(weights)
    # The fused attention kernels have no second derivative.
    with s.using(leaves, temperature=temperature), sdpa_kernel(SDPBackend.MATH), TwiceDifferentiable():
        product = _hessian_gradient_product(s, leaves)
    return {name: weights[name] * at_least_single(hg) for name, hg in product.items()}


def grasp_abs(s: Scoring, *, temperature: float) -> Tensors:
    """abs(theta * (H g)): GraSP with the sign dropped."""
    return {name: unsigned(s, score) for name, score in grasp(s, temperature=temperature).items()}


def _hessian_gradient_product(s: Scoring, leaves: Tensors) -> Tensors:
    """H g, exactly: the derivative of <g(theta), g>, the second g held fixed."""
    batches = list(s.batches())
    shares = _shares(batches)
    # One graph serves both derivatives where there is one batch; several are walked twice, to hold one graph at a time.
    parts = gradient(s.loss(batches[0]), leaves, create_graph=True)
    g = {name: part.detach() for name, part in parts.items()}
    if len(batches) > 1:
        parts.clear()
        g = {}
        for batch, share in zip(batches, shares, strict=True):
            _add(g, gradient(s.loss(batch), leaves), share)
    total: Tensors = {}
    for batch, share in zip(batches, shares, strict=True):
        parts = parts or gradient(s.loss(batch), leaves, create_graph=True)
        _add(total, _pulled_back(parts, g, leaves), share)
        parts = {}
    return total


def _pulled_back(parts: Tensors, g: Tensors, leaves: Tensors) -> Tensors:
    """The derivative of <parts, g> by the leaves."""
    curved = [name for name, part in parts.items() if part.requires_grad]
    if not curved:
        raise DisbudError(
            "the loss is linear in the weights, so its Hessian, and with it GraSP's score, is zero"
        )
    found = torch.autograd.grad(
        [parts[name] for name in curved],
        list(leaves.values()),
        grad_outputs=[g[name] for name in curved],
        allow_unused=True,
    )
    return {
        name: torch.zeros_like(leaves[name]) if one is None else one
        for name, one in zip(leaves, found, strict=True)
    }


def _add(total: Tensors, new: Tensors, share: float) -> None:
    """total += share * new, without a copy where there is one batch."""
    for name, part in new.items():
        if name in total:
            total[name] = total[name].add(part, alpha=share)
        else:
            total[name] = part if share == 1 else part * share


def _shares(batches: list[object]) -> list[float]:
    sizes = [float(size_of(batch) or 1) for batch in batches]
    return [size / sum(sizes) for size in sizes]
