"""Which units of a network are to live, given how many weights each layer may keep.

Layers that write to the same signal, as the two sides of a residual addition do, and all that read it, agree on its
units: these are tied by the links between layers. So many of them live as their writers together can feed and some
reader can read, a weight each; the seed says which.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from disbud.graph.links import Links

Flags = NDArray[np.bool_]


def live_units(
    links: Links, budget: Mapping[str, int], groups: Mapping[str, int], rng: np.random.Generator
) -> tuple[list[Flags], list[Flags]]:
    """For each place, which of its inputs and which of its outputs are to live.

    Units that only one layer writes and one reads number at most the smaller of the two budgets.
    """
    offsets = _Offsets(links)
    root = _joined(offsets.total, offsets.pairs(links))
    kinds = _kinds(links, offsets, root)
    ranks = _ranks(links, offsets, root, groups, rng)
    live = np.ones(offsets.total, bool)
    for (writers, readers, outside), units in kinds.items():
        most = _width(links, budget, len(units), writers, readers, entry=outside[0], exits=outside[1])
        dropped = np.asarray(units)[np.argsort(ranks[units])[most:]]
        live[dropped] = False
    alive = live[root]
    places = range(len(links.places))
    return [alive[offsets.inputs(p)] for p in places], [alive[offsets.outputs(p)] for p in places]


class _Offsets:
    """All input and output units of all places in one row."""

    def __init__(self, links: Links) -> None:
        sizes = [size for place in links.places for size in (place.inputs, place.outputs)]
        self._at = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.total = int(self._at[-1])

    def inputs(self, place: int) -> slice:
        return slice(int(self._at[2 * place]), int(self._at[2 * place + 1]))

    def outputs(self, place: int) -> slice:
        return slice(int(self._at[2 * place + 1]), int(self._at[2 * place + 2]))

    def pairs(self, links: Links) -> NDArray[np.int64]:
        table = links.links
        made = self._at[2 * table[:, 0] + 1] + table[:, 1]
        read = self._at[2 * table[:, 2]] + table[:, 3]
        return np.stack([made, read], 1)


def _joined(total: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """One representative for all units that links tie together, directly or not."""
    root = np.arange(total)
    while True:  # the least number travels along the links, and by pointer jumping
        low = np.minimum(root[pairs[:, 0]], root[pairs[:, 1]])
        new = root.copy()
        np.minimum.at(new, pairs[:, 0], low)
        np.minimum.at(new, pairs[:, 1], low)
        new = new[new]
        if np.array_equal(new, root):
            return root
        root = new


Kind = tuple[frozenset[int], frozenset[int], tuple[bool, bool]]


def _kinds(links: Links, offsets: _Offsets, root: NDArray[np.int64]) -> dict[Kind, list[int]]:
    """The tied units by who writes them, who reads them, and whether they are the model's own input or output."""
    writers: dict[int, set[int]] = defaultdict(set)
    readers: dict[int, set[int]] = defaultdict(set)
    entries: set[int] = set()
    exits: set[int] = set()
    for number in range(len(links.places)):
        read, made = root[offsets.inputs(number)], root[offsets.outputs(number)]
        for unit in read.tolist():
            readers[unit].add(number)
        for unit in made.tolist():
            writers[unit].add(number)
        entries |= set(read[links.entries[number]].tolist())
        exits |= set(made[links.exits[number]].tolist())
    kinds: dict[Kind, list[int]] = defaultdict(list)
    for unit in np.unique(root).tolist():
        outside = (unit in entries, unit in exits)
        kinds[frozenset(writers[unit]), frozenset(readers[unit]), outside].append(unit)
    return kinds


def _width(
    links: Links, budget: Mapping[str, int], size: int, writers: frozenset[int], readers: frozenset[int], *,
    entry: bool, exits: bool,
) -> int:  # fmt: skip
    """How many of `size` tied units can be fed and read; a place of several kinds has budget for each in proportion."""

    def share(place: int, units: int) -> int:
        return max(1, budget.get(links.places[place].layer, 0) * size // max(1, units))

    fed = size if entry or not writers else sum(share(p, links.places[p].outputs) for p in writers)
    read = size if exits or not readers else max(share(p, links.places[p].inputs) for p in readers)
    return min(size, fed, read)


def _ranks(
    links: Links, offsets: _Offsets, root: NDArray[np.int64], groups: Mapping[str, int], rng: np.random.Generator
) -> NDArray[np.float64]:  # fmt: skip
    """Random numbers by which units are ranked, the same on both sides of a depthwise layer."""
    ranks = rng.random(offsets.total)
    tied = []
    for number, place in enumerate(links.places):
        if groups.get(place.layer, 1) == place.inputs == place.outputs > 1:
            tied.append(np.stack([root[offsets.inputs(number)], root[offsets.outputs(number)]], 1))
    if tied:
        ranks = ranks[_joined(offsets.total, np.concatenate(tied))]
    return ranks
