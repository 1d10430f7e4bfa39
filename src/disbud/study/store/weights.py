"""Weights as a store keeps them: of a pruned parameter only the values that the ticket keeps; bit for bit in all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from disbud.errors import DisbudError
from disbud.study.store.objects import settled

if TYPE_CHECKING:
    from torch import Tensor

    from disbud.ticket import Ticket

_SHAPES = "disbud.shapes"


def encoded(weights: Mapping[str, Tensor], ticket: Ticket | None) -> bytes:
    """The state dict as bytes; the same bytes for the same weights and ticket."""
    stored: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for name, tensor in weights.items():
        tensor = tensor.detach().cpu().contiguous()
        mask = None if ticket is None else ticket.masks.get(name)
        if mask is not None and mask.shape == tensor.shape and _is_zero(tensor[~mask]):
            shapes[name] = list(tensor.shape)
            tensor = tensor[mask]
        stored[name] = tensor.clone()  # tied parameters share memory, which the format refuses
    return settled(save(stored, {_SHAPES: json.dumps(shapes, sort_keys=True)}))


def decoded(content: bytes, ticket: Ticket | None) -> dict[str, Tensor]:
    """The state dict that was encoded with that ticket, dense."""
    try:
        stored = load(content)
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        shapes = json.loads(header["__metadata__"][_SHAPES])
        return {
            name: _dense(tensor, shapes[name], ticket.masks[name])
            if ticket is not None and name in shapes
            else tensor
            for name, tensor in stored.items()
        }
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise DisbudError(f"these are no weights as a store keeps them: {error}") from error


def _dense(kept: Tensor, shape: list[int], mask: Tensor) -> Tensor:
    dense = torch.zeros(shape, dtype=kept.dtype)
    dense[mask] = kept
    return dense


def _is_zero(removed: Tensor) -> bool:
    """Whether every bit is zero: a negative zero is stored as it is."""
    return not removed.contiguous().view(torch.uint8).any() if removed.numel() else True
