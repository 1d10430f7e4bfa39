"""Whole channels: which of a network's units go together, and as many of them as a budget of weights allows.

Units are coupled where the linearised network joins them: the outputs of layers that an addition joins, and the inputs
they feed. What feeds what is told unit by unit, past concatenations and views, and does not depend on how a model is
written: torch-pruning's dependency graph misses layers whose weights a forward uses without calling the module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from disbud.errors import DisbudError
from disbud.graph import prunable
from disbud.graph.kernels import Kernels
from disbud.graph.layers import Layer
from disbud.graph.links import Links, links
from disbud.isolation import Example
from disbud.selection.groups import Numbers, Places, order
from disbud.selection.readings import check_inputs_whole

Budgets = Sequence[tuple[Sequence[str], int]]


@dataclass(frozen=True)
class _Units:
    """A layer's weight by (group, input, output, tap), and the channel that each of its units is of."""

    kernels: Kernels
    inputs: Places
    outputs: Places

    @property
    def taps(self) -> int:
        return self.kernels.sizes[3]


@dataclass
class _Touch:
    """What a channel adds to a layer: so many inputs and outputs in each of its groups."""

    layer: str
    inputs: Places
    outputs: Places


class Channels:
    """The channels of a model: sets of units that are kept or pruned together, with the weights that are theirs.

    A weight stays where the channels of its input and of its output stay. The model's inputs and outputs stay, and so
    does a channel with a unit in a layer that is not to be pruned. Queries and keys have channels of their own.
    """

    def __init__(self, model: nn.Module, layers: Sequence[Layer], *, example: Example) -> None:
        every = {layer.name: layer for layer in prunable(model, example=example)}
        every |= {layer.name: layer for layer in layers}
        found = links(model, every, example=example)
        kernels = {name: Kernels.of(layer) for name, layer in every.items()}
        check_inputs_whole(found, kernels)
        starts = _starts(kernels)
        channel_of, free = _channels(found, kernels, starts, chosen={layer.name for layer in layers})
        self.free = free  # which channels may go
        self._layers: dict[str, _Units] = {}
        for layer in layers:
            g, rows, columns, _ = kernels[layer.name].sizes
            inputs, outputs = (starts[layer.name, side] for side in ("in", "out"))
            self._layers[layer.name] = _Units(
                kernels[layer.name],
                channel_of[inputs : inputs + g * rows].reshape(g, rows),
                channel_of[outputs : outputs + g * columns].reshape(g, columns),
            )
        self._touches = self._all_touches(len(free))
        if not free.any():
            raise DisbudError(
                "no channel of these layers can go: each is held by the model's input or output or by a layer that is "
                "to stay whole; prune kernels or weights"
            )
        kinds: dict[tuple[object, ...], int] = {}
        self.kinds = np.array(
            [kinds.setdefault(_signature(self._touches[c]), len(kinds)) for c in range(len(free))], np.int64
        )

    def shares(self, name: str) -> tuple[Numbers, Numbers]:
        """What part of a layer's inputs, and of its outputs, the channels of each kind are that may go."""
        units, count = self._layers[name], int(self.kinds.max()) + 1
        parts = []
        for channels in (units.inputs, units.outputs):
            going = channels[self.free[channels]]
            parts.append(np.bincount(self.kinds[going], minlength=count) / max(1, channels.size))
        return parts[0], parts[1]

    def values(self, scores: Mapping[str, Tensor], aggregate: str) -> Numbers:
        """The score of each channel: the sum over all weights that go with it, or the absolute value of that."""
        total = np.zeros(len(self.free))
        for name, units in self._layers.items():
            blocks = units.kernels.split(scores[name].detach().to("cpu", torch.float64)).sum(3).numpy()
            np.add.at(total, units.inputs, blocks.sum(2))
            np.add.at(total, units.outputs, blocks.sum(1))
            if not np.intersect1d(units.inputs, units.outputs).size:
                continue
            both = units.inputs[:, :, None] == units.outputs[:, None, :]  # counted once
            np.subtract.at(total, np.broadcast_to(units.inputs[:, :, None], both.shape)[both], blocks[both])
        return np.abs(total) if aggregate == "abs-of-sum" else total

    def choose(
        self, values: Numbers, budgets: Budgets, *, keep: str, among: NDArray[np.bool_] | None
    ) -> NDArray[np.bool_]:
        """The channels that stay: in the order of their values, each that fits within what the budgets have left.

        The first of each kind, which are those between the same layers, stays whatever the others are worth.
        """
        staying = ~self.free
        candidates = [c for c in order(values, keep) if self.free[c] and (among is None or among[c])]
        filling = _Filling(self._layers, staying, budgets)
        first_of: dict[int, int] = {}
        for c in candidates:
            first_of.setdefault(int(self.kinds[c]), c)
        firsts = list(first_of.values())
        for c in firsts:
            filling.add(self._touches[c])
        filling.check()
        taken = set(firsts)
        for c in candidates:
            if c not in taken and filling.fits(self._touches[c]):
                filling.add(self._touches[c])
                taken.add(c)
        staying[list(taken)] = True
        return staying

    def masks(self, staying: NDArray[np.bool_]) -> dict[str, Tensor]:
        """The weights between channels that stay."""
        found = {}
        for name, units in self._layers.items():
            blocks = staying[units.inputs][:, :, None] & staying[units.outputs][:, None, :]
            spread = torch.from_numpy(blocks)[..., None].expand(*blocks.shape, units.taps)
            found[name] = units.kernels.join(spread)
        return found

    def _all_touches(self, count: int) -> list[list[_Touch]]:
        touches: list[dict[str, _Touch]] = [{} for _ in range(count)]
        for name, units in self._layers.items():
            groups = len(units.inputs)
            for channels, side in ((units.inputs, "inputs"), (units.outputs, "outputs")):
                for group, row in enumerate(channels):
                    for c, times in zip(*np.unique(row, return_counts=True), strict=True):
                        touch = touches[c].setdefault(
                            name, _Touch(name, np.zeros(groups, np.int64), np.zeros(groups, np.int64))
                        )
                        getattr(touch, side)[group] += times
        return [list(found.values()) for found in touches]


class _Filling:
    """How many units of each layer stay, and what that leaves of each budget."""

    def __init__(self, layers: Mapping[str, _Units], staying: NDArray[np.bool_], budgets: Budgets) -> None:
        self._taps = {name: units.taps for name, units in layers.items()}
        self._inputs = {name: staying[units.inputs].sum(1) for name, units in layers.items()}
        self._outputs = {name: staying[units.outputs].sum(1) for name, units in layers.items()}
        self._budget_of = {name: i for i, (names, _) in enumerate(budgets) for name in names}
        self._names = [list(names) for names, _ in budgets]
        self._asked = [count for _, count in budgets]
        self._left = list(self._asked)
        for name, i in self._budget_of.items():
            self._left[i] -= self._taps[name] * int(self._inputs[name] @ self._outputs[name])

    def _costs(self, touches: Sequence[_Touch]) -> dict[int, int]:
        costs: dict[int, int] = {}
        for touch in touches:
            inputs, outputs = self._inputs[touch.layer], self._outputs[touch.layer]
            more = int((inputs + touch.inputs) @ (outputs + touch.outputs) - inputs @ outputs)
            i = self._budget_of[touch.layer]
            costs[i] = costs.get(i, 0) + self._taps[touch.layer] * more
        return costs

    def fits(self, touches: Sequence[_Touch]) -> bool:
        return all(cost <= self._left[i] for i, cost in self._costs(touches).items())

    def add(self, touches: Sequence[_Touch]) -> None:
        for i, cost in self._costs(touches).items():
            self._left[i] -= cost
        for touch in touches:
            self._inputs[touch.layer] = self._inputs[touch.layer] + touch.inputs
            self._outputs[touch.layer] = self._outputs[touch.layer] + touch.outputs

    def check(self) -> None:
        for names, asked, left in zip(self._names, self._asked, self._left, strict=True):
            if left < 0:
                listed = f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
                raise DisbudError(
                    f"one channel of each kind has {asked - left:,} weights in {listed}, and {asked:,} are to be kept; "
                    "ask for a lower sparsity, or for kernels or weights"
                )


def _starts(kernels: Mapping[str, Kernels]) -> dict[tuple[str, str], int]:
    """The number of the first input and of the first output unit of each layer, of all units in a row."""
    starts, next_ = {}, 0
    for name, layout in kernels.items():
        g, rows, columns, _ = layout.sizes
        starts[name, "in"], starts[name, "out"] = next_, next_ + g * rows
        next_ += g * (rows + columns)
    starts["", "end"] = next_
    return starts


def _channels(
    found: Links, kernels: Mapping[str, Kernels], starts: Mapping[tuple[str, str], int], *, chosen: set[str]
) -> tuple[Places, NDArray[np.bool_]]:
    """The channel of each unit, and which channels may go."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    total = starts["", "end"]
    into = np.array([starts[place.layer, "in"] for place in found.places], np.int64)
    out_of = np.array([starts[place.layer, "out"] + place.first for place in found.places], np.int64)
    edges = [
        np.stack([out_of[found.links[:, 0]] + found.links[:, 1], into[found.links[:, 2]] + found.links[:, 3]])
    ]
    held, makes = np.zeros(total, bool), np.zeros(total, bool)
    for i, (entries, exits) in enumerate(zip(found.entries, found.exits, strict=True)):
        held[into[i] + entries] = True
        held[out_of[i] + exits] = True
    for name, layout in kernels.items():
        g, rows, columns, _ = layout.sizes
        outputs = starts[name, "out"] + np.arange(g * columns)
        makes[outputs] = True
        if name not in chosen:
            held[outputs] = True
        if g > 1 and rows == 1:  # depthwise: an output is of one input alone, and goes with it if that can go
            inputs = starts[name, "in"] + np.arange(g * columns) // columns
            edges.append(np.stack([inputs, outputs])[:, ~held[inputs]])
    rows_, columns_ = np.concatenate(edges, axis=1)
    graph = coo_array((np.ones(len(rows_), bool), (rows_, columns_)), shape=(total, total))
    count, channel_of = connected_components(graph, directed=False)
    free = np.zeros(count, bool)
    free[channel_of[makes]] = True
    free[channel_of[held]] = False
    return channel_of.astype(np.int64), free


def _signature(touches: Sequence[_Touch]) -> tuple[object, ...]:
    return tuple((touch.layer, bool(touch.inputs.any()), bool(touch.outputs.any())) for touch in touches)
