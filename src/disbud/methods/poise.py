"""poise: width where a normalisation keeps signals up, strong paths where nothing does, and weights to start from."""

from __future__ import annotations

import contextlib
import math
import warnings

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from disbud.errors import DisbudError
from disbud.graph import reach
from disbud.graph.flow import Inputs
from disbud.isolation import Example
from disbud.methods.calls import as_example, called_with, without_labels
from disbud.methods.scoring import Scoring, Tensors
from disbud.methods.strength import Strength, strength, strengthened
from disbud.methods.synflow import flow
from disbud.ticket import Ticket


def poise(s: Scoring, *, concentration: float, normalised: float, signal: float) -> Tensors:
    """|w| * (dR/d|w|)^c, R the sum of all outputs of abs(W) on how far each input spreads over the batch.

    The exponent c says how much strong paths attract more weights: 0 is magnitude, which covers all units evenly, and
    1 is SynFlow. It is `normalised` for the layers whose scale a normalisation takes out of the outputs, where width
    counts for more, and `concentration` for the others, through which signals have to get by their own strength.
    Inputs that are the same in all examples, such as dark corners, get no weights. Labels have no say.
    """
    _check(concentration=concentration, normalised=normalised, signal=signal)
    level = _dense(s).normalised
    spread = s.once("spread", lambda: tree_map(_spread, _inputs(s)))
    found = flow(s, torch.abs, biases="drop", dtype="float32", inputs=spread)
    scores = {}
    for name, passing in found.items():
        c = normalised if name in level else concentration
        weight = s.weights[name].abs().to(passing.dtype)
        if s.positions is not None:
            weight = weight.flatten().index_select(0, s.positions[name].long())
        scores[name] = weight.pow_(1 - c).view(passing.shape).mul_(passing.pow_(c))
    return scores


def poised(
    s: Scoring, masks: Tensors, *, singly: bool, concentration: float, normalised: float, signal: float
) -> tuple[Tensors, Tensors | None]:
    """The masks with every weight on a path from input to output, and the weights to start from (signal=0: none)."""
    inputs = _inputs(s)
    if singly:
        example, named = as_example(s.model, inputs)
        with called_with(s.model, named) if named else contextlib.nullcontext():
            masks = _all_on_paths(s, masks, example)
    return masks, strengthened(s, masks, inputs, _dense(s), signal) if signal else None


def _all_on_paths(s: Scoring, masks: Tensors, example: Example) -> Tensors:
    """Weights on no path moved, in their layer, to the largest of those that are on one by themselves."""
    wanted = {name: int(mask.sum()) for name, mask in masks.items()}
    kept = _on_paths(s, masks, example)
    if not _count(kept):
        warnings.warn(
            "no path leads from the model's input to its output: the budgets of its layers are too small for one; ask "
            "for a lower sparsity or other densities",
            stacklevel=2,
        )
    before = -1
    while before < _count(kept) < _count(masks):
        before = _count(kept)
        room = reach(s.model, Ticket(kept), example=example).open
        filled = {
            name: _filled(s.weights[name], mask, room[name].to(mask.device) & ~mask, wanted[name])
            for name, mask in kept.items()
        }
        kept = _on_paths(s, filled, example)
    # Where a layer has no room on paths, its count stays as it was asked for.
    return {name: _filled(s.weights[name], mask, ~mask, wanted[name]) for name, mask in kept.items()}


def _on_paths(s: Scoring, masks: Tensors, example: Example) -> Tensors:
    found = reach(s.model, Ticket(masks), example=example).effective
    return {name: found[name].to(mask.device) for name, mask in masks.items()}


def _count(masks: Tensors) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def _filled(weight: Tensor, mask: Tensor, room: Tensor, wanted: int) -> Tensor:
    """The mask with the largest weights of those with room, up to the number wanted."""
    missing = min(wanted - int(mask.sum()), int(room.sum()))
    largest = weight.abs().masked_fill(~room, -1).flatten().topk(missing).indices
    return mask.flatten().index_fill(0, largest, value=True).view(mask.shape)


def _dense(s: Scoring) -> Strength:
    """How strong the signals are before anything is pruned."""
    return s.once("dense", lambda: strength(s, s.weights, _inputs(s)))


def _inputs(s: Scoring) -> Inputs:
    """What the model is given for the first batch."""

    def given() -> Inputs:
        with torch.no_grad():
            return without_labels(s.model, s.given(next(s.batches())))

    return s.once("inputs", given)


def _spread(leaf: object) -> object:
    """How far each number of the input spreads over the examples; ones where none does, whole numbers as they are."""
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or not leaf.dim():
        return leaf
    spread = leaf.detach().float().std(0, correction=0, keepdim=True)
    return spread if bool(spread.any()) else torch.ones_like(spread)


def _check(*, concentration: object, normalised: object, signal: object) -> None:
    for name, value in (("concentration", concentration), ("normalised", normalised), ("signal", signal)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise DisbudError(f"poise: {name} is a number from 0 up, not {value!r}")
