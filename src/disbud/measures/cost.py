"""What a network costs: weights, multiply-adds on one example, and the bytes of the ticket."""

from __future__ import annotations

from torch import Tensor, nn

from disbud.graph import Reading, reach
from disbud.isolation import Example
from disbud.measures.table import Table, Value, total
from disbud.measures.units import units
from disbud.ticket import Ticket
from disbud.ticket_file import encoded


def cost(model: nn.Module, ticket: Ticket | None, *, example: Example) -> Table:
    """Per layer: weights, and the multiply-adds of one example: dense, of the kept weights, and without dead channels.

    `dense` is what the layer computes as it is, `masked` what it would if it could skip every removed weight, `live`
    what a dense layer costs between those of its inputs that are alive and those of its outputs that are fed and lead
    on: the network with its dead channels taken out. (Where branches are added up, a channel alive in one is there in
    the others, so a real network may keep somewhat more than `live` says.) Only layers that can be pruned are counted:
    convolutions, linear layers, the projections of attention. Positions that meet padding count like all others. The
    first axis of the example is the batch, of which one row is taken where the model has one input; a shared layer
    costs as often as it is used.

    >>> import disbud, torch
    >>> from disbud.measures import cost
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(4, 2, 1))
    >>> masks = {"0.weight": torch.ones(4, 1, 3, 3), "1.weight": torch.tensor([1, 1, 0, 0] * 2).view(2, 4, 1, 1)}
    >>> table = cost(model, disbud.Ticket.from_masks(masks), example=torch.zeros(1, 1, 5, 5))
    >>> table["dense"], table["masked"], table["live"]
    ((324, 72), (324, 36), (162, 36))
    >>> table.kept, table.multiply_adds, table.multiply_adds_masked, table.multiply_adds_live
    (40, 396, 360, 198)
    """
    reached = reach(model, ticket, example=example)
    uses: dict[str, list[Reading]] = {}
    for reading in reached.readings:
        uses.setdefault(reading.layer, []).append(reading)
    rows: list[dict[str, Value]] = []
    for layer in units(model, Ticket(reached.effective)):
        size, found = layer.blocks.numel(), uses.get(layer.name, [])
        given = None if ticket is None else ticket.masks.get(layer.name)
        kept = size if given is None else int(given.sum())
        dense = sum(reading.positions * reading.weights for reading in found)
        rows.append(
            {
                "layer": layer.name,
                "weights": size,
                "kept": kept,
                "dense": dense,
                "masked": round(kept * dense / size) if size else 0,
                "live": sum(reading.positions * _live_weights(layer.blocks, reading) for reading in found),
            }
        )
    totals = {column: total(rows, column) for column in ("weights", "kept", "dense", "masked", "live")}
    summary: dict[str, Value] = {
        "parameters": totals["weights"],
        "kept": totals["kept"],
        "multiply_adds": totals["dense"],
        "multiply_adds_masked": totals["masked"],
        "multiply_adds_live": totals["live"],
        "ticket_bytes": None if ticket is None else len(encoded(ticket)),
    }
    return Table.of(rows, summary)


def _live_weights(blocks: Tensor, reading: Reading) -> int:
    """The weights of a dense layer between the live inputs and outputs of this reading, group by group."""
    groups, taps = blocks.shape[0], blocks.shape[3]
    inputs, outputs = (
        side.view(groups, len(side) // groups).sum(1) for side in (reading.alive, reading.outputs)
    )
    return taps * int((inputs * outputs).sum())
