"""How strong the signals of a network are, by which layers, and starting weights that keep them up in a pruned one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from disbud.errors import DisbudError
from disbud.graph.flow import Inputs
from disbud.isolation import isolated, leaves, to_write_on
from disbud.methods.scoring import Scoring, Tensors, as_leaves, enough_examples, gradient
from disbud.parameters import parameters

_LEVEL = 0.05  # a layer whose scale the outputs follow with less than this power is normalised
_STEPS, _NEAR = 20, 0.01


@dataclass(frozen=True)
class Strength:
    """How far outputs spread over examples, and d log spread / d log scale of each layer's weights.

    The power is 1 in a plain chain of layers, 0 where a normalisation follows, in between in residual branches.
    """

    spread: float
    powers: Mapping[str, float]

    @property
    def normalised(self) -> frozenset[str]:
        """The layers whose scale hardly matters to the outputs."""
        return frozenset(name for name, power in self.powers.items() if abs(power) < _LEVEL)


def strength(s: Scoring, weights: Tensors, inputs: Inputs) -> Strength:
    """Of the model with these weights, BatchNorm computing with the batch."""
    args, kwargs = to_write_on(inputs)
    found = as_leaves(weights)
    with isolated(s.model, seed=0, batch_norm="train"), s.using(found), enough_examples():
        output = [leaf for leaf in leaves(s.model(*args, **kwargs)) if isinstance(leaf, Tensor)]
        numbers = [leaf.float() for leaf in output if leaf.is_floating_point() and leaf.dim()]
        if not numbers or len(numbers[0]) < 2:
            raise DisbudError(
                "how far outputs spread is measured over examples: give batches of at least two, for which the model "
                "returns tensors of numbers"
            )
        variance = torch.stack([leaf.var(0, correction=0).sum() for leaf in numbers]).sum()
        slopes = gradient(variance, found)
    square = float(variance.detach())
    powers = {
        name: float((leaf.detach() * slopes[name]).sum()) / (2 * square) if square else 0.0
        for name, leaf in found.items()
    }
    return Strength(square**0.5, powers)


def strengthened(s: Scoring, masks: Tensors, inputs: Inputs, dense: Strength, signal: float) -> Tensors:
    """All parameters, with the weights that masks are on scaled layer by layer, by factors found under the masks.

    In a normalised layer scale is how fast directions turn in training: the larger, the slower. There the kept weights
    get the mean square of the dense layer's, so that choosing large ones slows nothing. The other layers are raised by
    one common factor where the outputs spread less than `signal` of the dense network's, until they spread as far.
    """
    factors = dict.fromkeys(s.weights, 1.0)
    for name in dense.normalised:
        kept = s.weights[name][masks[name]].float().square().mean() if bool(masks[name].any()) else 0.0
        if kept > 0:
            factors[name] = float((s.weights[name].float().square().mean() / kept).sqrt())
    free = [name for name in s.weights if name not in dense.normalised]
    raised = 1.0
    for _ in range(_STEPS):
        pruned = strength(
            s,
            {name: (w * factors[name]).masked_fill(~masks[name], 0) for name, w in s.weights.items()},
            inputs,
        )
        power = sum(pruned.powers[name] for name in free)
        missing = signal * dense.spread / pruned.spread if pruned.spread else 1.0
        enough = missing <= 1 if raised == 1 else abs(math.log(missing)) < _NEAR
        if enough or power <= _LEVEL:
            break
        step = max(missing ** (1 / power), 1 / raised)
        raised *= step
        factors |= {name: factors[name] * step for name in free}
    scaled = {name: weight * factors[name] for name, weight in s.weights.items()}
    return {name: tensor.detach().clone() for name, tensor in parameters(s.model).items()} | scaled
