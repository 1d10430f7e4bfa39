"""What choosing whole groups of weights starts from, found by hand: signed scores, their order, a budget's rounding."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor, nn

from method_inputs import Masks
from networks import NETWORKS
from test_methods import scoring_copy, weights_of

CONV = [
    "conv",
    "batch-norm",
    "strided",
    "grouped",
    "transposed",
    "conv1d",
    "conv3d",
    "residual",
    "densely-connected",
]


def batches_of(name: str) -> list[tuple[Tensor, Tensor]]:
    return [NETWORKS[name].batch(9)]


def signed_snip(model: nn.Module, name: str, masks: Masks) -> Masks:
    """w dL/dw of the pruned network."""
    weights = {n: (w * masks[n]).requires_grad_() for n, w in weights_of(model).items()}
    x, y = batches_of(name)[0]
    output = torch.func.functional_call(scoring_copy(model), weights, (x,))
    found = torch.autograd.grad(
        nn.functional.cross_entropy(output, y), list(weights.values()), materialize_grads=True
    )
    return {n: (w * g).detach() for (n, w), g in zip(weights.items(), found, strict=True)}


def half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def ranked(values: list[float], keep: str) -> list[int]:
    """Places in the order in which they are kept."""
    if keep == "highest":
        return sorted(range(len(values)), key=lambda i: (-values[i], i))
    return sorted(range(len(values)), key=lambda i: (values[i] == 0, values[i], i))
