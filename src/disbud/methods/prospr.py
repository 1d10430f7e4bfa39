"""Prospect pruning: what a mask does to the loss after a few steps of training (Alizadeh et al. 2022)."""

from __future__ import annotations

import math
from itertools import cycle, islice

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from disbud.errors import DisbudError, unknown_name
from disbud.isolation import usable
from disbud.methods.curvature import TwiceDifferentiable
from disbud.methods.scoring import Scoring, Tensors, at_least_single, gradient, unsigned
from disbud.parameters import parameters

ORDERS = ("full", "first")


def prospr(s: Scoring, *, steps: int, lr: float, momentum: float, order: str) -> Tensors:
    """abs(dL(theta_K)/dm), theta_0 = m * theta, theta_k after k steps of SGD (Alizadeh et al. 2022, eq. 5).

    Step k is taken on batch k, of all parameters, and L is the loss of the batch after the last step; fewer batches
    come round again. "full" differentiates through the steps. "first" takes their gradients for constants, which leaves
    abs(theta * dL/dtheta_K).
    """
    _check(steps, lr, momentum, order)
    batches = list(islice(s.batches(), steps + 1))
    batches = list(islice(cycle(batches), steps + 1))
    if order == "first":
        theta = s.masked()
        trained = _trained(s, theta, batches[:-1], lr=lr, momentum=momentum, through=False)
        leaves = {name: trained[name] for name in theta}
        with s.using(trained):
            found = gradient(s.loss(batches[-1]), leaves)
        return {name: unsigned(s, s.weights[name] * at_least_single(g)) for name, g in found.items()}
    m = {
        name: (torch.ones_like(w) if s.masks is None else s.masks[name].to(w.dtype)).requires_grad_()
        for name, w in s.weights.items()
    }
    # The fused attention kernels have no second derivative.
    with sdpa_kernel(SDPBackend.MATH), TwiceDifferentiable():
        theta = {name: w * m[name] for name, w in s.weights.items()}
        trained = _trained(s, theta, batches[:-1], lr=lr, momentum=momentum, through=True)
        with s.using(trained):
            found = gradient(s.loss(batches[-1]), m)
    return {name: unsigned(s, at_least_single(g)) for name, g in found.items()}


def _trained(
    s: Scoring, theta: Tensors, batches: list[object], *, lr: float, momentum: float, through: bool
) -> Tensors:
    """All parameters after a step of SGD with momentum on each batch; what is pruned stays at zero meanwhile."""
    every = {name: usable(p).detach() for name, p in parameters(s.model).items() if p.is_floating_point()}
    now = {name: w if w.requires_grad else w.detach().requires_grad_() for name, w in (every | theta).items()}
    velocity: Tensors = {}
    for batch in batches:
        with s.using(now):
            gradients = gradient(s.loss(batch), now, create_graph=through)
        for name, mask in (s.masks or {}).items():
            gradients[name] = gradients[name].masked_fill(~mask, 0)
        velocity = {
            name: momentum * velocity[name] + g if name in velocity else g for name, g in gradients.items()
        }
        now = {name: w - lr * velocity[name] for name, w in now.items()}
        if not through:
            now = {name: w.detach().requires_grad_() for name, w in now.items()}
    return now


def _check(steps: object, lr: object, momentum: object, order: object) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise DisbudError(f"steps is a whole number, how many steps are trained, not {steps!r}")
    for name, value, bound in (("lr", lr, math.inf), ("momentum", momentum, 1.0)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < bound:
            raise DisbudError(
                f"{name} is a number from 0 {'to below 1' if bound == 1 else 'up'}, not {value!r}"
            )
    if order not in ORDERS:
        raise unknown_name("order of prospect pruning", str(order), ORDERS)
