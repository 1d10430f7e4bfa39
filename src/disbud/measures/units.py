"""A layer as a bipartite graph between its input and output units, grouped and transposed convolutions included."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from disbud.errors import DisbudError, unknown_name
from disbud.graph import prunable
from disbud.isolation import bare
from disbud.parameters import parameters
from disbud.ticket import Ticket

_TRANSPOSED = "transposed-conv"
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
    kinds = {layer.name: layer.kind for layer in prunable(model)}
    groups = _groups(model)
    for name, mask in ticket.masks.items():
        if mask.dim() < 2:
            raise DisbudError(
                f"{name} has shape {tuple(mask.shape)}: it links no input units to output units"
            )
        transposed = kinds.get(name) == _TRANSPOSED
        yield Units(name, _blocks(mask, groups.get(name, 1), transposed=transposed))


def check_edges(edges: str) -> None:
    """Raise for anything but the two ways to count edges."""
    if edges not in EDGES:
        raise unknown_name("way to count edges", str(edges), EDGES)


def _groups(model: nn.Module) -> dict[str, int]:
    name_of = {id(parameter): name for name, parameter in parameters(model).items()}
    return {
        name_of[id(module._parameters["weight"])]: module.groups
        for module in model.modules()
        if isinstance(module, _ConvNd) and id(module._parameters.get("weight")) in name_of
    }


def _blocks(mask: Tensor, groups: int, *, transposed: bool) -> Tensor:
    """The mask by (group, input of the group, output of the group, tap)."""
    taps = mask.flatten(2) if mask.dim() > 2 else mask.unsqueeze(2)
    blocks = taps.reshape(groups, taps.shape[0] // groups, *taps.shape[1:])
    # A transposed convolution's weight has the inputs first, every other one the outputs.
    return blocks if transposed else blocks.transpose(1, 2)
