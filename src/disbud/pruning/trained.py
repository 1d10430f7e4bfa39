"""From a method that trains to a ticket: the request checked before any long work, levels, training, the origin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from disbud.catalogue import Value
from disbud.errors import DisbudError
from disbud.graph import Chosen, Layer, prunable
from disbud.isolation import Example
from disbud.methods.catalogue import Method
from disbud.methods.trained import Found
from disbud.origin import Json
from disbud.pruning.levels import Pruned, levels_of
from disbud.pruning.own_trainer import OwnTrainer, Train, check_callable
from disbud.pruning.plan import Plan, as_json
from disbud.pruning.recipe_trainer import RecipeTrainer, Tell
from disbud.pruning.rounds import groups_of
from disbud.training.recipes import Recipe, parse_recipe, recipe_for

if TYPE_CHECKING:
    import os

    from disbud.data import Dataset


@dataclass(frozen=True)
class HowToTrain:
    """What a method that trains is given to train with: a data set and a recipe, or a function of the user's own."""

    data: Dataset | None = None
    recipe: Recipe | str | None = None
    train: Train | None = None
    checkpoint: str | os.PathLike[str] | None = None
    progress: Tell | None = None

    def checked(self, method: Method) -> HowToTrain:
        """With the recipe as a value, if all of it is right; none of it is, for a method that does not train."""
        if method.trains:
            return self._resolved(method)
        for name in ("data", "recipe", "train", "checkpoint", "progress"):
            if getattr(self, name) is not None:
                hint = (
                    "; what it looks at is batches=..., as in batches=data.batches()"
                    if name == "data"
                    else ""
                )
                raise DisbudError(f"{method.name} does not train, so it has no {name}=...{hint}")
        return self

    def check_no_scores(self, **given: object) -> None:
        """Raise where something is given that is about scores."""
        for name, value in given.items():
            if value is not None:
                raise DisbudError(
                    f"{name}=... is for methods that score; one that trains learns from data=..., a "
                    "disbud.data.Dataset, by a recipe, or by train=..., a function of your own"
                )

    def _resolved(self, method: Method) -> HowToTrain:
        if self.checkpoint is not None and Path(self.checkpoint).is_file():
            raise DisbudError(f"checkpoint={str(self.checkpoint)!r} is a file; {method.name} needs a folder")
        if self.train is not None:
            if self.data is not None or self.recipe is not None:
                raise DisbudError(
                    f"{method.name}: give data=... and a recipe, or train=..., a function of your own; not both"
                )
            check_callable(self.train)
            return self
        if self.data is None:
            raise DisbudError(
                f"{method.name} trains: give data=..., a data set such as disbud.data.load('digits'), and a recipe; or "
                "train=..., a function train(model, ticket) of your own"
            )
        _check_data(self.data, method.name)
        recipe = recipe_for(self.data.name) if self.recipe is None else self.recipe
        return replace(self, recipe=parse_recipe(recipe) if isinstance(recipe, str) else recipe)

    def to_json(self) -> dict[str, Json]:
        """What of it goes into the origin, besides the data."""
        if isinstance(self.recipe, Recipe):
            return {"recipe": str(self.recipe), "recipe_revision": self.recipe.revision}
        return {"train": as_json(self.train)}

    def evidence(self) -> dict[str, Json] | None:
        """The data that was learned from."""
        if self.data is None:
            return None
        return {"dataset": self.data.name, "examples": len(self.data.train), "sha256": self.data.fingerprint}


def layers_of(
    model: nn.Module,
    how: HowToTrain,
    *,
    include: Chosen | None,
    exclude: Chosen | None,
    example: Example | None,
) -> list[Layer]:
    """The layers to prune, in the order in which an image of the data meets them where there is no other example."""
    if example is not None or how.data is None:
        return prunable(model, include=include, exclude=exclude, example=example)
    try:
        return prunable(model, include=include, exclude=exclude, example=how.data.example())
    except DisbudError:
        raise
    except Exception as error:
        shape = "x".join(map(str, how.data.input_shape))
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DisbudError(f"the model does not take an image of {how.data.name}, {shape}: {said}") from error


@dataclass(frozen=True)
class Descent:
    """The levels a method goes down by, and how that came about."""

    levels: Sequence[Pruned]
    per_level: float | None
    settings: Mapping[str, Value]

    @staticmethod
    def of(
        plan: Plan, layers: Sequence[Layer], sparsity: float | None, *, asked: bool, by_rounds: bool
    ) -> Descent:
        """By a fraction a level where the method or the user says so (`asked`), unless rounds are given."""
        settings = dict(plan.score_settings)
        per_level = settings.pop("per_level", None)
        if by_rounds:
            if asked and per_level is not None:
                raise DisbudError(
                    f"{plan.method.name}: per_level says how many levels there are; give it, or rounds and a schedule"
                )
            per_level = None
        levels = levels_of(plan, groups_of(plan, layers, sparsity), per_level=cast("float | None", per_level))
        return Descent(levels, cast("float | None", per_level), settings)

    def to_json(self, plan: Plan) -> dict[str, Json]:
        """The plan as it was gone by: what is about scores is left out."""
        left_out = ("regrowth", "batch_norm")
        settings = {key: value for key, value in plan.to_json().items() if key not in left_out}
        settings |= {"rounds": len(self.levels), "levels": [level.kept for level in self.levels]}
        if self.per_level is not None:
            settings |= {"schedule": "per level"}
        elif "per_level" in settings:
            settings |= {"per_level": None}
        return settings


def by_training(
    plan: Plan, descent: Descent, model: nn.Module, how: HowToTrain, *, seed: int
) -> tuple[Found, dict[str, Json]]:
    """What the method comes to, and every setting of it as it was resolved."""
    # A caller's inference_mode would make tensors that cannot be trained.
    with torch.inference_mode(False), torch.enable_grad():
        trainer = _trainer(model, how, seed=seed, runs=len(descent.levels))
        notes = how.to_json()
        if descent.settings.get("rewind", "none") != "none":
            notes["rewind_step"] = trainer.step_of(descent.settings["rewind"])
        function = cast("Callable[..., Found]", plan.method.load())
        found = function(trainer, descent.levels, **descent.settings)
    _check_kept(plan, descent, found)
    return found, descent.to_json(plan) | notes | dict(found.notes)


def _trainer(model: nn.Module, how: HowToTrain, *, seed: int, runs: int) -> RecipeTrainer | OwnTrainer:
    if how.data is not None and isinstance(how.recipe, Recipe):
        return RecipeTrainer(
            model,
            how.data,
            recipe=how.recipe,
            seed=seed,
            runs=runs,
            folder=how.checkpoint,
            tell=how.progress,
        )
    assert how.train is not None
    return OwnTrainer(model, how.train, seed=seed, folder=how.checkpoint)


def _check_kept(plan: Plan, descent: Descent, found: Found) -> None:
    last = descent.levels[-1]
    for group, count in zip(last.groups, last.counts, strict=True):
        kept = sum(int(found.masks[name].sum()) for name in group.names)
        if kept != count:
            raise DisbudError(
                f"{plan.method.name} kept {kept:,} weights of {', '.join(group.names[:3])}, not {count:,}"
            )


def _check_data(data: object, method: str) -> None:
    from disbud.data import Dataset

    if not isinstance(data, Dataset):
        raise DisbudError(
            f"{method}: data is a disbud.data.Dataset, not a {type(data).__name__}; disbud.data.from_tensors makes one "
            "of tensors, and train=... takes a training loop of your own with any data"
        )
    for split, labels in (("training", data.train.labels), ("test", data.test.labels)):
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= data.classes:
            raise DisbudError(
                f"{method}: {split} labels of {data.name} go from {low} to {high}; with {data.classes} classes they "
                f"lie between 0 and {data.classes - 1}"
            )
    if int(data.train.labels.min()) == int(data.train.labels.max()):
        raise DisbudError(
            f"{method}: all training labels of {data.name} are {int(data.train.labels[0])}; there is nothing to learn "
            "from one class"
        )
