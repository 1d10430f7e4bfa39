"""The weights of a model as a value: taken off it, put on it, written, read."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from disbud.errors import DisbudError
from disbud.training.checkpoint import tensors

if TYPE_CHECKING:
    from disbud.methods.trained import Weights


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
