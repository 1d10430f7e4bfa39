"""The training loop: `disbud.train`."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy
import torch
from torch.nn import functional as F

from disbud.errors import DisbudError
from disbud.isolation import the_device
from disbud.seeds import derive
from disbud.training.accelerating import accelerated
from disbud.training.batches import Feed, epoch_batches, input_type, order_of
from disbud.training.checkpoint import Checkpoint, Position
from disbud.training.evaluation import at_least_float32, checked_logits, evaluate_feed
from disbud.training.given import check_given, the_recipe
from disbud.training.guard import guarded
from disbud.training.losses import Losses
from disbud.training.recipes import Recipe
from disbud.training.result import Epoch, Progress, Result
from disbud.training.surroundings import around, autocast, others, seed_others, seed_torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from disbud.data import Dataset
    from disbud.ticket import Ticket

_SECONDS_BETWEEN_EVENTS = 0.1


def train(
    model: nn.Module,
    dataset: Dataset,
    *,
    ticket: Ticket | None = None,
    recipe: Recipe | str | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    device: torch.device | str | None = None,
) -> Result:
    """Train the model in place, on the ticket where one is given, and tell how it went.

    A ticket's starting weights are loaded first. `recipe` is a Recipe or the text of one
    ("su2020:epochs=10"), and where there is none the data set's own. All that is random (order,
    augmentation, dropout) follows from seed, epoch and step; the global random streams are left alone. The
    model stays on its device unless one is named.

    `checkpoint` names a file that holds the run after each epoch (and each `checkpoint_every` steps). Where
    the file exists the run goes on from it, and ends with the same bits as one that was never stopped; a
    file of another run or of another network is refused. Kept are parameters, buffers, and the extra state of
    modules (`get_extra_state`): other attributes, and generators of the model's own, are not. A loss that is no
    longer finite ends the run, and the result says where.

    A recipe with accelerate="auto" trains a ticket by sparse kernels where that is estimated to be faster, and
    goes on as it began; the result says whether it was done (`by_kernels`). A last batch of a single example is
    left out of its epoch, since BatchNorm cannot take it.

    >>> import disbud
    >>> data = disbud.data.load("digits")
    >>> model = disbud.models.build("lenet-300-100", input_shape=data.input_shape)
    >>> ticket = disbud.prune(model, "magnitude", sparsity=0.9)
    >>> result = disbud.train(model, data, ticket=ticket, recipe="digits:epochs=5")
    >>> result.accuracy > 0.85
    True
    """
    check_given(model, dataset, ticket)
    recipe = the_recipe(recipe, dataset)
    _check_every(checkpoint_every, checkpoint)
    if device is not None:
        model.to(device)
    if ticket is not None:
        ticket.check(model)
        ticket.start_(model)
        ticket.apply_(model)
    file = None
    if checkpoint is not None:
        file = Checkpoint(checkpoint, model, dataset, ticket=ticket, recipe=recipe, seed=seed)
    with (
        around(model, seed=seed, device=the_device(model), recipe=recipe),
        accelerated(model, ticket, recipe=recipe, dataset=dataset, file=file) as fast,
    ):
        run = _Run(
            model if fast is None else fast, dataset, recipe=recipe, seed=seed, by_kernels=fast is not None,
            file=file, checkpoint_every=checkpoint_every, progress=progress,
        )  # fmt: skip
        if ticket is None or fast is not None:  # sparse kernels hold nothing that is off the ticket
            return run.result()
        with guarded(model, ticket):
            return run.result()


class _Run:
    """One run under way: what `Position` holds, and what it needs to go on from there."""

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        *,
        recipe: Recipe,
        seed: int,
        by_kernels: bool,
        file: Checkpoint | None,
        checkpoint_every: int | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.model, self.dataset, self.recipe, self.seed = model, dataset, recipe, seed
        self.by_kernels, self.progress = by_kernels, progress
        self.file, self.checkpoint_every = file, checkpoint_every
        self.device = the_device(model)
        self.trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = _optimizer(recipe, self.trainable)
        memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.train_feed, self.test_feed = (
            Feed(dataset, split, device=self.device, dtype=input_type(model), memory_format=memory_format)
            for split in ("train", "test")
        )
        self.steps = len(epoch_batches(torch.arange(len(self.train_feed), device="cpu"), recipe.batch_size))
        self.position = (file.restore(model, self.optimizer) if file is not None else None) or Position()
        self.losses = Losses(self.position, self.device)
        self.last_event = -math.inf
        self.clock = time.perf_counter()

    def result(self) -> Result:
        """Run to the end."""
        try:
            while self.position.epoch < self.recipe.epochs and self.losses.diverged is None:
                batches = self._batches()
                self._steps(batches)
                if self.losses.diverged is None:
                    self._close_epoch([len(batch) for batch in batches])
        finally:
            self.optimizer.zero_grad()
        self._count_time()
        position = self.position
        return Result(
            recipe=self.recipe,
            dataset=self.dataset.name,
            seed=self.seed,
            curve=tuple(Epoch(*row) for row in position.curve),
            diverged=self.losses.diverged,
            seconds=position.seconds,
            images_per_second=position.images / max(position.training_seconds, 1e-9),
            by_kernels=self.by_kernels,
        )

    def _batches(self) -> tuple[Tensor, ...]:
        """The examples of each step of the epoch under way."""
        order = order_of(len(self.train_feed), self.seed, self.position.epoch, self.device)
        return epoch_batches(order, self.recipe.batch_size)

    def _steps(self, batches: tuple[Tensor, ...]) -> None:
        """The steps that are left of the epoch under way."""
        position = self.position
        # Once an epoch: hashing is slow beside a small network's step.
        first = derive(self.seed, "steps", position.epoch)
        if position.step == 0:
            seed_others(first)
        for chosen in batches[position.step :]:
            seed_torch(self.device, first + position.step)
            loss = self._step(chosen)
            position.images += len(chosen)
            position.step += 1
            self.losses.add(loss)
            last = position.step == len(batches)
            due = self.checkpoint_every is not None and self._done % self.checkpoint_every == 0 and not last
            if last or due:
                self.losses.read()
            if self.losses.diverged is not None:
                break
            self._tell()
            if due:
                self._count_time(training=True)
                self._save()
        self._count_time(training=True)

    def _step(self, chosen: Tensor) -> Tensor:
        """One step of the optimizer; the plain cross-entropy of the batch before it."""
        position, recipe = self.position, self.recipe
        rate = recipe.learning_rate(step=self._done, steps_per_epoch=self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        inputs, labels = self.train_feed.batch(
            chosen, recipe.augment, self.seed, position.epoch, position.step
        )
        with autocast(self.device, recipe.precision):
            logits = checked_logits(self.model(inputs), len(labels), self.dataset.classes)
        logits = at_least_float32(logits)
        loss = descended = F.cross_entropy(logits, labels)
        if recipe.label_smoothing:
            descended = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        self.optimizer.zero_grad()
        descended.backward()
        if recipe.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.trainable, recipe.clip_norm)
        self.optimizer.step()
        return loss.detach()

    @property
    def _done(self) -> int:
        """How many steps of the whole run are done."""
        return self.position.epoch * self.steps + self.position.step

    def _close_epoch(self, sizes: list[int]) -> None:
        """Look at the test images after the last step, and keep the epoch, if it left anything to keep."""
        position = self.position
        evaluation = evaluate_feed(self.model, self.test_feed, precision=self.recipe.precision)
        self.losses.close(evaluation.loss)
        if self.losses.diverged is not None:
            return
        weighted = math.fsum(loss * size for loss, size in zip(position.losses, sizes, strict=True))
        train_loss = weighted / sum(sizes)
        rate = self.optimizer.param_groups[0]["lr"]
        position.epoch += 1
        position.curve.append((position.epoch, train_loss, evaluation.loss, evaluation.accuracy, rate))
        if position.epoch == self.recipe.epochs:
            self._tell()
        position.step = 0
        position.losses = []
        self._count_time()
        self._save()

    def _save(self) -> None:
        if self.file is not None:
            self.position.streams = others() if self.position.step else None
            self.file.write(self.model, self.optimizer, self.position, by_kernels=self.by_kernels)
        self._count_time()

    def _count_time(self, *, training: bool = False) -> None:
        """Add the time since the last call to the run's."""
        now = time.perf_counter()
        self.position.seconds += now - self.clock
        self.position.training_seconds += now - self.clock if training else 0.0
        self.clock = now

    def _tell(self) -> None:
        """Send an event, unless one was sent a moment ago; the last of a run is always sent."""
        if self.progress is None:
            return
        position, now = self.position, time.perf_counter()
        over = position.epoch == self.recipe.epochs
        if now - self.last_event < _SECONDS_BETWEEN_EVENTS and not over:
            return
        self.last_event = now
        self.progress(
            Progress(
                epoch=position.epoch if over else position.epoch + 1,
                epochs=self.recipe.epochs,
                step=position.step,
                steps=self.steps,
                loss=self.losses.mean(),
                accuracy=position.curve[-1][3] if position.curve else None,
            )
        )


def _check_every(steps: object, checkpoint: object) -> None:
    fits = isinstance(steps, int | numpy.integer) and steps >= 1 and checkpoint is not None
    if steps is not None and not fits:
        raise DisbudError(
            f"checkpoint_every is a number of steps, at least 1, and needs checkpoint=FILE; it is {steps!r}"
        )


def _optimizer(recipe: Recipe, trainable: list[nn.Parameter]) -> torch.optim.Optimizer:
    if not trainable:
        raise DisbudError("there is nothing to train: every parameter of the model is frozen")
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            trainable,
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
        )
    make = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return make(trainable, lr=recipe.lr, betas=(recipe.momentum, 0.999), weight_decay=recipe.weight_decay)
