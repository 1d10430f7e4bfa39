"""How well each layer of a ticket expands: spectral gaps, and the Ramanujan bound (Hoang et al. 2023).

A layer is a bipartite graph with biadjacency matrix B; its adjacency matrix has the eigenvalues +s and -s for every
singular value s of B. So the largest eigenvalue is s_1, and the largest that is not trivial, mu, is s_2. Units without
an edge are left out, as the released code of Hoang et al. 2023 does; d_in is the mean degree of the input units left,
d_out that of the output units. The graph is Ramanujan where mu <= sqrt(d_in - 1) + sqrt(d_out - 1).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor, nn

from disbud.errors import unknown_name
from disbud.measures.spectrum import two_largest
from disbud.measures.table import Table, Value
from disbud.measures.units import Units, units
from disbud.ticket import Ticket

GRAPHS = ("taps", "kernels", "counts")
_LEAST_DEGREE = 3  # of either side's mean, as in the release


def expansion(model: nn.Module, ticket: Ticket, *, graph: str = "taps") -> Table:
    """Per layer: the two largest singular values of its graph, the spectral gap, and the Ramanujan bound.

    `graph="taps"` unrolls a convolution, as Hoang et al. 2023 do: an input unit is one tap of one input channel, an
    edge one kept weight. `graph="kernels"` takes channels as units, with an edge where the kernel holds any kept
    weight; `graph="counts"` weighs that edge by the number of weights it holds, and has no Ramanujan bound, which is
    one for edges of weight 1. For linear layers the three are the same.

    `gap` is s_1 - s_2, `relative_gap` 1 - s_2 / s_1. `difference` is sqrt(d_in - 1) + sqrt(d_out - 1) - s_2, at least 0
    for a Ramanujan graph. `imdb`, the iterative mean difference of bound, is the mean of that difference over the
    subgraphs of the input units that share one degree, where the mean degree is at least 3 on both sides; `subgraphs`
    says how many these are. `relative_imdb` divides each difference by its bound.

    >>> import disbud, torch
    >>> from disbud.measures import expansion
    >>> ticket = disbud.Ticket.from_masks({"weight": torch.ones(5, 5)})
    >>> table = expansion(torch.nn.Linear(5, 5), ticket)
    >>> table["gap"], table["difference"]
    ((5.0,), (4.0,))
    """
    if graph not in GRAPHS:
        raise unknown_name("graph of a layer", str(graph), GRAPHS)
    rows = [_row(layer, graph) for layer in units(model, ticket)]
    summary: dict[str, Value] = {"graph": graph}
    for name in ("relative_gap", "difference", "imdb", "relative_imdb"):
        values = [row[name] for row in rows]
        defined = [value for value in values if isinstance(value, float)]
        summary[name] = sum(defined) / len(defined) if defined else None
    return Table.of(rows, summary)


class _Bound(NamedTuple):
    """sqrt(d_in - 1) + sqrt(d_out - 1) of a graph, and its second singular value."""

    value: float
    second: float

    @property
    def difference(self) -> float:
        return self.value - self.second


def _row(layer: Units, graph: str) -> dict[str, Value]:
    edges = _connected(layer.taps if graph == "taps" else layer.edges(graph.replace("counts", "weights")))
    # NaN stands for "not defined" in a table.
    first, second = two_largest(edges) if edges.numel() else (math.nan, math.nan)
    row: dict[str, Value] = {
        "layer": layer.name,
        "inputs": edges.shape[0],
        "outputs": edges.shape[1],
        "first": first,
        "second": second,
        "gap": first - second,
        "relative_gap": 1 - second / first,
    }
    columns = ("bound", "difference", "ramanujan", "subgraphs", "imdb", "relative_imdb")
    if not edges.numel() or graph == "counts":
        return row | dict.fromkeys(columns)
    bound, parts = _Bound(_ramanujan(edges), second), _of_equal_degrees(edges)
    return row | {
        "bound": bound.value,
        "difference": bound.difference,
        # Some graphs reach the bound: two units joined by one edge, and cycles.
        "ramanujan": bound.difference >= -1e-9 * bound.value,
        "subgraphs": len(parts),
        "imdb": sum(part.difference for part in parts) / len(parts) if parts else None,
        "relative_imdb": sum(part.difference / part.value for part in parts) / len(parts) if parts else None,
    }


def _connected(edges: Tensor) -> Tensor:
    """The graph without the units that have no edge."""
    return edges[edges.any(1)][:, edges.any(0)]


def _ramanujan(edges: Tensor) -> float:
    total = float(edges.sum())
    return math.sqrt(total / edges.shape[0] - 1) + math.sqrt(total / edges.shape[1] - 1)


def _of_equal_degrees(edges: Tensor) -> list[_Bound]:
    """The bounds of the subgraphs that input units of one degree span with the outputs they reach."""
    degrees = edges.sum(1)
    parts = (_connected(edges[degrees == degree]) for degree in degrees.unique().tolist())
    return [
        _Bound(_ramanujan(part), two_largest(part)[1])
        for part in parts
        if float(part.sum()) / max(part.shape) >= _LEAST_DEGREE
    ]
