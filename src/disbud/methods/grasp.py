"""GraSP: keep the weights whose removal would hurt the gradient flow of the pruned net (Wang et al. 2020)."""

from __future__ import annotations

import torch

from disbud.errors import DisbudError
from disbud.methods.evidence import size_of
from disbud.methods.scoring import Scoring, Tensors, as_leaves, gradient


def grasp(s: Scoring, *, temperature: float) -> Tensors:
    """theta * (H g), the highest kept (the paper removes the highest of -theta * H g, eq. 8).

    g is the gradient of the mean loss over all batches, H its Hessian; logits are divided by the temperature.
    """
    weights = s.masked()
    hessian_gradient = _hessian_gradient_product(s, weights, temperature)
    return {name: weights[name] * hg for name, hg in hessian_gradient.items()}


def grasp_abs(s: Scoring, *, temperature: float) -> Tensors:
    """abs(theta * (H g)): GraSP with the sign dropped."""
    return {name: score.abs_() for name, score in grasp(s, temperature=temperature).items()}


def _hessian_gradient_product(s: Scoring, weights: Tensors, temperature: float) -> Tensors:
    """H g, exactly, by differentiating <g(theta), g> with the second g held fixed."""
    batches = list(s.batches())
    shares = _shares(batches)
    leaves = as_leaves(weights)
    # One graph serves both derivatives where there is one batch; several are walked twice, to hold one graph at a time.
    parts = [gradient(s.loss(leaves, batches[0], temperature=temperature), leaves, create_graph=True)]
    g = {name: part.detach() * shares[0] for name, part in parts[0].items()}
    if len(batches) > 1:
        parts.clear()
        for batch, share in zip(batches[1:], shares[1:], strict=True):
            for name, part in gradient(s.loss(leaves, batch, temperature=temperature), leaves).items():
                g[name] += part * share
    total: Tensors = {}
    for batch, share in zip(batches, shares, strict=True):
        part = parts.pop() if parts else gradient(
            s.loss(leaves, batch, temperature=temperature), leaves, create_graph=True
        )
        products = [(part[name] * g[name]).sum() for name in leaves if part[name].requires_grad]
        if not products:
            raise DisbudError("the loss is linear in the weights, so its Hessian, and with it GraSP's score, is zero")
        for name, value in gradient(torch.stack(products).sum() * share, leaves).items():
            total[name] = total[name] + value if name in total else value
    return total


def _shares(batches: list[object]) -> list[float]:
    sizes = [float(size_of(batch) or 1) for batch in batches]
    return [size / sum(sizes) for size in sizes]
