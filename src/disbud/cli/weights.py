"""Weights of a network as safetensors: read only where every tensor fits, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from disbud.cli.options import WorkFailed
from disbud.errors import DisbudError
from disbud.files import write_atomically
from disbud.parameters import canonical

if TYPE_CHECKING:
    from torch import Tensor, nn


def load_weights(path: Path, model: nn.Module) -> None:
    """Load every parameter and buffer of the model from the file, or raise where a tensor does not fit."""
    try:
        given = {canonical(name): tensor for name, tensor in load(path.read_bytes()).items()}
    except FileNotFoundError:
        raise DisbudError(f"--weights {path}: there is no such file") from None
    except OSError as error:
        raise DisbudError(f"--weights {path}: the file cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise DisbudError(f"--weights {path}: this is not a whole safetensors file: {error}") from None
    own = {canonical(name): tensor for name, tensor in model.state_dict().items()}
    _check(path, given, own)
    with torch.no_grad():
        for name, tensor in given.items():
            own[name].copy_(tensor)


def save_weights(path: Path, model: nn.Module) -> None:
    """Write every parameter and buffer of the model under its canonical name, a shared one once."""
    try:
        content = save(
            {name: tensor.cpu().contiguous() for name, tensor in _distinct(model.state_dict()).items()}
        )
        write_atomically(path, content)
    except OSError as error:
        raise WorkFailed(f"{path}: the weights cannot be written: {error.strerror or error}") from error


def _check(path: Path, given: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    unknown = [name for name in given if name not in own]
    covered = {_place(own[name]) for name in given if name in own}
    missing = [name for name, tensor in own.items() if _place(tensor) not in covered]
    if unknown or missing:
        what = [f"lacks {_listed(missing)}"] if missing else []
        what += [f"has {_listed(unknown)}, which the model has not"] if unknown else []
        raise DisbudError(f"--weights {path}: does not fit the model: it {' and '.join(what)}")
    for name, tensor in given.items():
        if tensor.shape != own[name].shape:
            raise DisbudError(
                f"--weights {path}: does not fit the model: {name} is {tuple(tensor.shape)} in the file "
                f"and {tuple(own[name].shape)} in the model"
            )


def _distinct(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by canonical name; those that share their memory come once, under the first name."""
    found: dict[tuple[object, ...], str] = {}
    for name, tensor in state.items():
        found.setdefault(_place(tensor), name)
    return {canonical(name): state[name] for name in found.values()}


def _place(tensor: Tensor) -> tuple[object, ...]:
    """Where the tensor's values lie: equal for two names of one tensor."""
    if not tensor.numel():
        return (id(tensor),)
    return tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride())


def _listed(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
