"""Effective paths and nodes: what a ticket leaves of the ways from input to output (Pham et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from disbud.graph import Reading, log10_paths, reach
from disbud.isolation import Example
from disbud.measures.table import Table, Value, total
from disbud.measures.units import units
from disbud.ticket import Ticket


def paths(model: nn.Module, ticket: Ticket | None, *, example: Example) -> Table:
    """Per layer: kept and effective weights and kernels, dead units; in all: paths, nodes, effective sparsity.

    A path leads from an entry of the input to an entry of the output by way of kept weights only; a weight, a kernel or
    a unit (a channel of a convolution, a feature of a linear layer) is effective if it is on one. Every weight and
    every place in which a convolution uses it is a step of its own. Biases are nothing, normalisation and activations
    the identity, and all pooling sums. Attention mixes evenly: paths lead through its values; its queries and keys,
    like a sigmoid that multiplies a signal, carry none, and are effective where they can change what passes.
    The example gives the size of the input, on which the number of paths depends, and with it which taps of a kernel
    meet only padding; its first axis is the batch, of which one row is taken where the model has one input. With no
    ticket the dense network is measured.

    `dead_inputs` are units that no effective weight of the layer reads, `dead_outputs` units that none feeds. `nodes`
    counts the units of each signal that effective weights read, once for all layers that read it (so a residual block's
    first convolution and the convolution of its shortcut count once), and the units of the outputs.
    `effective_sparsity` is 1 - effective / weights, over the layers of the ticket.

    >>> import disbud, torch
    >>> from disbud.measures import paths
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> masks = {"0.weight": torch.tensor([[1, 1], [1, 0]]), "2.weight": torch.tensor([[1, 0]])}
    >>> table = paths(model, disbud.Ticket.from_masks(masks), example=torch.zeros(1, 2))
    >>> round(10**table.log10_paths), table.nodes, table["kept"], table["effective"]
    (2, 4, (3, 1), (2, 1))
    >>> round(table.sparsity, 3), round(table.effective_sparsity, 3)
    (0.333, 0.5)
    """
    reached = reach(model, ticket, example=example)
    kept = Ticket(reached.effective)
    rows: list[dict[str, Value]] = []
    for layer in units(model, kept):
        given = None if ticket is None else ticket.masks.get(layer.name)
        kernels = layer.blocks.any(3)
        rows.append(
            {
                "layer": layer.name,
                "weights": layer.blocks.numel(),
                "kept": layer.blocks.numel() if given is None else _count(given),
                "effective": _count(layer.blocks),
                "kernels": _count(kernels),
                "inputs": kernels.shape[0] * kernels.shape[1],
                "dead_inputs": _count(~kernels.any(2)),
                "outputs": kernels.shape[0] * kernels.shape[2],
                "dead_outputs": _count(~kernels.any(1)),
            }
        )
    own = [row for row in rows if ticket is None or row["layer"] in ticket.masks]
    unseen = [row for row in rows if row["layer"] not in {reading.layer for reading in reached.readings}]
    summary: dict[str, Value] = {
        "log10_paths": log10_paths(model, kept, example=example),
        "nodes": _nodes(reached.readings) + total(unseen, "inputs") - total(unseen, "dead_inputs"),
        "effective_parameters": total(own, "effective"),
        "effective_kernels": total(own, "kernels"),
        "effective_sparsity": _removed(own, "effective"),
        "sparsity": _removed(own, "kept"),
        "empty_layers": sum(not row["kept"] and bool(row["weights"]) for row in rows),
    }
    return Table.of(rows, summary)


def _nodes(readings: Sequence[Reading]) -> int:
    """Units of signals that are read, each signal once, and of the outputs."""
    alive: dict[object, Tensor] = {}
    for reading in readings:
        sides = [("read", reading.source, reading.inputs)]
        if reading.output is not None:
            sides.append(("output", reading.output, reading.outputs))
        for side, number, effective in sides:
            key = (side, number, len(effective))
            alive[key] = alive[key] | effective if key in alive else effective
    return sum(map(_count, alive.values()))


def _count(flags: Tensor) -> int:
    return int(flags.sum())


def _removed(rows: Sequence[dict[str, Value]], column: str) -> float:
    weights = total(rows, "weights")
    return 1 - total(rows, column) / weights if weights else 0.0
