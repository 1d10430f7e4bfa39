"""A random mask that keeps the degree of every unit: trades between units, at the same kernel tap.

At one tap of one group a mask is a bipartite graph of output and input units. In a trade two units of one side put
the neighbours that only one of them has into a pot, and deal them out again at random, each taking back as many as it
gave: several swaps of edges at once, none of which is ever refused (Curveball, Strona et al. 2014). In one pass all
units of a side trade in random pairs (Global Curveball, Carstens et al. 2018), outputs and inputs in turn. Each trade
is as likely as its reverse and swaps connect all masks of the same degrees (Ryser 1957), so the law tends to uniform.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from disbud.errors import DisbudError
from disbud.interventions.layout import layouts, to_json
from disbud.interventions.outcome import rearranged
from disbud.seeds import generator, whole
from disbud.ticket import Ticket

Whole = NDArray[np.int64]

_TOGETHER = (
    1 << 18
)  # weights in the graphs shuffled in one go: many small graphs, and edges that stay in cache


def shuffle_degrees(ticket: Ticket, seed: int, *, model: nn.Module | None = None, rounds: int = 20) -> Ticket:
    """A random mask in which each unit has as many inputs and outputs at each tap as before.

    In each of the `rounds` all output units trade in pairs, then all input units. Where degrees are alike a round
    forgets about three quarters of what is left of the mask it starts from; of SynFlow's very uneven tickets of
    ResNet-20 at sparsity 0.98 nothing measurable was left after eight rounds.
    """
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise DisbudError(f"shuffle-degrees: rounds is a whole number of at least 1, not {rounds!r}")
    found = layouts("shuffle-degrees", ticket, model)
    masks = {}
    for name, mask in ticket.masks.items():
        blocks = found[name].split(mask)
        graphs = blocks.permute(0, 3, 1, 2)
        stream = generator(seed, "intervention", "shuffle-degrees", name)
        together = max(1, _TOGETHER // max(1, graphs[0, 0].numel()))
        shuffled = [_shuffled(part, rounds, stream) for part in graphs.flatten(0, 1).split(together)]
        masks[name] = found[name].join(torch.cat(shuffled).view(graphs.shape).permute(0, 2, 3, 1), mask.shape)
    return rearranged(ticket, "shuffle-degrees", masks, seed=seed, rounds=rounds, layouts=to_json(found))


@dataclass
class _Edges:
    """The edges of several graphs: the graph of each, and its two ends."""

    graph: Whole
    end: Whole
    other: Whole

    def turned(self) -> _Edges:
        """The same edges seen from the other side."""
        return _Edges(self.graph, self.other, self.end)


def _shuffled(graphs: Tensor, rounds: int, stream: torch.Generator) -> Tensor:
    """Graph x output x input, with the degrees of each graph kept."""
    # Of a mask and its complement the same is asked, so the one with fewer edges is shuffled.
    dense = 2 * int(graphs.sum()) > graphs.numel()
    edges = _Edges(*(~graphs if dense else graphs).nonzero().T.contiguous().numpy())
    count, outputs, inputs = graphs.shape
    for _ in range(rounds if len(edges.graph) else 0):
        edges = _traded(edges, count, outputs, inputs, stream).turned()
        edges = _traded(edges, count, inputs, outputs, stream).turned()
    shuffled = torch.full((graphs.numel(),), dense, device="cpu")
    shuffled[torch.from_numpy((edges.graph * outputs + edges.end) * inputs + edges.other)] = not dense
    return shuffled.view(graphs.shape)


def _traded(edges: _Edges, graphs: int, ends: int, others: int, stream: torch.Generator) -> _Edges:
    """One trade in each random pair of ends; with an odd number of ends one of them sits out.

    Ends without an edge, or with all of them, can trade with none, so they are paired with each other: a pruned layer
    has many. Edges are packed as integers, pair | other end | side of the pair, since sorting those is what is fast.
    """
    unit = edges.graph * ends + edges.end
    degrees = np.bincount(unit, minlength=graphs * ends)
    idle = torch.from_numpy((degrees == 0) | (degrees == others)).view(graphs, ends)
    drawn = torch.rand(graphs, ends, generator=stream, dtype=torch.float64, device="cpu")
    places = drawn.add_(idle).argsort(1).numpy()
    pairs = (ends + 1) // 2
    place_of = np.empty_like(places)
    np.put_along_axis(place_of, places, np.arange(ends)[None], 1)
    place = place_of.reshape(-1)[unit]
    bits = max(1, (others - 1).bit_length())
    packed = (((edges.graph * pairs + (place >> 1)) << bits | edges.other) << 1) | (place & 1)
    packed.sort()
    twin = packed[1:] >> 1 == packed[:-1] >> 1
    shared = np.zeros(len(packed), dtype=np.bool_)
    shared[1:] |= twin
    shared[:-1] |= twin
    packed = np.concatenate([packed[shared], _dealt(packed[~shared], bits, graphs * pairs, stream)])
    pair = packed >> (bits + 1)
    graph = pair // pairs
    place = (pair - graph * pairs) << 1 | packed & 1
    return _Edges(graph, places.reshape(-1)[graph * ends + place], packed >> 1 & (1 << bits) - 1)


def _dealt(packed: Whole, bits: int, pairs: int, stream: torch.Generator) -> Whole:
    """Edges that only one of a pair has, dealt out anew: in random order the first go to one, the rest to the other."""
    pair = packed >> (bits + 1)
    pot = np.bincount(pair, minlength=pairs)
    to_first = pot - np.bincount(pair, weights=packed & 1, minlength=pairs).astype(np.int64)
    spare = 62 - bits - pairs.bit_length()
    drawn = whole(1 << spare, (len(packed),), stream).numpy()
    order = (pair << spare | drawn) << bits | packed >> 1 & (1 << bits) - 1
    order.sort()
    # The pairs are in the same order as before, so `pair` still names them.
    turn = np.arange(len(packed)) - (np.cumsum(pot) - pot)[pair]
    dealt: Whole = (pair << bits | order & (1 << bits) - 1) << 1 | (turn >= to_first[pair])
    return dealt
