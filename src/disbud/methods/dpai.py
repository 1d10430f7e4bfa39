"""DPaI: masks learned by gradient ascent on the number of paths, dead units and kernels first (Xiang et al. 2025)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from disbud.errors import DisbudError
from disbud.graph import Layer
from disbud.graph.flow import ones_like_example
from disbud.graph.flow.counting import counting_rule
from disbud.graph.flow.counts import Counts
from disbud.graph.flow.passing import all_open
from disbud.graph.flow.running import buffers_in, linearised
from disbud.graph.kernels import Kernels
from disbud.isolation import device_of, leaves
from disbud.methods.scoring import Scoring, Tensors
from disbud.selection import keep_highest

_CUT = 1e-3  # what stands for a pruned weight where no path is left, so that there is a way out


def dpai(
    s: Scoring, budget: Mapping[str, int] | int, *, steps: int, lr: float, alpha: float, beta: float
) -> Tensors:
    """Masks of the highest scores in each layer, after so many steps of ascent on log P.

    A step adds lr * k * g * ((1 - alpha) + alpha * ((1 - beta) * [j dead] + beta * [ij dead])) to the score of a weight
    from unit i to unit j: g is d log P/dm at the present masks m, of pruned weights too (straight through the choice of
    the highest), k how many weights the layer keeps (kept ones have k * g = 1 on average), and dead are units and
    kernels by which no path leads. Scores start at U(0, 1).
    """
    budget = _checked(s, budget, steps=steps, lr=lr, alpha=alpha, beta=beta)
    scores = {
        layer.name: torch.rand(
            layer.shape, generator=s.generator(layer.name), dtype=torch.float64, device="cpu"
        ).to(s.weights[layer.name].device)
        for layer in s.layers
    }
    for _ in range(steps):
        masks = _masks(scores, budget)
        gains = _gains(s, masks)
        for layer in s.layers:
            name = layer.name
            weight = _weights(layer, masks[name] * gains[name], alpha, beta)
            scores[name] += lr * budget[name] * gains[name] * weight
    return _masks(scores, budget)


def _masks(scores: Tensors, budget: Mapping[str, int]) -> Tensors:
    return {name: keep_highest({name: score}, budget[name])[name] for name, score in scores.items()}


def _weights(layer: Layer, through: Tensor, alpha: float, beta: float) -> Tensor:
    """How much a gain counts for each weight; `through` is how many of the paths lead through the kept ones."""
    kernels = Kernels.of(layer)
    blocks = kernels.split(through)
    units = (blocks.sum((1, 3), keepdim=True) == 0).to(through)
    pairs = (blocks.sum(3, keepdim=True) == 0).to(through)
    counted = (1 - alpha) + alpha * ((1 - beta) * units + beta * pairs)
    return kernels.join(counted.expand(blocks.shape))


def _gains(s: Scoring, masks: Tensors) -> Tensors:
    """d log P/dm of every weight, kept or pruned."""
    found = _derivatives(s, {name: mask.to(torch.float64) for name, mask in masks.items()})
    return found or _derivatives(
        s, {name: mask.to(torch.float64).clamp(min=_CUT) for name, mask in masks.items()}
    )


def _derivatives(s: Scoring, m: Tensors) -> Tensors:
    """The same of soft masks; nothing where there is no path."""
    assert s.example is not None
    m = {name: mask.requires_grad_() for name, mask in m.items()}
    state = all_open(s.model, torch.float64, but=m)
    signals = Counts(state)
    args, kwargs = ones_like_example(s.example, torch.float64, device_of(s.model))
    for leaf in leaves((args, kwargs)):
        if isinstance(leaf, Tensor):
            signals.put(leaf)
    buffers = list(buffers_in(s.model, torch.float64, positive=False))
    with linearised(s.model, state, buffers, signals, rule_of=counting_rule):
        output = s.model(*args, **kwargs)
        found = signals.outputs([leaf for leaf in leaves(output) if isinstance(leaf, Tensor)])
        aligned, _ = signals.align(found)
        total = torch.stack([tensor.sum() for tensor in aligned]).sum() if aligned else torch.zeros(())
        if not total.requires_grad:
            raise DisbudError(
                "no signal from the example reaches the model's outputs: its paths cannot be counted"
            )
        with torch._C.DisableTorchFunction():
            count = float(total.detach())
            if not count > 0:
                return {}
            parts = torch.autograd.grad(total, list(m.values()), materialize_grads=True)
    return {name: part / count for name, part in zip(m, parts, strict=True)}


def _checked(
    s: Scoring, budget: Mapping[str, int] | int, *, steps: object, lr: object, alpha: object, beta: object
) -> Mapping[str, int]:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise DisbudError(f"steps is a whole number, how often scores are updated, not {steps!r}")
    for name, value, most in (("lr", lr, math.inf), ("alpha", alpha, 1.0), ("beta", beta, 1.0)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            raise DisbudError(f"{name} is a number from 0 {'to 1' if most == 1 else 'up'}, not {value!r}")
    if isinstance(budget, int):
        raise DisbudError(
            "DPaI chooses within the budget of each layer, so it needs densities: leave them at 'erk', or give another "
            "rule, a ticket, or densities by layer name"
        )
    if s.example is None:
        raise DisbudError(
            "DPaI counts paths and must know the shape of the input: give example=..., such as "
            "torch.zeros(1, 3, 32, 32), or a tuple or dict of inputs; its numbers do not matter"
        )
    return budget
