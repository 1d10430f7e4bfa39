"""One pruned weight as its kept values and the smaller of two ways to say where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from disbud.errors import DisbudError, TicketError
from disbud.export.coding import gaps, places_of

FORMS = ("all", "bits", "gaps")


@dataclass(frozen=True)
class Packed:
    """The kept values in order; `mask` is a bit for each weight, or the gaps; None where all are kept."""

    form: str
    values: Tensor
    mask: Tensor | None


def packed(name: str, weight: Tensor, mask: Tensor, dtype: torch.dtype) -> Packed:
    """Pack a weight; raises where the type cannot hold one of its values."""
    kept = weight[mask]
    values = kept.to(dtype)
    if not torch.equal(torch.isfinite(values), torch.isfinite(kept)):
        raise DisbudError(
            f"{name} has a weight of {float(kept.abs().max()):.4g}, which fp16 cannot hold; use values='fp32'"
        )
    flat = mask.reshape(-1).numpy()
    if flat.all():
        return Packed("all", values, None)
    forms = {"bits": np.packbits(flat, bitorder="little"), "gaps": gaps(np.flatnonzero(flat))}
    form = min(forms, key=lambda one: forms[one].nbytes)
    return Packed(form, values, torch.from_numpy(forms[form]))


def unpacked(name: str, one: Packed, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The weight, zero where nothing is kept, and its mask."""
    size = prod(shape)
    flat = np.ones(size, np.bool_)
    if one.mask is not None:
        flat = _bits(name, one, size) if one.form == "bits" else _by_gaps(name, one, size)
    mask = torch.from_numpy(flat)
    if len(one.values) != int(mask.sum()):
        raise TicketError(
            f"values/{name}: are {len(one.values)}, and the mask keeps {int(mask.sum())} weights"
        )
    weight = torch.zeros(size)
    weight[mask] = one.values.to(torch.float32)
    return weight.view(shape), mask.view(shape)


def _bits(name: str, one: Packed, size: int) -> np.ndarray:
    assert one.mask is not None
    if len(one.mask) != (size + 7) // 8:
        raise TicketError(f"mask/{name}: {size} bits need {(size + 7) // 8} bytes, not {len(one.mask)}")
    return np.unpackbits(one.mask.numpy(), count=size, bitorder="little").astype(np.bool_)


def _by_gaps(name: str, one: Packed, size: int) -> np.ndarray:
    assert one.mask is not None
    try:
        places = places_of(one.mask.numpy())
    except DisbudError as error:
        raise TicketError(f"mask/{name}: {error}") from None
    if len(places) and places[-1] >= size:
        raise TicketError(f"mask/{name}: goes up to weight {places[-1]}, and the layer has {size}")
    flat = np.zeros(size, np.bool_)
    flat[places] = True
    return flat
