"""Which calls of a graph are made in one pass: layer, BatchNorm, the sum of a residual block, ReLU and pooling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import fx

from disbud.acceleration.layers import SPARSE
from disbud.acceleration.nodes import Nodes, only_user


@dataclass(frozen=True)
class Chain:
    """Calls made as one, in this order; any may be missing, but for a layer, a norm or a sum to begin with."""

    layer: fx.Node | None = None
    norm: fx.Node | None = None
    sum: fx.Node | None = None
    relu: fx.Node | None = None
    pool: fx.Node | None = None

    @property
    def nodes(self) -> list[fx.Node]:
        """The calls, in their order."""
        found = (self.layer, self.norm, self.sum, self.relu, self.pool)
        return [node for node in found if node is not None]

    @property
    def at(self) -> fx.Node:
        """Where in the graph the pass is made: at the sum, whose other side is known by then, or else at once."""
        return self.sum or self.nodes[0]

    @property
    def inputs(self) -> list[fx.Node]:
        """What the first call reads, and the other side of the sum."""
        first = self.nodes[0]
        if first is self.sum:
            return [node for node in self.sum.args if isinstance(node, fx.Node)]
        others = [] if self.sum is None else [n for n in self.sum.all_input_nodes if n is not self.norm]
        return [*first.all_input_nodes, *others]


def chains(graph: Sequence[fx.Node], nodes: Nodes, *, fold: bool) -> list[Chain]:
    """The chains of a graph; with `fold` BatchNorms are joined to the layers before them too."""
    # Of two BatchNorms that are summed the later one takes the sum: there is less between them.
    by_norm: list[Chain] = []
    for node in reversed(graph):
        if nodes.norm(node) is not None:
            taken = {chain.sum for chain in by_norm}
            by_norm.append(_from_norm(graph, node, nodes, taken=taken, fold=fold))
    taken = {chain.sum for chain in by_norm}
    return [*by_norm, *_rectified_sums([node for node in graph if node not in taken], nodes)]


def _from_norm(
    graph: Sequence[fx.Node], norm: fx.Node, nodes: Nodes, *, taken: set[fx.Node | None], fold: bool
) -> Chain:
    (source,) = norm.all_input_nodes
    layer = nodes.layer(source)
    folds = fold and layer is not None and layer.kernel == SPARSE and len(source.users) == 1
    total = next(iter(norm.users)) if len(norm.users) == 1 else None
    if total is None or total in taken or not _takes(total, norm, nodes):
        total = None
    # A pass that waits for the sum must find what it reads as it was.
    if total is not None and not _undisturbed(graph, source if folds else norm, total, nodes, norm=norm):
        total = None
    after = only_user(norm if total is None else total)
    relu = after if after is not None and nodes.is_relu(after) else None
    pool = only_user(relu) if relu is not None and total is None else None
    if pool is not None and not nodes.halves(pool):
        pool = None
    # A pooled pass reads the whole output in any case; folding would save nothing.
    return Chain(source if folds and pool is None else None, norm, total, relu, pool)


def _takes(total: fx.Node, norm: fx.Node, nodes: Nodes) -> bool:
    """Whether the node is a sum with the BatchNorm's output, and in place, if at all, on that."""
    return nodes.is_sum(total) and (not nodes.changes_input(total) or total.args[0] is norm)


def _undisturbed(
    graph: Sequence[fx.Node], first: fx.Node, last: fx.Node, nodes: Nodes, *, norm: fx.Node
) -> bool:
    """Whether nothing between two calls changes what is read, or counts another batch in the norm that waits."""
    between = graph[graph.index(first) + 1 : graph.index(last)]
    return all(
        (nodes.layer(node) is not None or nodes.is_followed(node))
        and not nodes.changes_input(node)
        and (node is norm or nodes.norm(node) is not nodes.norm(norm))
        for node in between
    )


def _rectified_sums(graph: Sequence[fx.Node], nodes: Nodes) -> Iterator[Chain]:
    for node in graph:
        relu = only_user(node) if nodes.is_sum(node) else None
        # In place, whoever holds the first of the two is handed the outcome: both or neither must be so.
        if relu is None or not nodes.is_relu(relu):
            continue
        if not nodes.changes_input(node) or nodes.changes_input(relu):
            yield Chain(sum=node, relu=relu)
