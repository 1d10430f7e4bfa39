"""Training: recipes, the loop, and keeping a model on its ticket in anybody's loop."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from disbud.training.recipes import RECIPES, Recipe, parse_recipe, recipe_for
from disbud.training.result import Divergence, Epoch, Progress, Result

if TYPE_CHECKING:
    from disbud.training.evaluation import Evaluation, evaluate
    from disbud.training.guard import Guard, sparse
    from disbud.training.loop import train

__all__ = [
    "RECIPES",
    "Divergence",
    "Epoch",
    "Evaluation",
    "Guard",
    "Progress",
    "Recipe",
    "Result",
    "evaluate",
    "parse_recipe",
    "recipe_for",
    "sparse",
    "train",
]
_LATE = {
    "Evaluation": "evaluation",
    "evaluate": "evaluation",
    "Guard": "guard",
    "sparse": "guard",
    "train": "loop",
}


def __getattr__(name: str) -> object:
    # What needs torch is imported when it is asked for: recipes are listed without it.
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_LATE[name]}"), name)
    globals()[name] = value
    return value
