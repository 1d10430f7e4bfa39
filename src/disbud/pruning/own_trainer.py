"""Training by a function of the user's own, for methods that train."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from disbud.artifacts import get_or_make
from disbud.catalogue import Value
from disbud.errors import DisbudError
from disbud.parameters import fingerprint
from disbud.pruning.plan import as_json
from disbud.pruning.points import Point
from disbud.pruning.sources import takes
from disbud.pruning.states import check_trained, copy_with, read_weights, weights_of, write_weights
from disbud.seeds import global_streams
from disbud.ticket import Ticket
from disbud.ticket_file import start_of
from disbud.training.guard import sparse

if TYPE_CHECKING:
    import os

    from disbud.methods.trained import Masks, Weights

Train = Callable[..., object]


class OwnTrainer:
    """A `Trainer` by `train(model, ticket)` of the user's own.

    It is given a copy of the model to train in place, and the ticket to train it on, None while it is dense; the copy
    is kept on the ticket around the call. Of a run to be stopped early it is called as `train(model, None, steps)`.
    With a folder, each finished run is kept there.
    """

    def __init__(
        self, model: nn.Module, train: Train, *, seed: int, folder: str | os.PathLike[str] | None = None
    ) -> None:
        self._model, self._train, self._seed = model, train, seed
        self._folder = None if folder is None else Path(folder)
        self._initial = weights_of(model)
        self._run = 0

    @property
    def initial(self) -> Weights:
        """The weights before any training."""
        return self._initial

    def train(self, weights: Weights, masks: Masks | None) -> Weights:
        """The weights that the function leaves."""
        what = "dense training" if masks is None else f"training on level {self._run}"
        trained = self._trained(weights, masks, None, f"train, in {what},")
        self._run += 1
        return trained

    def rewound(self, point: Value) -> Weights:
        """The weights that the function leaves after so many steps of the dense run."""
        steps = self.step_of(point)
        return self._trained(self._initial, None, steps, "train") if steps else self._initial

    def step_of(self, point: Value) -> int:
        """The step of the dense run that a point to rewind to is, if the function can be stopped there."""
        found = Point.of(point)
        if found.epochs:
            raise DisbudError(
                f"rewind={point!r} counts epochs, and a function of your own does not say what its epochs are; give "
                'steps, as in "500 steps"'
            )
        if found.steps and not takes(self._train, 3):
            raise DisbudError(
                f"rewind={point!r} needs train(model, ticket, steps), which stops after so many steps; yours takes no "
                "steps"
            )
        return found.steps

    def epochs(self) -> Iterator[Weights]:
        """No function says what its epochs are."""
        raise DisbudError(
            "this method looks at the weights after each epoch, and a function of your own does not say what its "
            "epochs are; give data=..., a disbud.data.Dataset, and a recipe"
        )

    def _trained(self, weights: Weights, masks: Masks | None, steps: int | None, what: str) -> Weights:
        if self._folder is None:
            return self._called(weights, masks, steps, what)
        key = {
            "made": "weights trained by a function",
            "train": as_json(self._train),
            "model": fingerprint(self._model),
            "weights": start_of(weights).sha256,
            "masks": None if masks is None else start_of(masks).sha256,
            "seed": self._seed,
            "steps": steps,
        }

        def make(folder: Path) -> None:
            write_weights(self._called(weights, masks, steps, what), folder / "weights.safetensors")

        return read_weights(get_or_make(key, make, cache=self._folder) / "weights.safetensors")

    def _called(self, weights: Weights, masks: Masks | None, steps: int | None, what: str) -> Weights:
        model = copy_with(self._model, weights)
        ticket = None if masks is None else Ticket(masks)
        guarded = sparse(model, ticket) if ticket is not None else contextlib.nullcontext()
        with global_streams(self._seed, "training"), guarded:
            before = weights_of(model)
            returned = self._train(model, ticket) if steps is None else self._train(model, ticket, steps)
            _check_returned(returned, model, what)
            check_trained(weights_of(model), weights, whose=what)
        after = weights_of(model)
        if all(torch.equal(after[name], before[name]) for name in after):
            raise DisbudError(
                f"{what} left every weight as it was; it must train the model that it is given, in place"
            )
        return after


def check_callable(train: object) -> None:
    """Raise where it cannot be called with a model and a ticket."""
    if not callable(train) or isinstance(train, nn.Module) or not takes(train, 2):
        raise DisbudError(
            "train is a function train(model, ticket) that trains the model in place and returns nothing, not "
            f"{as_json(train) if callable(train) else repr(train)}"
        )


def _check_returned(returned: object, model: nn.Module, what: str) -> None:
    if isinstance(returned, nn.Module) and returned is not model:
        raise DisbudError(
            f"{what} returned a model; it must train the one that it is given, in place, and return nothing"
        )
