"""Training a ticket by sparse kernels, where a recipe says accelerate=auto and the cost model says it pays."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from disbud.errors import DisbudError
from disbud.isolation import the_device

if TYPE_CHECKING:
    from torch import nn

    from disbud.acceleration.accelerated import Accelerated
    from disbud.data import Dataset
    from disbud.ticket import Ticket
    from disbud.training.checkpoint import Checkpoint
    from disbud.training.recipes import Recipe


@contextlib.contextmanager
def accelerated(
    model: nn.Module,
    ticket: Ticket | None,
    *,
    recipe: Recipe,
    dataset: Dataset,
    file: Checkpoint | None = None,
) -> Iterator[nn.Module | None]:
    """The model on the ticket made of sparse kernels, to be trained in the block; None where the dense one is to be.

    That is where the recipe does not ask or is for bfloat16, nothing is pruned, the model is not on the CPU or cannot
    be followed, or the cost model expects no gain. A run that goes on from a file goes on as it began. However the
    block ends, the model has the weights trained in it.
    """
    begun = None if file is None else file.by_kernels
    asked = recipe.accelerate == "auto" and recipe.precision == "fp32"
    fast = None
    if asked and ticket is not None and begun is not False:
        try:
            fast = _accelerated(model, ticket, recipe, dataset)
        except DisbudError as error:  # it is of another type, or does what torch.fx does not see
            if file is not None and begun:
                raise DisbudError(
                    f"{file.path}: sparse kernels trained what this checkpoint holds, and cannot go on here: {error}"
                ) from error
    if fast is None or not (begun or fast.is_worth_training):
        yield None
        return
    try:
        yield fast
    finally:
        fast.finish(model)


def _accelerated(model: nn.Module, ticket: Ticket, recipe: Recipe, dataset: Dataset) -> Accelerated:
    from disbud.acceleration.accelerate import accelerate

    device = the_device(model)
    if device.type != "cpu":
        raise DisbudError(f"they run on the CPU, and the model is on {device}")
    shape = (min(recipe.batch_size, len(dataset.train)), *dataset.input_shape)
    return accelerate(
        model, ticket, example=torch.zeros(shape, dtype=torch.float32, device=device), plan="model"
    )
