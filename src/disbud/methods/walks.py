"""Random walks from unit to unit of a network, biased towards large weights: thousands at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from disbud.errors import DisbudError
from disbud.graph.kernels import Kernels
from disbud.graph.layers import Layer
from disbud.graph.links import Links, Place, Units

Masses = NDArray[np.float64]


class Walks:
    """The units of a network, the weights that lead from one to the next, and how likely a walk takes each.

    From an input unit of a layer a walk takes one of the unit's weights with probability proportional to its size, thus
    a kernel by its l1 norm and a tap by its size within; so it reaches an output unit. Of the readings that unit feeds,
    past additions, concatenations and pooling, it takes one in proportion to the l1 norm of the weights there,
    whichever layer they belong to. Backwards it goes the same way round. It only takes weights
    that are on a path of the dense network, by which it cannot get stuck.
    """

    def __init__(
        self,
        found: Links,
        layers: Sequence[Layer],
        weights: Mapping[str, Tensor],
        usable: Mapping[str, Tensor],
    ) -> None:
        self.links = found
        of_name = {layer.name: layer for layer in layers}
        starts = np.cumsum([0, *(layer.size for layer in layers)])
        offset = dict(zip(of_name, starts.tolist(), strict=False))
        self.rooms: list[_Room] = []
        for place in found.places:
            sized = weights[place.layer].detach().abs().double().cpu() * usable[place.layer].cpu()
            self.rooms.append(_Room(of_name[place.layer], sized, place, offset[place.layer]))
        self._close_dead_ends()
        self._onward = [_Doors(*self._from(p)) for p in range(len(self.rooms))]
        self._backward = [_Doors(*self._to(p)) for p in range(len(self.rooms))]
        self._entries = self._outside(found.entries, [room.leaving for room in self.rooms])
        self._exits = self._outside(found.exits, [room.arriving for room in self.rooms])

    @property
    def connected(self) -> bool:
        """Whether there is any walk."""
        return len(self._entries) > 0 and len(self._exits) > 0

    def forward(self, count: int, rng: np.random.Generator) -> Units:
        """So many walks from input units, drawn evenly, to the output: a row each of weights, -1 where it took none."""
        start = self._entries[rng.integers(len(self._entries), size=count)]
        taken = np.full((count, len(self.rooms)), -1, np.int64)
        at, unit = start[:, 0].copy(), start[:, 1].copy()
        for number, room in enumerate(self.rooms):
            here = np.flatnonzero(at == number)
            if len(here):
                taken[here, number], made = room.leave(unit[here], rng)
                at[here], unit[here] = self._onward[number].through(made, rng)
        return taken

    def backward(self, count: int, rng: np.random.Generator) -> Units:
        """So many walks from output units, drawn evenly, to the input."""
        start = self._exits[rng.integers(len(self._exits), size=count)]
        taken = np.full((count, len(self.rooms)), -1, np.int64)
        at, unit = start[:, 0].copy(), start[:, 1].copy()
        for number in reversed(range(len(self.rooms))):
            here = np.flatnonzero(at == number)
            if len(here):
                taken[here, number], read = self.rooms[number].enter(unit[here], rng)
                at[here], unit[here] = self._backward[number].through(read, rng)
        return taken

    def _close_dead_ends(self) -> None:
        """Take out what no walk from the input gets to or no walk to the output leaves from."""
        table = self.links.links
        for number, room in enumerate(self.rooms):
            rows = table[table[:, 2] == number]
            fed = np.zeros(room.inputs, bool)
            fed[self.links.entries[number]] = True
            for before in np.unique(rows[:, 0]):
                some = rows[rows[:, 0] == before]
                fed[some[self.rooms[before].arriving[some[:, 1]] > 0, 3]] = True
            room.keep_inputs(fed)
        for number in reversed(range(len(self.rooms))):
            rows = table[table[:, 0] == number]
            leads = np.zeros(self.rooms[number].outputs, bool)
            leads[self.links.exits[number]] = True
            for after in np.unique(rows[:, 2]):
                some = rows[rows[:, 2] == after]
                leads[some[self.rooms[after].leaving[some[:, 3]] > 0, 1]] = True
            self.rooms[number].keep_outputs(leads)
        for room in self.rooms:
            room.close()

    def _from(self, number: int) -> tuple[int, Units, Units, Units, Masses, Units]:
        rows = self.links.links[self.links.links[:, 0] == number]
        mass = np.array([self.rooms[p].leaving[u] for p, u in rows[:, 2:]])
        return self.rooms[number].outputs, rows[:, 1], rows[:, 2], rows[:, 3], mass, self.links.exits[number]

    def _to(self, number: int) -> tuple[int, Units, Units, Units, Masses, Units]:
        rows = self.links.links[self.links.links[:, 2] == number]
        mass = np.array([self.rooms[p].arriving[u] for p, u in rows[:, :2]])
        return self.rooms[number].inputs, rows[:, 3], rows[:, 0], rows[:, 1], mass, self.links.entries[number]

    def _outside(self, units: Sequence[Units], masses: Sequence[Masses]) -> Units:
        pairs = [
            np.stack([np.full(len(found), p), found], 1)[mass[found] > 0]
            for p, (found, mass) in enumerate(zip(units, masses, strict=True))
        ]
        return np.concatenate(pairs) if pairs else np.zeros((0, 2), np.int64)


class _Room:
    """One reading of a layer: its weights by input unit and by output unit."""

    def __init__(self, layer: Layer, sized: Tensor, place: Place, offset: int) -> None:
        inputs, outputs, first = place.inputs, place.outputs, place.first
        part = (
            len(sized) != outputs and layer.kind != "transposed-conv"
        )  # some of its rows: units that it makes
        sized = sized[first : first + outputs] if part else sized
        self._start = offset + (first * math.prod(layer.shape[1:]) if part else 0)
        kernels = Kernels.of(replace(layer, shape=tuple(sized.shape)), inputs=inputs, outputs=outputs)
        self._transposed = kernels.transposed
        self._sizes = groups, rows, columns, _ = kernels.sizes
        if (groups * rows, groups * columns) != (inputs, outputs):
            raise DisbudError(
                f"{layer.name}, of shape {layer.shape}, is read with {inputs} inputs and {outputs} outputs, so walks "
                f"cannot tell its units; leave it out, as in exclude='{layer.name}', or take a method that scores"
            )
        self.inputs, self.outputs = inputs, outputs
        self._blocks = kernels.split(sized).contiguous().numpy()
        self._total()

    def _total(self) -> None:
        self.leaving: Masses = self._blocks.sum((2, 3)).reshape(-1)
        self.arriving: Masses = self._blocks.sum((1, 3)).reshape(-1)

    def keep_inputs(self, fed: NDArray[np.bool_]) -> None:
        if not fed.all():
            self._blocks = self._blocks * fed.reshape(self._blocks.shape[0], -1, 1, 1)
            self._total()

    def keep_outputs(self, leads: NDArray[np.bool_]) -> None:
        if not leads.all():
            self._blocks = self._blocks * leads.reshape(self._blocks.shape[0], 1, -1, 1)
            self._total()

    def close(self) -> None:
        """Running sums, by which a weight is drawn."""
        self._by_input = np.cumsum(self._blocks)
        self._by_output = np.cumsum(self._blocks.transpose(0, 2, 1, 3))
        del self._blocks

    def leave(self, units: Units, rng: np.random.Generator) -> tuple[Units, Units]:
        """A weight of each input unit, and the output unit it leads to."""
        _, rows, columns, taps = self._sizes
        within = _drawn(self._by_input, units, columns * taps, rng)
        group, i = np.divmod(units, rows)
        o, tap = np.divmod(within, taps)
        return self._place(group, i, o, tap), group * columns + o

    def enter(self, units: Units, rng: np.random.Generator) -> tuple[Units, Units]:
        """A weight of each output unit, and the input unit it comes from."""
        _, rows, columns, taps = self._sizes
        within = _drawn(self._by_output, units, rows * taps, rng)
        group, o = np.divmod(units, columns)
        i, tap = np.divmod(within, taps)
        return self._place(group, i, o, tap), group * rows + i

    def _place(self, group: Units, i: Units, o: Units, tap: Units) -> Units:
        _, rows, columns, taps = self._sizes
        if self._transposed:
            return self._start + ((group * rows + i) * columns + o) * taps + tap
        return self._start + ((group * columns + o) * rows + i) * taps + tap


class _Doors:
    """Which units of other places a unit leads to, and how likely each is; place -1 is the end of the walk."""

    def __init__(
        self, units: int, own: Units, place: Units, unit: Units, mass: Masses, outside: Units
    ) -> None:
        own = np.concatenate([own, outside])
        place = np.concatenate([place, np.full(len(outside), -1)])
        unit = np.concatenate([unit, np.zeros(len(outside), np.int64)])
        going = np.bincount(own[: len(mass)], weights=mass, minlength=units) if len(mass) else np.zeros(units)
        # A unit that is both read on and shown as an output ends as often as it goes on.
        mass = np.concatenate([mass, np.where(going[outside] > 0, going[outside], 1.0)])
        order = np.argsort(own, kind="stable")
        self._place, self._unit = place[order], unit[order]
        self._sums = np.cumsum(mass[order])
        self._ends = np.cumsum(np.bincount(own, minlength=units))

    def through(self, units: Units, rng: np.random.Generator) -> tuple[Units, Units]:
        found = _within(self._sums, np.concatenate([[0], self._ends])[units], self._ends[units], rng)
        return self._place[found], self._unit[found]


def _drawn(sums: Masses, rows: Units, width: int, rng: np.random.Generator) -> Units:
    return _within(sums, rows * width, (rows + 1) * width, rng) - rows * width


def _within(sums: Masses, begin: Units, end: Units, rng: np.random.Generator) -> Units:
    """An index from begin to end for each, in proportion to the steps of the running sums there."""
    low = np.where(begin > 0, sums[begin - 1], 0.0)
    high = sums[end - 1]
    target = low + (high - low) * rng.random(len(begin))
    target = np.minimum(target, np.nextafter(high, -np.inf))  # the last step that is not zero, at most
    found = np.searchsorted(sums, target, side="right")
    return np.clip(found, begin, end - 1)


def positions(masks: Mapping[str, Tensor]) -> NDArray[np.bool_]:
    """The masks of all layers in one row."""
    return torch.cat([mask.cpu().reshape(-1) for mask in masks.values()]).numpy()
