"""Effective paths by brute force: a network as an explicit graph of scalar entries, counted in Python integers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy
from numpy.typing import NDArray

NOTHING = -1  # padding, constants, and sums of nothing: no entry at all
Entries = NDArray[numpy.int64]
Mask = NDArray[numpy.bool_]


class Label(NamedTuple):
    """Which weight an edge is, in which call of its layer, between which units of that call."""

    layer: str
    index: tuple[int, ...]
    call: int
    reads: int
    feeds: int


class Edge(NamedTuple):
    source: int
    label: Label | None


class Score(NamedTuple):
    """One attention score: the entries of query, key and value it links, and the outputs it weighs the value in."""

    query: Entries
    key: Entries
    value: Entries
    outputs: Entries


def each(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*map(range, shape))


class Graph:
    """Entries are numbered in the order they are made, so that every edge leads from a lower to a higher number.

    Operations take and return arrays of entry numbers, of the shapes that torch's operations take and return.
    """

    def __init__(self, masks: dict[str, Mask]) -> None:
        self.masks = masks
        self.parents: list[tuple[Edge, ...]] = []
        self.sources: set[int] = set()
        self.gates: dict[int, int] = {}  # a gated entry, and the gate
        self.products: set[int] = set()
        self.scores: dict[int, Score] = {}
        self.read: list[bytes | None] = []  # of each call, which tensor it reads

    # Entries

    def node(self, parents: Sequence[Edge]) -> int:
        parents = tuple(edge for edge in parents if edge.source != NOTHING)
        if not parents:
            return NOTHING
        self.parents.append(parents)
        return len(self.parents) - 1

    def source(self) -> int:
        self.parents.append(())
        self.sources.add(len(self.parents) - 1)
        return len(self.parents) - 1

    def input(self, shape: Sequence[int]) -> Entries:
        found = numpy.empty(tuple(shape), numpy.int64)
        for at in each(shape):
            found[at] = self.source()
        return found

    def sum_of(self, sources: Sequence[int]) -> int:
        return self.node([Edge(int(source), None) for source in sources])

    def call(self, tensor: Entries | None) -> int:
        """A new call of a layer, on a tensor; two calls read the same tensor where its entries are the same."""
        self.read.append(None if tensor is None else numpy.sort(tensor, axis=None).tobytes())
        return len(self.read) - 1

    # Layers

    def linear(self, x: Entries, name: str, rows: slice = slice(None)) -> Entries:
        """The last axis through the weight, or through some of its rows."""
        mask, call = self.masks[name], self.call(x)
        chosen = range(*rows.indices(mask.shape[0]))
        found = numpy.full((*x.shape[:-1], len(chosen)), NOTHING)
        for at in each(x.shape[:-1]):
            for position, row in enumerate(chosen):
                found[(*at, position)] = self.node(
                    [
                        Edge(int(x[(*at, i)]), Label(name, (row, i), call, i, row))
                        for i in mask[row].nonzero()[0].tolist()
                    ]
                )
        return found

    def embedding(self, tokens: NDArray[numpy.int64], name: str | None, features: int) -> Entries:
        """Each looked-up feature is an entry of the input; where the weight can be pruned, behind an edge."""
        found = self.input((*tokens.shape, features))
        if name is None:
            return found
        mask, call = self.masks[name], self.call(None)
        for at in each(tokens.shape):
            token = int(tokens[at])
            for i in range(features):
                edge = Edge(int(found[(*at, i)]), Label(name, (token, i), call, -1, -1))
                found[(*at, i)] = self.node([edge] if mask[token, i] else [])
        return found

    def convolution(
        self,
        x: Entries,
        name: str,
        *,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        size: Sequence[int],
        transposed: bool = False,
    ) -> Entries:
        """(batch, channels, *positions) to the output positions of `size`; padding is that before the first entry."""
        mask, call = self.masks[name], self.call(x)
        n_out = mask.shape[1] * groups if transposed else mask.shape[0]
        parents: dict[tuple[int, ...], list[Edge]] = {}
        for index in map(tuple, numpy.argwhere(mask).tolist()):
            group = index[0] // (mask.shape[0] // groups)
            inner, outer = group * mask.shape[1] + index[1], index[0]
            n, o = (outer, inner) if transposed else (inner, outer)
            # Taps link a position p of the strided map to p * stride - padding + tap * dilation of the other one.
            for p in each(x.shape[2:] if transposed else size):
                along = zip(p, stride, padding, index[2:], dilation, strict=True)
                q = tuple(a * s - b + t * d for a, s, b, t, d in along)
                source, target = (p, q) if transposed else (q, p)
                if all(0 <= a < b for a, b in zip(q, size if transposed else x.shape[2:], strict=True)):
                    edge = Edge(int(x[(0, n, *source)]), Label(name, index, call, n, o))
                    parents.setdefault((o, *target), []).append(edge)
        found = numpy.full((1, n_out, *size), NOTHING)
        for at, edges in parents.items():
            found[(0, *at)] = self.node(edges)
        return found

    # Everything else

    def pool(self, x: Entries, windows: Sequence[Sequence[Sequence[int]]]) -> Entries:
        """(batch, channels, *positions); of each axis, the positions that each window takes."""
        found = numpy.full((*x.shape[:2], *map(len, windows)), NOTHING)
        for at in each(found.shape):
            chosen = [windows[axis][position] for axis, position in enumerate(at[2:])]
            found[at] = self.sum_of([int(x[(*at[:2], *p)]) for p in itertools.product(*chosen)])
        return found

    def reduce(self, x: Entries, axes: Sequence[int], *, keepdim: bool = False) -> Entries:
        """A sum, mean or maximum over axes."""
        axes = [axis % x.ndim for axis in axes]
        moved = numpy.moveaxis(x, axes, range(len(axes))).reshape(-1, *numpy.delete(x.shape, axes))
        found = numpy.empty(moved.shape[1:], numpy.int64)
        for at in each(found.shape):
            found[at] = self.sum_of(moved[(slice(None), *at)].tolist())
        return numpy.expand_dims(found, tuple(axes)) if keepdim else found

    def _joined(self, a: Entries, b: Entries) -> Iterator[tuple[tuple[int, ...], int, int]]:
        a, b = numpy.broadcast_arrays(a, b)
        return ((at, int(a[at]), int(b[at])) for at in each(a.shape))

    def add(self, a: Entries, b: Entries) -> Entries:
        """A sum, difference or maximum of two signals."""
        found = numpy.empty(numpy.broadcast_shapes(a.shape, b.shape), numpy.int64)
        for at, x, y in self._joined(a, b):
            found[at] = self.sum_of([x, y])
        return found

    def product(self, a: Entries, b: Entries) -> Entries:
        """Two signals, neither of them a gate: alive where both are."""
        found = numpy.full(numpy.broadcast_shapes(a.shape, b.shape), NOTHING)
        for at, x, y in self._joined(a, b):
            if NOTHING not in (x, y):
                found[at] = self.sum_of([x, y])
                self.products.add(int(found[at]))
        return found

    def gated(self, signal: Entries, gate: Entries) -> Entries:
        """A signal that is multiplied by the sigmoid or softmax of another."""
        found = numpy.empty(numpy.broadcast_shapes(signal.shape, gate.shape), numpy.int64)
        for at, x, g in self._joined(signal, gate):
            found[at] = self.sum_of([x])
            if NOTHING not in (x, g):
                self.gates[int(found[at])] = g
        return found

    def attention(self, query: Entries, key: Entries, value: Entries, allowed: Mask | None = None) -> Entries:
        """(..., positions, features), the mask (..., query positions, key positions), True where it may look."""
        shape = (*query.shape[:-1], key.shape[-2])
        allowed = numpy.ones(shape, bool) if allowed is None else numpy.broadcast_to(allowed, shape)
        found = numpy.full((*query.shape[:-1], value.shape[-1]), NOTHING)
        for *head, i in each(query.shape[:-1]):
            looked_at = [j for j in range(key.shape[-2]) if allowed[(*head, i, j)]]
            outputs = found[(*head, i)]  # a view: filled in below, after the scores have been numbered
            for j in looked_at:
                rows = query[(*head, i)], key[(*head, j)], value[(*head, j)]
                self.parents.append(())
                self.scores[len(self.parents) - 1] = Score(*rows, outputs)
            for d in range(value.shape[-1]):
                outputs[d] = self.sum_of([int(value[(*head, j, d)]) for j in looked_at])
        return found


class Answer(NamedTuple):
    """What the graph says of a ticket: its effective weights, P, and N with the parts that it is the sum of."""

    effective: dict[str, Mask]
    paths: int
    nodes: int


class Solution:
    """Reachability forward and backward, and the number of paths, by one sweep each over the numbered entries."""

    def __init__(self, graph: Graph, outputs: Sequence[Entries]) -> None:
        self.graph = graph
        self.outputs = [int(e) for entries in outputs for e in entries.reshape(-1) if e != NOTHING]
        self.live = self._live()
        self.useful = self._useful()
        self.counts = self._counts()

    def _live(self) -> list[bool]:
        live: list[bool] = []
        for entry, edges in enumerate(self.graph.parents):
            join = all if entry in self.graph.products else any
            live.append(
                entry in self.graph.sources or (bool(edges) and join(live[edge.source] for edge in edges))
            )
        return live

    def _useful(self) -> list[bool]:
        graph, live = self.graph, self.live
        useful = [False] * len(graph.parents)
        for entry in self.outputs:
            useful[entry] = True
        for entry in reversed(range(len(useful))):
            if entry in graph.scores:
                self._score(graph.scores[entry], useful)
            if not useful[entry]:
                continue
            for i, edge in enumerate(graph.parents[entry]):
                others = [e.source for j, e in enumerate(graph.parents[entry]) if j != i]
                if entry not in graph.products or all(live[other] for other in others):
                    useful[edge.source] = True
            if entry in graph.gates and live[entry]:
                useful[graph.gates[entry]] = True
        return useful

    def _score(self, score: Score, useful: list[bool]) -> None:
        def both(a: int, b: int) -> bool:
            return NOTHING not in (a, b) and self.live[a] and useful[b]

        if any(both(int(v), int(o)) for v, o in zip(score.value, score.outputs, strict=True)):
            for q, k in zip(score.query.tolist(), score.key.tolist(), strict=True):
                if NOTHING not in (q, k):
                    useful[q] |= self.live[k]
                    useful[k] |= self.live[q]

    def _counts(self) -> list[int]:
        counts: list[int] = []
        for entry, edges in enumerate(self.graph.parents):
            here = sum(counts[edge.source] for edge in edges) if self.live[entry] else 0
            counts.append(1 if entry in self.graph.sources else here)
        return counts

    @property
    def paths(self) -> int:
        """P, by dynamic programming."""
        return sum(self.counts[entry] for entry in self.outputs)

    def walks(self) -> Iterator[list[Label]]:
        """Every path from an input entry to an output entry, one by one: the weights it uses, last first."""
        stack: list[tuple[int, list[Label]]] = [(entry, []) for entry in self.outputs]
        while stack:
            entry, labels = stack.pop()
            if entry in self.graph.sources:
                yield labels
            if self.live[entry]:
                for edge in self.graph.parents[entry]:
                    stack.append((edge.source, [*labels, edge.label] if edge.label else labels))

    def used(self) -> set[Label]:
        """The weights, by call, that some path uses or some gate or score needs."""
        return {
            edge.label
            for entry, edges in enumerate(self.graph.parents)
            if self.useful[entry]
            for edge in edges
            if edge.label and self.live[edge.source]
        }

    def _last_calls(self) -> dict[int, int]:
        """The calls of layers that the outputs come from, with only operations without weights between.

        Calls that meet in one output entry, such as those of a residual sum, feed the same units: they share a group.
        """
        group_of: dict[int, int] = {}
        for output in self.outputs:
            found, seen, waiting = set(), {output}, [output]
            while waiting:
                for edge in self.graph.parents[waiting.pop()]:
                    if edge.label is not None:
                        found.add(edge.label.call)
                    elif edge.source not in seen:
                        seen.add(edge.source)
                        waiting.append(edge.source)
            joined = found | {call for call in group_of if group_of[call] in {group_of.get(c) for c in found}}
            group_of.update(dict.fromkeys(joined, min(joined, default=0)))
        return group_of

    def answer(self) -> Answer:
        """Effective weights, P and N."""
        effective = {name: numpy.zeros_like(mask) for name, mask in self.graph.masks.items()}
        read: set[tuple[bytes, int]] = set()
        fed: set[tuple[int, int]] = set()
        last = self._last_calls()
        for label in self.used():
            effective[label.layer][label.index] = True
            tensor = self.graph.read[label.call]
            if tensor is not None:
                read.add((tensor, label.reads))
            if label.call in last:
                fed.add((last[label.call], label.feeds))
        return Answer(effective, self.paths, len(read) + len(fed))
