"""A layer as a bipartite graph between its input and output units, grouped and transposed convolutions included."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from disbud.errors import DisbudError, unknown_name
from disbud.graph import Layer, prunable
from disbud.graph.kernels import Kernels
from disbud.isolation import bare
from disbud.ticket import Ticket

EDGES = ("weights", "kernels")


@dataclass(frozen=True)
class Units:
    """The mask of a layer as a graph: kept weights by (group, input of the group, output of the group, tap)."""

    name: str
    blocks: Tensor

    @cached_property
    def kept(self) -> Tensor:
        """The number of kept weights between each input unit (row) and each output unit (column)."""
        graph: Tensor = torch.block_diag(*self.blocks.sum(3, dtype=torch.float64))
        return graph

    @property
    def taps(self) -> Tensor:
        """The unrolled convolution: a row for each tap of each input unit, 1 where the weight is kept."""
        unrolled = self.blocks.permute(0, 1, 3, 2).flatten(1, 2)
        graph: Tensor = torch.block_diag(*unrolled.to(torch.float64))
        return graph

    def edges(self, kind: str) -> Tensor:
        """The number of edges between two units: kept weights, or 1 where the kernel holds any."""
        return self.kept if kind == "weights" else (self.kept > 0).to(self.kept.dtype)


def units(model: nn.Module, ticket: Ticket) -> Iterator[Units]:
    """The layers of the ticket as bipartite graphs, between channels (of convolutions) or features."""
    if not isinstance(model, nn.Module):
        raise DisbudError(f"a model is a torch.nn.Module, not a {type(model).__name__}")
    model = bare(model)
    ticket.check(model)
    layers = {layer.name: layer for layer in prunable(model)}
    for name, mask in ticket.masks.items():
        if mask.dim() < 2:
            raise DisbudError(
                f"{name} has shape {tuple(mask.shape)}: it links no input units to output units"
            )
        yield Units(name, Kernels.of(layers.get(name, Layer(name, tuple(mask.shape), "linear"))).split(mask))


def check_edges(edges: str) -> None:
    """Raise for anything but the two ways to count edges."""
    if edges not in EDGES:
        raise unknown_name("way to count edges", str(edges), EDGES)
