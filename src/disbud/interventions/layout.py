"""Which slices of a weight belong to which unit: output and input units, groups, kernel taps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from disbud.errors import DisbudError
from disbud.isolation import bare
from disbud.origin import Json
from disbud.parameters import parameters
from disbud.ticket import Ticket


@dataclass(frozen=True)
class Layout:
    """How a weight's axes map to units: in `groups` blocks along the first axis, outputs first unless `transposed`."""

    groups: int = 1
    transposed: bool = False

    def split(self, weight: Tensor) -> Tensor:
        """The weight as group x output unit x input unit x tap."""
        blocks = weight.reshape(
            self.groups, weight.shape[0] // self.groups, weight.shape[1], weight.shape[2:].numel()
        )
        return blocks.transpose(1, 2) if self.transposed else blocks

    def join(self, blocks: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Back from blocks to a weight of that shape."""
        return (blocks.transpose(1, 2) if self.transposed else blocks).reshape(shape)

    def __str__(self) -> str:
        return f"{self.groups} groups{', transposed' if self.transposed else ''}"


PLAIN = Layout()


def layouts(name: str, ticket: Ticket, model: nn.Module | None) -> dict[str, Layout]:
    """The layout of each of the ticket's masks, for the intervention of that name.

    Of a mask with two axes it is known that rows are outputs; more axes mean a convolution, and whether that is
    grouped or transposed only the model says.
    """
    flat = next((layer for layer, mask in ticket.masks.items() if mask.dim() < 2), None)
    if flat is not None:
        raise DisbudError(
            f"{name} keeps the counts of units, and the mask of {flat} has {ticket.masks[flat].dim()} axes: it has "
            "no input and output units; leave it out of the ticket, or use shuffle"
        )
    if model is None:
        deep = next((layer for layer, mask in ticket.masks.items() if mask.dim() > 2), None)
        if deep is not None:
            raise DisbudError(
                f"{name} keeps the counts of units, and the mask of the convolution {deep} does not say whether it is "
                "grouped or transposed: give model=..., the model the ticket is for"
            )
        return dict.fromkeys(ticket.masks, PLAIN)
    ticket.check(model)
    known = of_model(bare(model))
    unknown = next((x for x, mask in ticket.masks.items() if x not in known and mask.dim() > 2), None)
    if unknown is not None:
        raise DisbudError(
            f"{name} keeps the counts of units, and {unknown} is no weight of a convolution, so which of its axes are "
            "units is not known; leave it out of the ticket, or use shuffle"
        )
    return {layer: known.get(layer, PLAIN) for layer in ticket.masks}


def to_json(found: Mapping[str, Layout]) -> dict[str, Json]:
    """The layouts that are not plain, as they go into an origin."""
    return {name: str(layout) for name, layout in found.items() if layout != PLAIN}


def of_model(model: nn.Module) -> dict[str, Layout]:
    """The layout of every weight of a convolution and of attention's joint projections, by parameter name."""
    by_identity: dict[int, Layout] = {}
    for module in model.modules():
        if isinstance(module, _ConvNd):
            layout = Layout(module.groups, isinstance(module, _ConvTransposeNd))
            by_identity.setdefault(id(module._parameters.get("weight")), layout)
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            # Queries, keys and values are three matrices in one parameter, each with its own input.
            by_identity.setdefault(id(module.in_proj_weight), Layout(3))
    return {
        name: by_identity[id(parameter)]
        for name, parameter in parameters(model).items()
        if id(parameter) in by_identity
    }
