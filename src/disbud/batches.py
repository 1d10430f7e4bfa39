"""Batches as users give them: their labels, their size, and their loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

from disbud.errors import DisbudError
from disbud.isolation import leaves, to_write_on

Loss = Callable[[nn.Module, object], Tensor]


def has_class_labels(batch: object) -> TypeGuard[tuple[Tensor, Tensor]]:
    """Whether a batch is a pair of an input tensor and one whole-number label for each example."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        return False
    x, y = batch
    return (
        isinstance(x, Tensor)
        and isinstance(y, Tensor)
        and y.dim() == 1
        and not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)
        and len(x) == len(y)
    )


def size_of(batch: object) -> int | None:
    """The number of examples in a batch, where its tensors agree on one."""
    sizes = {leaf.shape[0] for leaf in leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()}
    return sizes.pop() if len(sizes) == 1 else None


def mean_loss(model: nn.Module, batch: object, loss: Loss | None = None) -> Tensor:
    """The mean loss of a batch, by the user's function if there is one; the model may write over what it is given."""
    value = (loss or cross_entropy)(model, to_write_on(batch))
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise DisbudError(
            f"loss(model, batch) should return one number, the mean loss of the batch, not {shape}"
        )
    return value.reshape(())


def cross_entropy(model: nn.Module, batch: object) -> Tensor:
    """The loss of (x, y) batches when none is given: mean cross-entropy."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise DisbudError(
            f"batches of type {type(batch).__name__} need a loss: "
            "loss=lambda model, batch: ..., which returns the mean loss of the batch"
        )
    x, y = batch
    foreign = next((leaf for leaf in leaves(batch) if type(leaf).__module__ == "numpy"), None)
    if foreign is not None:
        raise DisbudError(
            f"a batch holds a numpy {type(foreign).__name__}; give tensors, as in batches=[(torch.from_numpy(x), "
            "torch.from_numpy(y))], or a loss that makes them: loss=lambda model, batch: ..."
        )
    if not isinstance(y, Tensor) or y.is_floating_point() or y.is_complex():
        raise DisbudError("targets that are not class labels need a loss: loss=lambda model, batch: ...")
    output, y = model(x), y.long()
    if not isinstance(output, Tensor):
        raise DisbudError(f"the model returns a {type(output).__name__}; give loss=lambda model, batch: ...")
    fits = output.dim() > 1 and output.shape[:1] + output.shape[2:] == y.shape
    if not fits or bool(((y < 0) | (y >= output.shape[1])).any()):
        values = f" from {int(y.min())} to {int(y.max())}" if y.numel() else ""
        raise DisbudError(
            f"labels of shape {tuple(y.shape)}{values} do not fit an output of shape {tuple(output.shape)}; for "
            "another kind of loss give loss=lambda model, batch: ..."
        )
    return functional.cross_entropy(output, y)
