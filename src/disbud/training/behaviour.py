"""What a model computes on a few images: networks with the same parameters may be others, one of tanh, one of ReLU."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from disbud.isolation import bare, isolated, the_device
from disbud.parameters import parameters
from disbud.training.batches import input_type
from disbud.training.evaluation import checked_logits
from disbud.training.surroundings import in_mode, same_kernels

if TYPE_CHECKING:
    from torch import Tensor, nn

    from disbud.data import Dataset

_LOOKED_AT = 16
# Above the rounding of float32, which differs from machine to machine; below what another activation changes.
_TOLERANCE = 1e-4


def behaviour(model: nn.Module, dataset: Dataset) -> str:
    """SHA-256 of what the model computes, to the bit."""
    digest = hashlib.sha256()
    for mode, seen in _computed(model, dataset).items():
        for tensor in seen:
            digest.update(f"{mode}{tuple(tensor.shape)}{tensor.dtype}".encode())
            flat = tensor.detach().cpu().contiguous().view(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def signature(model: nn.Module, dataset: Dataset) -> dict[str, Tensor]:
    """What the model computes, to be compared but for rounding: logits, and how long the gradients are."""
    seen = {}
    for mode, (logits, *gradients) in _computed(model, dataset).items():
        seen[f"logits in {mode} mode"] = logits.detach().cpu().float()
        if gradients:
            lengths = [gradient.float().norm() for gradient in gradients]
            seen[f"gradients in {mode} mode"] = torch.stack(lengths).cpu()
    return seen


def difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> str | None:
    """In what two signatures differ by more than rounding, of what both have; None where they agree."""
    for what in (what for what in one if what in other):
        ours, theirs = one[what], other[what]
        scale = theirs.nan_to_num(posinf=0.0, neginf=0.0).abs().max().item()
        if ours.shape != theirs.shape or not torch.allclose(
            ours, theirs, rtol=_TOLERANCE, atol=_TOLERANCE * scale, equal_nan=True
        ):
            return what
    return None


def _computed(model: nn.Module, dataset: Dataset) -> dict[str, list[Tensor]]:
    """In eval and in train mode the logits of a few images, and on a CPU the gradients."""
    model, device = _copy(bare(model)), the_device(model)
    images = dataset.normalise(dataset.train.images[:_LOOKED_AT].to(device)).to(input_type(model))
    learned = [parameter for parameter in parameters(model).values() if parameter.requires_grad]
    found = {}
    for mode in ("eval", "train") if len(images) > 1 else ("eval",):
        with same_kernels(device), isolated(model, seed=0), in_mode(model, mode):
            logits = checked_logits(model(images), len(images), dataset.classes)
            found[mode] = [logits]
            if device.type == "cpu" and learned and logits.requires_grad:
                gradients = torch.autograd.grad(logits.float().square().sum(), learned, allow_unused=True)
                found[mode] += [gradient for gradient in gradients if gradient is not None]
    return found


def _copy(model: nn.Module) -> nn.Module:
    """A copy to look at, whose generators may move on; the model itself where it cannot be copied."""
    try:
        return copy.deepcopy(model)
    except Exception:  # whatever a module of a user's raises
        return model
