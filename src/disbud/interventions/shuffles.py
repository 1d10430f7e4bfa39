"""The same masks with their positions shuffled: within a layer, a unit, or as whole kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from disbud.interventions.layout import layouts, to_json
from disbud.interventions.orders import random_orders
from disbud.interventions.outcome import rearranged
from disbud.seeds import generator, order
from disbud.ticket import Ticket


def shuffle(ticket: Ticket, seed: int) -> Ticket:
    """Permute the positions of each layer's mask: every mask with the layer's count is equally likely."""
    masks = {}
    for name, mask in ticket.masks.items():
        places = order(mask.numel(), generator(seed, "intervention", "shuffle", name))
        masks[name] = mask.reshape(-1)[places].view(mask.shape)
    return rearranged(ticket, "shuffle", masks, seed=seed)


def shuffle_rows(ticket: Ticket, seed: int, *, model: nn.Module | None = None) -> Ticket:
    """Permute positions among the inputs and taps of each output unit, which keeps its count."""
    found = layouts("shuffle-rows", ticket, model)
    masks = {}
    for name, mask in ticket.masks.items():
        stream = generator(seed, "intervention", "shuffle-rows", name)
        blocks = found[name].split(mask)
        masks[name] = found[name].join(_permuted(blocks.flatten(0, 1), stream).view(blocks.shape), mask.shape)
    return rearranged(ticket, "shuffle-rows", masks, seed=seed, layouts=to_json(found))


def shuffle_columns(ticket: Ticket, seed: int, *, model: nn.Module | None = None) -> Ticket:
    """Permute positions among the outputs and taps of each input unit, which keeps its count."""
    found = layouts("shuffle-columns", ticket, model)
    masks = {}
    for name, mask in ticket.masks.items():
        stream = generator(seed, "intervention", "shuffle-columns", name)
        blocks = found[name].split(mask).transpose(1, 2)
        columns = _permuted(blocks.flatten(0, 1), stream).view(blocks.shape)
        masks[name] = found[name].join(columns.transpose(1, 2), mask.shape)
    return rearranged(ticket, "shuffle-columns", masks, seed=seed, layouts=to_json(found))


def shuffle_kernels(ticket: Ticket, seed: int) -> Ticket:
    """Permute whole kernels within each layer; a kernel is what joins one input unit to one output unit."""
    masks = {}
    for name, mask in ticket.masks.items():
        kernels = mask.reshape(mask.shape[:2].numel(), mask.shape[2:].numel())
        stream = generator(seed, "intervention", "shuffle-kernels", name)
        masks[name] = kernels[order(len(kernels), stream)].view(mask.shape)
    return rearranged(ticket, "shuffle-kernels", masks, seed=seed)


def _permuted(units: Tensor, stream: torch.Generator) -> Tensor:
    """Each unit's positions in a random order; the first axis counts the units."""
    flat = units.flatten(1)
    count, size = flat.shape
    first = torch.arange(size, device="cpu") < flat.sum(1, keepdim=True)
    masks = torch.zeros(count, size, dtype=torch.bool, device="cpu")
    return masks.scatter_(1, random_orders(count, size, stream), first).view(units.shape)
