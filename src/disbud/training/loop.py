"""The training loop: `disbud.train`."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from disbud.errors import DisbudError
from disbud.isolation import the_device
from disbud.seeds import derive
from disbud.training.accelerating import accelerated
from disbud.training.batches import Feed, epoch_batches, order_of
from disbud.training.checkpoint import Checkpoint, Position, identity
from disbud.training.evaluation import checked_logits, evaluate_feed
from disbud.training.guard import sparse
from disbud.training.recipes import Recipe, parse_recipe, recipe_for
from disbud.training.result import Divergence, Epoch, Progress, Result
from disbud.training.surroundings import around, autocast, others, seed_others, seed_torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from disbud.data import Dataset
    from disbud.ticket import Ticket

_SECONDS_BETWEEN_EVENTS = 0.1
_LOSSES_HELD = 50  # on accelerators, where reading a loss waits for the device


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
    file of another run is refused. A loss that is no longer finite ends the run, and the result says where.

    A recipe with accelerate="auto" trains a ticket by sparse kernels where that is estimated to be faster; the
    result says whether it was done (`by_kernels`).

    A last batch of a single example is left out of its epoch, since BatchNorm cannot take it.

    >>> import disbud
    >>> from disbud.models import build
    >>> data = disbud.data.load("digits")
    >>> model = build("lenet-300-100", input_shape=data.input_shape)
    >>> ticket = disbud.prune(model, "magnitude", sparsity=0.9)
    >>> result = disbud.train(model, data, ticket=ticket, recipe="digits:epochs=5")
    >>> result.accuracy > 0.85
    True
    """
    recipe = _resolve(recipe, dataset)
    if checkpoint_every is not None and (checkpoint is None or checkpoint_every < 1):
        raise DisbudError("checkpoint_every is a number of steps, at least 1, and needs checkpoint=FILE")
    if device is not None:
        model.to(device)
    if ticket is not None:
        ticket.check(model)
        ticket.start_(model)
        ticket.apply_(model)
    file = None
    if checkpoint is not None:
        file = Checkpoint(checkpoint, identity(model, dataset, ticket=ticket, recipe=recipe, seed=seed))
    with (
        around(model, seed=seed, device=the_device(model), recipe=recipe),
        accelerated(model, ticket, recipe=recipe, dataset=dataset) as fast,
    ):
        run = _Run(
            model if fast is None else fast, dataset, recipe=recipe, seed=seed, file=file,
            checkpoint_every=checkpoint_every, progress=progress,
        )  # fmt: skip
        if ticket is None or fast is not None:  # sparse kernels hold nothing that is off the ticket
            return run.result(by_kernels=fast is not None)
        with sparse(model, ticket, run.optimizer):
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
        file: Checkpoint | None,
        checkpoint_every: int | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.model, self.dataset, self.recipe, self.seed = model, dataset, recipe, seed
        self.file, self.checkpoint_every, self.progress = file, checkpoint_every, progress
        self.device = the_device(model)
        self.trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = _optimizer(recipe, self.trainable)
        memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.train_feed, self.test_feed = (
            Feed(dataset, split, device=self.device, memory_format=memory_format)
            for split in ("train", "test")
        )
        batches = epoch_batches(torch.arange(len(self.train_feed)), recipe.batch_size)
        self.sizes = [len(batch) for batch in batches]
        self.held: list[Tensor] = []  # losses that were not read yet
        self.diverged: Divergence | None = None
        self.last_event = -math.inf
        self.clock = time.perf_counter()
        self.most_held = 1 if self.device.type == "cpu" else _LOSSES_HELD
        self.position = Position()

    def result(self, *, by_kernels: bool = False) -> Result:
        """Run to the end, from the checkpoint if there is one."""
        try:
            return self._result(by_kernels=by_kernels)
        finally:
            self.optimizer.zero_grad()

    def _result(self, *, by_kernels: bool) -> Result:
        if self.file is not None:
            self.position = self.file.restore(self.model, self.optimizer) or self.position
        self.clock = time.perf_counter()
        while self.position.epoch < self.recipe.epochs and self.diverged is None:
            self._steps()
            if self.diverged is None:
                self._close_epoch()
                self._save()
        position = self.position
        return Result(
            recipe=self.recipe,
            dataset=self.dataset.name,
            seed=self.seed,
            curve=tuple(Epoch(*row) for row in position.curve),
            diverged=self.diverged,
            seconds=position.seconds,
            images_per_second=position.images / max(position.training_seconds, 1e-9),
            by_kernels=by_kernels,
        )

    def _steps(self) -> None:
        """The steps that are left of the epoch under way."""
        position = self.position
        order = order_of(len(self.train_feed), self.seed, position.epoch, self.device)
        batches = epoch_batches(order, self.recipe.batch_size)
        first = derive(
            self.seed, "steps", position.epoch
        )  # once: hashing is slow beside a small network's step
        if position.step == 0:
            seed_others(first)
        for chosen in batches[position.step :]:
            seed_torch(self.device, first + position.step)
            self.held.append(self._step(chosen))
            position.images += self.sizes[position.step]
            position.step += 1
            last = position.step == len(batches)
            due = bool(self.checkpoint_every) and self._done % (self.checkpoint_every or 1) == 0 and not last
            if last or due or len(self.held) == self.most_held:
                self._read_losses()
            if self.diverged is not None:
                break
            self._tell()
            if due:
                self._count_time(training=True)
                self._save()
        self._count_time(training=True)

    def _step(self, chosen: Tensor) -> Tensor:
        """One step of the optimizer; the plain cross-entropy of the batch before it."""
        position, recipe = self.position, self.recipe
        rate = recipe.learning_rate(step=self._done, steps_per_epoch=len(self.sizes))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        inputs, labels = self.train_feed.batch(
            chosen, recipe.augment, self.seed, position.epoch, position.step
        )
        with autocast(self.device, recipe.precision):
            logits = checked_logits(self.model(inputs), len(labels), self.dataset.classes)
        loss = descended = F.cross_entropy(logits.float(), labels)
        if recipe.label_smoothing:
            descended = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
        self.optimizer.zero_grad()
        descended.backward()
        if recipe.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.trainable, recipe.clip_norm)
        self.optimizer.step()
        return loss.detach()

    @property
    def _done(self) -> int:
        """How many steps of the whole run are done."""
        return self.position.epoch * len(self.sizes) + self.position.step

    def _read_losses(self) -> None:
        position = self.position
        for value in [float(loss) for loss in self.held]:
            position.losses.append(value)
            if not math.isfinite(value) and self.diverged is None:
                self.diverged = Divergence(position.epoch + 1, len(position.losses), value)
        self.held.clear()

    def _close_epoch(self) -> None:
        position = self.position
        weighted = math.fsum(loss * size for loss, size in zip(position.losses, self.sizes, strict=True))
        evaluation = evaluate_feed(self.model, self.test_feed, precision=self.recipe.precision)
        train_loss = weighted / sum(self.sizes)
        rate = self.optimizer.param_groups[0]["lr"]
        position.epoch += 1
        position.curve.append((position.epoch, train_loss, evaluation.loss, evaluation.accuracy, rate))
        if position.epoch == self.recipe.epochs:
            self._tell()
        position.step = 0
        position.losses = []

    def _save(self) -> None:
        if self.file is not None:
            self._count_time()
            self.position.streams = others() if self.position.step else None
            self.file.write(self.model, self.optimizer, self.position)
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
        known = position.losses + [float(loss) for loss in self.held]
        self.progress(
            Progress(
                epoch=position.epoch if over else position.epoch + 1,
                epochs=self.recipe.epochs,
                step=position.step,
                steps=len(self.sizes),
                loss=math.fsum(known) / len(known),
                accuracy=position.curve[-1][3] if position.curve else None,
            )
        )


def _resolve(recipe: Recipe | str | None, dataset: Dataset) -> Recipe:
    if recipe is None:
        return recipe_for(dataset.name)
    return parse_recipe(recipe) if isinstance(recipe, str) else recipe


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
