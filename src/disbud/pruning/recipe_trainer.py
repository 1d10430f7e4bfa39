"""Training by a recipe for methods that train: each run kept by what determines it, shared, and gone on with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from disbud.artifacts import Json, cache_folder, digest, get_or_make
from disbud.catalogue import Value
from disbud.errors import DisbudError
from disbud.isolation import the_device
from disbud.pruning.points import Point
from disbud.pruning.states import check_trained, copy_with, read_weights, weights_of, write_weights
from disbud.ticket import Ticket
from disbud.training.batches import epoch_batches
from disbud.training.behaviour import behaviour
from disbud.training.checkpoint import identity
from disbud.training.loop import train
from disbud.training.recipes import Recipe
from disbud.training.result import Progress

if TYPE_CHECKING:
    import os

    from disbud.data import Dataset
    from disbud.methods.trained import Masks, Weights

REVISION = 1  # of what is kept here: another one trains everything anew
_STEPS_BETWEEN_CHECKPOINTS = 500
Tell = Callable[[float, str], None]


class RecipeTrainer:
    """A `Trainer` by `disbud.train`.

    What a run comes to is an entry of the cache, so that whoever asks for the same run gets it, and two who ask at once
    wait for one of them. A run under way keeps its checkpoint beside the entries; that of a dense run is common to all
    the points it is asked for.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        *,
        recipe: Recipe,
        seed: int,
        runs: int,
        folder: str | os.PathLike[str] | None = None,
        tell: Tell | None = None,
    ) -> None:
        self._model, self._dataset, self._recipe, self._seed = model, dataset, recipe, seed
        self._folder, self._tell = cache_folder(folder), tell
        self._runs, self._run = runs, 0
        self._steps = len(epoch_batches(torch.arange(len(dataset.train)), recipe.batch_size))
        self._initial = weights_of(model)
        self._behaviour = behaviour(model, dataset)

    @property
    def initial(self) -> Weights:
        """The weights before any training."""
        return self._initial

    def train(self, weights: Weights, masks: Masks | None) -> Weights:
        """The weights at the end of the recipe."""
        what = "dense training" if masks is None else f"training on level {self._run}"
        trained = self._trained(weights, masks, None, what)
        self._run += 1
        return trained

    def rewound(self, point: Value) -> Weights:
        """The weights at a point of the dense run."""
        step = self.step_of(point)
        return self._trained(self._initial, None, step, "dense training") if step else self._initial

    def epochs(self) -> Iterator[Weights]:
        """The weights after each epoch of the dense run."""
        for epoch in range(1, self._recipe.epochs + 1):
            until = epoch * self._steps if epoch < self._recipe.epochs else None
            yield self._trained(self._initial, None, until, "dense training")

    def step_of(self, point: Value) -> int:
        """The step of the dense run that a point to rewind to is."""
        step = Point.of(point).step(self._steps)
        if step >= self._steps * self._recipe.epochs:
            raise DisbudError(
                f"rewind={point!r} is not within the run, which has {self._recipe.epochs} epochs of {self._steps} "
                'steps; to keep the trained weights give rewind="none"'
            )
        return step

    def _trained(self, weights: Weights, masks: Masks | None, until: int | None, what: str) -> Weights:
        model = copy_with(self._model, weights)
        ticket = None if masks is None else Ticket(masks)
        run: dict[str, Json] = {
            **identity(model, self._dataset, ticket=ticket, recipe=self._recipe, seed=self._seed),
            "behaviour": self._behaviour,
            "device": the_device(model).type,
            "torch": torch.__version__,
        }
        key: dict[str, Json] = {"made": "weights trained by a recipe", "revision": REVISION}
        key |= {"until step": until, "run": run}
        under_way = self._folder / f"{digest(run)}.run.pt"

        def make(folder: Path) -> None:
            reached = self._resumed(weights, ticket, until, under_way, what)
            if reached is None:  # another process, or an earlier one, is further on in the same run
                own = self._folder / f"{digest(key)}.run.pt"
                reached = self._resumed(weights, ticket, until, own, what)
                own.unlink(missing_ok=True)
            assert reached is not None
            check_trained(reached, weights, whose=what)
            write_weights(reached, folder / "weights.safetensors")

        entry = get_or_make(key, make, cache=self._folder)
        if until is None:
            with contextlib.suppress(OSError):  # a cache may be there to be read only
                under_way.unlink(missing_ok=True)
        return read_weights(entry / "weights.safetensors")

    def _resumed(
        self, weights: Weights, ticket: Ticket | None, until: int | None, checkpoint: Path, what: str
    ) -> Weights | None:
        """The same as `_reach`; a checkpoint that is damaged costs time and no more."""
        try:
            return self._reach(weights, ticket, until, checkpoint, what)
        except DisbudError as error:
            if not str(error).startswith(f"{checkpoint}: ") or not checkpoint.exists():
                raise
        checkpoint.unlink()
        return self._reach(weights, ticket, until, checkpoint, what)

    def _reach(
        self, weights: Weights, ticket: Ticket | None, until: int | None, checkpoint: Path, what: str
    ) -> Weights | None:
        """The weights at that step, or at the end; None where the checkpoint is further on than that."""
        model = copy_with(self._model, weights)
        recipe = self._recipe if until is None else _stopping(self._recipe, until)
        try:
            result = train(
                model,
                self._dataset,
                ticket=ticket,
                recipe=recipe,
                seed=self._seed,
                checkpoint=checkpoint,
                checkpoint_every=_STEPS_BETWEEN_CHECKPOINTS,
                progress=self._progress(what),
            )
        except _Reached as reached:
            return weights_of(model) if reached.step == until else None
        if result.diverged is not None:
            checkpoint.unlink(missing_ok=True)
            raise DisbudError(f"{what} {result.diverged}; a smaller lr in the recipe may help")
        return weights_of(model) if until is None else None

    def _progress(self, what: str) -> Callable[[Progress], None] | None:
        tell, runs, run = self._tell, self._runs, self._run
        if tell is None:
            return None
        return lambda event: tell(
            (run + event.fraction) / runs, f"{what}, epoch {event.epoch} of {event.epochs}"
        )


class _Reached(Exception):
    """A run came to the step that it should stop before, or is past it."""

    def __init__(self, step: int) -> None:
        super().__init__(f"step {step}")
        self.step = step


@dataclass(frozen=True)
class _Stopping(Recipe):
    """A recipe that ends its run before one of the steps; in all that makes a run that run it is the whole recipe."""

    whole: Recipe = field(default=Recipe(), compare=False)
    last: int = field(default=0, compare=False)

    def learning_rate(self, *, step: int, steps_per_epoch: int) -> float:
        """That of the whole recipe, up to the step the run stops before."""
        if step >= self.last:
            raise _Reached(step)
        return self.whole.learning_rate(step=step, steps_per_epoch=steps_per_epoch)


def _stopping(recipe: Recipe, last: int) -> Recipe:
    settings = {each.name: getattr(recipe, each.name) for each in fields(Recipe)}
    return _Stopping(**settings, whole=recipe, last=last)
