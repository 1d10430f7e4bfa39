"""The degrees of a ticket's units: how many kept weights each one reads, and how many read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from disbud.graph import is_chain, prunable
from disbud.graph.links import links
from disbud.isolation import Example, bare
from disbud.measures.table import Table, Value
from disbud.measures.units import Units, check_edges, units
from disbud.ticket import Ticket


def degrees(
    model: nn.Module, ticket: Ticket, *, edges: str = "weights", example: Example | None = None
) -> Table:
    """Per layer: the in-degrees of its output units, the out-degrees of its input units, and those that are 0.

    A unit is a channel of a convolution or a feature of a linear layer. With `edges="weights"` a degree counts kept
    weights; with `edges="kernels"` it counts the units on the other side that at least one kept weight leads to.
    `unread_inputs` are input units no weight of the layer reads, `unfed_outputs` output units no weight feeds.

    Of the hidden units behind a layer, `sinks` are fed but never read, `sources` read but never fed (they pass on a
    constant), `disconnected` neither. They stand in the row of the layer that feeds them. With an `example` they are
    found in any network; where branches are added up, a unit is fed if any of them feeds it, and read if any layer
    behind reads it. Without, they are found where each layer feeds only the next (`disbud.graph.is_chain`), and are
    None elsewhere, as they are for the outputs of the model and for layers that are used more than once. A channel that
    is flattened into several inputs is read where any of them is.

    >>> import disbud, torch
    >>> from disbud.measures import degrees
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    >>> masks = {"0.weight": torch.tensor([[1, 1], [1, 0], [0, 0]]), "1.weight": torch.tensor([[1, 0, 0]])}
    >>> table = degrees(model, disbud.Ticket.from_masks(masks))
    >>> table["in_mean"][0], table["in_max"][0], table["unfed_outputs"][0]
    (1.0, 2, 1)
    >>> table["sinks"][0], table["sources"][0], table["disconnected"][0]
    (1, 0, 1)
    """
    check_edges(edges)
    found = list(units(model, ticket))
    hidden = _in_chain(model, found) if example is None else _anywhere(model, found, example)
    rows: list[dict[str, Value]] = []
    for layer in found:
        counted = layer.edges(edges)
        into, out = counted.sum(0), counted.sum(1)
        rows.append(
            {
                "layer": layer.name,
                "inputs": len(out),
                "outputs": len(into),
                "edges": int(into.sum()),
                **_described("in", into),
                **_described("out", out),
                "unread_inputs": int((out == 0).sum()),
                "unfed_outputs": int((into == 0).sum()),
                **hidden.get(layer.name, dict.fromkeys(("sinks", "sources", "disconnected"))),
            }
        )
    summary: dict[str, Value] = {"counted": edges}
    for name in ("edges", "unread_inputs", "unfed_outputs", "sinks", "sources", "disconnected"):
        summary[name] = _sum(row[name] for row in rows)
    return Table.of(rows, summary)


def degree_distribution(model: nn.Module, ticket: Ticket, *, edges: str = "weights") -> Table:
    """How many units of each layer have which degree: one row for each layer, side and degree that occurs.

    `side` is "in" for the in-degrees of output units, "out" for the out-degrees of input units. `edges` is as in
    `degrees`.

    >>> import disbud, torch
    >>> from disbud.measures import degree_distribution
    >>> ticket = disbud.Ticket.from_masks({"weight": torch.tensor([[1, 1], [1, 0], [0, 0]])})
    >>> print(degree_distribution(torch.nn.Linear(2, 3), ticket))
    layer   side  degree  units
    weight  in         0      1
    weight  in         1      1
    weight  in         2      1
    weight  out        1      1
    weight  out        2      1
    counted: weights
    """
    check_edges(edges)
    rows: list[dict[str, Value]] = []
    for layer in units(model, ticket):
        counted = layer.edges(edges)
        for side, of in (("in", counted.sum(0)), ("out", counted.sum(1))):
            occurring = zip(*(part.tolist() for part in of.long().unique(return_counts=True)), strict=True)
            rows += [
                {"layer": layer.name, "side": side, "degree": degree, "units": count}
                for degree, count in occurring
            ]
    return Table.of(rows, {"counted": edges})


def _described(side: str, of: Tensor) -> dict[str, Value]:
    if not len(of):
        return {f"{side}_{name}": None for name in ("mean", "sd", "min", "max")}
    return {
        f"{side}_mean": float(of.mean()),
        f"{side}_sd": float(of.std(correction=0)),
        f"{side}_min": int(of.min()),
        f"{side}_max": int(of.max()),
    }


def _in_chain(model: nn.Module, found: Sequence[Units]) -> dict[str, dict[str, Value]]:
    """Sinks, sources and disconnected units behind each layer that is followed by another one of the ticket."""
    model = bare(model)
    if not is_chain(model):
        return {}
    by_name = {layer.name: layer for layer in found}
    hidden: dict[str, dict[str, Value]] = {}
    for layer, follower in pairwise(prunable(model)):
        if layer.name not in by_name or follower.name not in by_name:
            continue
        if layer.aliases or follower.aliases:  # a shared weight is met at several places
            continue
        fed, read = by_name[layer.name].kept.any(0), by_name[follower.name].kept.any(1)
        if not len(fed) or len(read) % len(fed):
            continue
        read = read.view(len(fed), -1).any(1)
        hidden[layer.name] = _counted(fed, read, ~fed & read)
    return hidden


def _anywhere(model: nn.Module, found: Sequence[Units], example: Example) -> dict[str, dict[str, Value]]:
    """The same, by the links between the units of all layers."""
    by_name = {layer.name: layer for layer in found}
    net = links(bare(model), list(by_name), example=example)
    kept = [
        by_name[place.layer].kept[:, place.first : place.first + place.outputs] > 0 for place in net.places
    ]
    fed, wanted = [mask.any(0) for mask in kept], [mask.any(1) for mask in kept]
    arriving, read = [torch.zeros_like(mask) for mask in wanted], [torch.zeros_like(mask) for mask in fed]
    starved = [torch.zeros_like(mask) for mask in fed]
    for units_in, mask in zip(net.entries, arriving, strict=True):
        mask[torch.from_numpy(units_in)] = True
    rows = torch.from_numpy(net.links)
    between = [
        (int(a), int(b), rows[(rows[:, 0] == a) & (rows[:, 2] == b)])
        for a, b in rows[:, [0, 2]].unique(dim=0)
    ]
    for feeder, reader, linked in between:
        arriving[reader].index_put_((linked[:, 3],), fed[feeder][linked[:, 1]], accumulate=True)
    for feeder, reader, linked in between:
        unit, into = linked[:, 1], linked[:, 3]
        read[feeder].index_put_((unit,), wanted[reader][into], accumulate=True)
        starved[feeder].index_put_((unit,), (wanted[reader] & ~arriving[reader])[into], accumulate=True)
    uses = Counter(place.layer for place in net.places)
    return {
        place.layer: _counted(fed[number], read[number], ~fed[number] & starved[number])
        for number, place in enumerate(net.places)
        if uses[place.layer] == 1 and not len(net.exits[number])
    }


def _counted(fed: Tensor, read: Tensor, sources: Tensor) -> dict[str, Value]:
    return {
        "sinks": int((fed & ~read).sum()),
        "sources": int(sources.sum()),
        "disconnected": int(torch.logical_not(fed | read).sum()),
    }


def _sum(values: Iterable[Value]) -> int | None:
    defined = [value for value in values if isinstance(value, int)]
    return sum(defined) if defined else None
