"""What a caller hands to training, by kind: each error says what would be taken in the place of what was given."""

from __future__ import annotations

import os
from collections.abc import Mapping

from torch import nn

from disbud.data import Dataset
from disbud.errors import DisbudError
from disbud.ticket import Ticket
from disbud.training.recipes import Recipe, parse_recipe, recipe_for


def check_given(model: object, dataset: object, ticket: object | None) -> None:
    """Raise for what is no model, no data set, or neither a ticket nor none."""
    check_model(model)
    check_dataset(dataset)
    if ticket is not None:
        check_ticket(ticket)


def check_model(model: object) -> None:
    """Raise for what is no torch module."""
    if not isinstance(model, nn.Module):
        raise DisbudError(
            f"a model is a torch.nn.Module, not a {type(model).__name__}; disbud.models.build makes those of the papers"
        )


def check_dataset(dataset: object) -> None:
    """Raise for what is no data set."""
    if isinstance(dataset, str):
        raise DisbudError(
            f"{dataset!r} names a data set, and the data set itself is needed: disbud.data.load({dataset!r})"
        )
    if not isinstance(dataset, Dataset):
        raise DisbudError(
            f"a data set is a disbud.data.Dataset, not a {type(dataset).__name__}; "
            "disbud.data.from_tensors(images, labels) makes one of tensors, disbud.data.load one of files"
        )


def check_ticket(ticket: object) -> None:
    """Raise for what is no ticket."""
    if isinstance(ticket, str | os.PathLike):
        raise DisbudError(
            f"a ticket is needed, not the name of its file: disbud.Ticket.load({os.fspath(ticket)!r})"
        )
    if not isinstance(ticket, Ticket):
        hint = (
            "; disbud.Ticket.from_masks(masks, model=model) makes one" if isinstance(ticket, Mapping) else ""
        )
        raise DisbudError(f"a ticket is a disbud.Ticket, not a {type(ticket).__name__}{hint}")


def the_recipe(recipe: object, dataset: Dataset) -> Recipe:
    """The recipe that is given or named, else the data set's own."""
    if recipe is None:
        return recipe_for(dataset.name)
    if isinstance(recipe, str):
        return parse_recipe(recipe)
    if not isinstance(recipe, Recipe):
        hint = "; disbud.Recipe(**settings) makes one of settings" if isinstance(recipe, Mapping) else ""
        raise DisbudError(
            f"a recipe is a disbud.Recipe or the text of one, as in 'su2020:epochs=10', "
            f"not a {type(recipe).__name__}{hint}"
        )
    return recipe
