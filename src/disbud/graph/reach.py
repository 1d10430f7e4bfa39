"""Which weights and units lie on a path from input to output, and how many such paths there are.

Effectiveness is boolean reachability at the example's size, forwards and backwards; the number of paths is computed
apart, with a power of two beside each tensor, so that nothing overflows. Neither looks at the values of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from disbud.errors import DisbudError
from disbud.graph.flow.counts import Counts, Reach, Use
from disbud.graph.flow.passing import all_open, counted
from disbud.graph.tracing import prunable
from disbud.isolation import Example, bare, device_of
from disbud.origin import Origin
from disbud.parameters import parameters
from disbud.ticket import Ticket


@dataclass(frozen=True)
class Reading:
    """One reading of a signal by a layer; a shared layer has several.

    `source` is a number, the same for all that read the same signal. `inputs` and `outputs` say which units the weights
    on a path read and feed here, `alive` which units of the signal are on a path by whoever reads them. So many of the
    layer's `weights` take part (a third of them where attention projects with a part), each at so many `positions` of
    the example. `output` is the number of the model's output that comes from here with no other layer in between.
    """

    layer: str
    source: int
    inputs: Tensor
    outputs: Tensor
    alive: Tensor
    weights: int
    positions: int
    output: int | None


@dataclass(frozen=True)
class Reached:
    """The weights on a path, by layer, every reading of a signal in the order it was met, and the weights that are on a
    path or would be if just this one were kept too.
    """

    effective: dict[str, Tensor]
    readings: tuple[Reading, ...]
    open: dict[str, Tensor]


def effective(model: nn.Module, ticket: Ticket | None, *, example: Example) -> Ticket:
    """The ticket of those weights that lie on a path from input to output, at the size of the example.

    A weight that the ticket keeps but that nothing reaches, or that leads nowhere, computes nothing: no gradient but
    that of biases ever arrives. A tap that meets only padding is such a weight.

    >>> import disbud, torch
    >>> from disbud.graph import effective
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> masks = {"0.weight": torch.tensor([[1, 1], [1, 0]]), "2.weight": torch.tensor([[1, 0]])}
    >>> ticket = effective(model, disbud.Ticket.from_masks(masks), example=torch.zeros(1, 2))
    >>> ticket.masks["0.weight"].tolist()
    [[True, True], [False, False]]
    """
    found = reach(model, ticket, example=example).effective
    names = list(found if ticket is None else ticket.masks)
    parents = () if ticket is None else (ticket.origin,)
    start = None if ticket is None else ticket.start
    return Ticket({name: found[name] for name in names}, Origin("effective", parents=parents), start)


def reach(model: nn.Module, ticket: Ticket | None, *, example: Example) -> Reached:
    """What is on a path from input to output: weights of all layers that can be pruned or are in the ticket."""
    model, masks, kinds = _layers(model, ticket, example)
    device = device_of(model)
    theta = {name: mask.to(device, torch.float32).requires_grad_() for name, mask in masks.items()}
    state = all_open(model, torch.float32, but=theta)
    signals = Reach(state, theta)
    with counted(model, state, signals, example) as outputs:
        met = [tensor for use in signals.uses for tensor in (use.inputs, use.output, use.source)]
        gradients = _gradients(outputs, [*theta.values(), *met])
    opened = {name: _leads_on(leaf, gradients).reshape(masks[name].shape) for name, leaf in theta.items()}
    effective = {name: masks[name] & leading for name, leading in opened.items()}
    last = _last(outputs, signals.uses)
    sources: dict[int, int] = {}
    readings = []
    for use in signals.uses:
        transposed = kinds.get(use.layer) == "transposed-conv"
        placed = use.inputs if transposed else use.output
        readings.append(
            Reading(
                use.layer,
                source=sources.setdefault(id(use.source), len(sources)),
                inputs=_units(use.inputs, use.unit_axis, gradients),
                outputs=_units(use.output, use.unit_axis, gradients),
                alive=_units(use.source, use.unit_axis, gradients)
                | _units(use.inputs, use.unit_axis, gradients),
                weights=use.weights,
                positions=placed.numel() // max(1, placed.shape[use.unit_axis]),
                output=last.get(id(use)),
            )
        )
    return Reached(effective, tuple(readings), opened)


def log10_paths(model: nn.Module, ticket: Ticket | None, *, example: Example) -> float:
    """log10 of the number of paths from input to output by way of the weights the ticket keeps; -inf for none.

    One power of two is carried beside each tensor: entries a factor of 1e300 below the largest of their tensor count
    as none.
    """
    model, masks, _ = _layers(model, ticket, example)
    theta = {name: mask.to(device_of(model), torch.float64) for name, mask in masks.items()}
    state = all_open(model, torch.float64, but=theta)
    signals = Counts(state)
    with counted(model, state, signals, example) as outputs:
        aligned, exponent = signals.align(outputs)
        count = sum(float(output.sum()) for output in aligned)
    return math.log10(count) + exponent * math.log10(2) if count else -math.inf


def _layers(
    model: nn.Module, ticket: Ticket | None, example: Example
) -> tuple[nn.Module, dict[str, Tensor], dict[str, str]]:
    """The bare model, the mask of each of its layers in forward order, and their kinds."""
    if not isinstance(model, nn.Module):
        raise DisbudError(f"a model is a torch.nn.Module, not a {type(model).__name__}")
    model = bare(model)
    if ticket is not None:
        ticket.check(model)
    owned = parameters(model)
    meta = next((name for name, parameter in owned.items() if parameter.is_meta), None)
    if meta is not None:
        raise DisbudError(f"{meta} is on the meta device and holds no values; materialise the model first")
    if example is None:
        raise DisbudError(
            "paths depend on the size of the input: give example=..., such as torch.zeros(1, 3, 32, 32), or a tuple or "
            "dict of inputs; its numbers do not matter"
        )
    layers = prunable(model, example=example)
    given = {} if ticket is None else dict(ticket.masks)
    names = dict.fromkeys([layer.name for layer in layers] + list(given))
    masks = {
        name: given[name] if name in given else torch.ones(owned[name].shape, dtype=torch.bool, device="cpu")
        for name in names
    }
    return model, masks, {layer.name: layer.kind for layer in layers}


def _gradients(outputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> dict[int, Tensor]:
    """The derivative of the sum of all outputs by each tensor wanted, by identity, where there is any."""
    distinct = {id(tensor): tensor for tensor in wanted if tensor.requires_grad}
    sums = [output.sum() for output in outputs if output.requires_grad]
    if not sums or not distinct:
        return {}
    found = torch.autograd.grad(sums, list(distinct.values()), allow_unused=True)
    return {key: gradient for key, gradient in zip(distinct, found, strict=True) if gradient is not None}


def _leads_on(tensor: Tensor, gradients: Mapping[int, Tensor]) -> Tensor:
    """Where something is reached from an entry."""
    gradient = gradients.get(id(tensor))
    return (
        torch.zeros(tensor.shape, dtype=torch.bool, device="cpu") if gradient is None else gradient.cpu() != 0
    )


def _units(signal: Tensor, axis: int, gradients: Mapping[int, Tensor]) -> Tensor:
    """The units of a signal of which some entry is reached and leads on."""
    on_path = (signal.detach().cpu() > 0) & _leads_on(signal, gradients)
    by_unit = on_path.movedim(axis, 0)
    return by_unit.reshape(len(by_unit), math.prod(by_unit.shape[1:])).any(1)


def _last(outputs: Sequence[Tensor], uses: Sequence[Use]) -> dict[int, int]:
    """The uses, by identity, that an output comes from without another layer in between, and its number."""
    made_by = {use.output.grad_fn: use for use in uses}
    last: dict[int, int] = {}
    for number, output in enumerate(outputs):
        waiting, seen = [output.grad_fn], set()
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if node in made_by:
                last.setdefault(id(made_by[node]), number)
            else:
                waiting += [before for before, _ in node.next_functions]
    return last
