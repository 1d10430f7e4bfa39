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

    from disbud.data import Dataset
    from disbud.ticket import Ticket
    from disbud.training.recipes import Recipe


@contextlib.contextmanager
def accelerated(
    model: nn.Module, ticket: Ticket | None, *, recipe: Recipe, dataset: Dataset
) -> Iterator[nn.Module | None]:
    """The model on the ticket made of sparse kernels, to be trained in the block; None where the dense one is to be.

    That is where the recipe does not ask or is for bfloat16, nothing is pruned, the model is not on the CPU or cannot
    be followed, or the cost model expects no gain. However the block ends, the model has the weights trained in it.
    """
    asked = recipe.accelerate == "auto" and recipe.precision == "fp32"
    if not asked or ticket is None or the_device(model).type != "cpu":
        yield None
        return
    from disbud.acceleration.accelerate import accelerate

    example = torch.zeros(min(recipe.batch_size, len(dataset.train)), *dataset.input_shape)
    try:
        fast = accelerate(model, ticket, example=example, plan="model")
    except DisbudError:  # it is of another type, or does what torch.fx does not see
        yield None
        return
    if not fast.is_worth_training:
        yield None
        return
    try:
        yield fast
    finally:
        fast.finish(model)
