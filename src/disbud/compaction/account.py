"""What compaction did: channels, weights and multiply-adds before and after, and what stayed although dead."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from disbud.compaction.deciding import Decision, links_of
from disbud.compaction.following import Followed
from disbud.compaction.kept import Kept
from disbud.compaction.watching import Layer
from disbud.ticket import Ticket

COUPLED = "is dead in this layer, but what it is added to is alive"


@dataclass(frozen=True)
class LayerAccount:
    """One layer, before and after: units read and made, weights, multiply-adds of the example.

    `dead_but_kept` says of how many of its outputs why they stay although no signal goes through them here.
    """

    name: str
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    weights: tuple[int, int]
    multiply_adds: tuple[int, int]
    dead_but_kept: Mapping[str, int]


@dataclass(frozen=True)
class Account:
    """All layers in the order in which the signal meets them, and the parameters of the whole model.

    >>> import disbud, torch
    >>> from disbud.compaction import compact
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> masks = {"0.weight": torch.ones(3, 2), "2.weight": torch.tensor([[1, 0, 1]])}
    >>> print(compact(model, disbud.Ticket.from_masks(masks)).account)
    parameters 13 -> 9, multiply-adds 9 -> 6 (1.5x fewer)
    layer     inputs  outputs  weights  multiply-adds
    0.weight       2   3 -> 2   6 -> 4         6 -> 4
    2.weight  3 -> 2        1   3 -> 2         3 -> 2
    """

    layers: tuple[LayerAccount, ...]
    parameters: tuple[int, int]

    @property
    def multiply_adds(self) -> tuple[int, int]:
        """Multiply-adds of the example in all layers, before and after."""
        before, after = (sum(layer.multiply_adds[i] for layer in self.layers) for i in (0, 1))
        return before, after

    @property
    def dead_but_kept(self) -> dict[str, int]:
        """How many outputs of layers stay although no signal goes through them, by the reason."""
        found: dict[str, int] = {}
        for layer in self.layers:
            for reason, count in layer.dead_but_kept.items():
                found[reason] = found.get(reason, 0) + count
        return found

    def __str__(self) -> str:
        before, after = self.multiply_adds
        times = f" ({before / after:.1f}x fewer)" if 0 < after < before else ""
        lines = [f"parameters {_change(self.parameters)}, multiply-adds {_change(self.multiply_adds)}{times}"]
        table: list[tuple[str, ...]] = [("layer", "inputs", "outputs", "weights", "multiply-adds")]
        for row in self.layers:
            sizes = (row.inputs, row.outputs, row.weights, row.multiply_adds)
            table.append((row.name, *map(_change, sizes)))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for name, *cells in table:
            aligned = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
            lines.append("  ".join([f"{name:<{widths[0]}}", *aligned]))
        if self.dead_but_kept:
            lines.append("dead, and kept:")
        for layer in self.layers:
            lines += [
                f"  {layer.name}: {count:,} - {reason}" for reason, count in layer.dead_but_kept.items()
            ]
        return "\n".join(lines)


def account_of(ticket: Ticket, followed: Followed, decision: Decision, kept: Mapping[str, Kept]) -> Account:
    """The account of a decision."""
    rows = []
    for name in dict.fromkeys([*followed.layers, *followed.multiply_adds]):
        owned, layer, cost = (
            followed.owned[name],
            followed.layers.get(name),
            followed.multiply_adds.get(name, 0),
        )
        weights = owned.tensor.numel(), math.prod(kept[name].small)
        after = cost // max(1, weights[0]) * weights[1]
        if layer is None:  # attention, which torch runs in one piece
            made, read = owned.tensor.shape[:2]
            rows.append(LayerAccount(name, (read, read), (made, made), weights, (cost, after), {}))
            continue
        inputs, outputs = (
            (len(side), int(decision.stays[followed.channels.of[side]].sum()))
            for side in (layer.inputs, layer.outputs)
        )
        dead = _dead(layer, ticket, followed, decision)
        rows.append(LayerAccount(name, inputs, outputs, weights, (cost, after), dead))
    owned_kept = [
        kept[name] for name, owned in followed.owned.items() if isinstance(owned.tensor, nn.Parameter)
    ]
    sizes = (sum(math.prod(one.shape) for one in owned_kept), sum(math.prod(one.small) for one in owned_kept))
    return Account(tuple(rows), sizes)


def _dead(layer: Layer, ticket: Ticket, followed: Followed, decision: Decision) -> dict[str, int]:
    """The layer's outputs that stay although here no input reaches them or they lead nowhere, counted by the reason."""
    of, held = followed.channels.of, followed.channels.held
    linked = links_of(layer, followed.owned[layer.name].tensor, ticket.masks.get(layer.name))
    reached = linked & decision.fed[of[layer.inputs]].reshape(layer.groups, -1, 1)
    outputs = of[layer.outputs]
    alive = reached.any(1).ravel() & decision.leads[outputs]
    found: dict[str, int] = {}
    for channel in outputs[decision.stays[outputs] & ~alive]:
        elsewhere = decision.fed[channel] and decision.leads[channel] and channel not in held
        reason = COUPLED if elsewhere else decision.reasons[int(channel)]
        found[reason] = found.get(reason, 0) + 1
    return found


def _change(sizes: tuple[int, int]) -> str:
    before, after = sizes
    return f"{before:,}" if after == before else f"{before:,} -> {after:,}"
