"""PreCrop: a narrower network, its layers as dense as asked for, by leaving out whole channels (Cai et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from disbud.errors import DisbudError
from disbud.methods.scoring import Scoring, Tensors
from disbud.selection.channels import Channels
from disbud.selection.groups import Numbers


def precrop(s: Scoring, budget: Mapping[str, int] | int) -> Tensors:
    """Masks of the first channels of each layer, with at most as many weights as the budgets of all layers together.

    A layer with fractions a and b of its input and output channels left has density a b. The fractions are those whose
    logarithms come nearest to log a + log b = log density, in least squares weighted by the layers' sizes: channels
    that an addition joins have one fraction, and the model's inputs and outputs stay whole, so that not every density
    can be had. Then each kind of channel is filled in proportion to its fraction, for as long as one more fits.
    """
    if isinstance(budget, int):
        raise DisbudError(
            "PreCrop narrows each layer to its density, so it needs densities: leave them at 'erk', or give another "
            "rule, a ticket such as SynFlow's, or densities by layer name"
        )
    if s.example is None:
        raise DisbudError(
            "PreCrop follows channels from layer to layer and must know the shape of the input: give example=..., such "
            "as torch.zeros(1, 3, 32, 32), or a tuple or dict of inputs; its numbers do not matter"
        )
    channels = Channels(s.model, s.layers, example=s.example)
    fractions = _fractions(s, budget, channels)
    values = np.zeros(len(channels.free))
    for kind, fraction in enumerate(fractions):
        members = np.flatnonzero((channels.kinds == kind) & channels.free)
        # Of c channels to be narrowed to c * fraction, the i-th is due when i / (c * fraction) of the budget is spent.
        values[members] = -(np.arange(len(members)) + 0.5) / (max(1, len(members)) * fraction)
    whole = [(tuple(layer.name for layer in s.layers), sum(budget.values()))]
    masks = channels.masks(channels.choose(values, whole, keep="highest", among=None))
    return {name: mask.to(s.weights[name].device) for name, mask in masks.items()}


def _fractions(s: Scoring, budget: Mapping[str, int], channels: Channels) -> Numbers:
    """The fraction of each kind of channel that is to stay."""
    from scipy.optimize import lsq_linear

    layers = [layer for layer in s.layers if layer.size]
    weight = np.sqrt([layer.size for layer in layers])
    sides = np.array([np.add(*channels.shares(layer.name)) for layer in layers])
    wanted = np.log([max(budget[layer.name], 1) / layer.size for layer in layers])
    found = lsq_linear(sides * weight[:, None], wanted * weight, bounds=(-np.inf, 0.0))
    fractions: Numbers = np.exp(found.x)
    return fractions
