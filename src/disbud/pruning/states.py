"""The weights of a model as a value: taken off it, put on it, written, read; and what tells two models apart."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from disbud.errors import DisbudError
from disbud.isolation import isolated, the_device
from disbud.parameters import parameters
from disbud.training.checkpoint import tensors
from disbud.training.evaluation import checked_logits
from disbud.training.surroundings import in_mode, same_kernels

if TYPE_CHECKING:
    from disbud.data import Dataset
    from disbud.methods.trained import Weights

_LOOKED_AT = 16


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of every parameter and buffer, on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors(model).items()}


def copy_with(model: nn.Module, weights: Weights) -> nn.Module:
    """A copy of the model that holds these weights."""
    made = copy.deepcopy(model)
    with torch.no_grad():
        for name, tensor in tensors(made).items():
            tensor.copy_(weights[name])
    return made


def write_weights(weights: Weights, path: Path) -> None:
    """Write them as safetensors."""
    path.write_bytes(save({name: tensor.contiguous() for name, tensor in weights.items()}))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read what `write_weights` wrote."""
    return load(path.read_bytes())


def check_trained(weights: Weights, before: Weights, *, whose: str) -> None:
    """Raise where training changed names or shapes, or left weights that are not finite."""
    odd = sorted(weights.keys() ^ before.keys())
    odd += [name for name in weights if name not in odd and weights[name].shape != before[name].shape]
    if odd:
        raise DisbudError(
            f"{whose} changed the architecture: {odd[0]} {_change(odd[0], before, weights)}; a ticket is of one "
            "network, so train the one that is given"
        )
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise DisbudError(
                f"{whose} left NaN or infinite values in {name}: the run diverged; a smaller lr may help"
            )


def _change(name: str, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> str:
    if name not in after:
        return "is gone"
    if name not in before:
        return "is new"
    return f"was {tuple(before[name].shape)} and is {tuple(after[name].shape)}"


def behaviour(model: nn.Module, dataset: Dataset) -> str:
    """SHA-256 of what the model computes on a few images, and on a CPU of the gradients.

    Two networks may have parameters of the same names, shapes and values and yet be others: of tanh and of ReLU.
    """
    device = the_device(model)
    digest = hashlib.sha256()
    images = dataset.normalise(dataset.train.images[:_LOOKED_AT].to(device))
    learned = [parameter for parameter in parameters(model).values() if parameter.requires_grad]
    for mode in ("eval", "train") if len(images) > 1 else ("eval",):
        with same_kernels(device), isolated(model, seed=0), in_mode(model, mode):
            logits = checked_logits(model(images), len(images), dataset.classes)
            seen = [logits]
            if device.type == "cpu" and learned and logits.requires_grad:
                found = torch.autograd.grad(logits.float().square().sum(), learned, allow_unused=True)
                seen += [gradient for gradient in found if gradient is not None]
        for tensor in seen:
            digest.update(f"{mode}{tuple(tensor.shape)}{tensor.dtype}".encode())
            flat = tensor.detach().cpu().contiguous().view(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
