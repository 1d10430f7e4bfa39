"""Running a trial: data, network, ticket, intervention, training. The same trial gives the same numbers bit for bit."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from disbud.catalogue import find, parse, resolve
from disbud.data import Dataset, load
from disbud.data.dataset import Split
from disbud.errors import DisbudError
from disbud.interventions import on_mask, on_weights
from disbud.interventions.catalogue import CATALOGUE as INTERVENTIONS
from disbud.methods.catalogue import CATALOGUE as METHODS
from disbud.models import build
from disbud.origin import Json
from disbud.pruning import own_ticket, prune
from disbud.study.trial import DENSE, Trial
from disbud.ticket import Ticket
from disbud.training import train

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Outcome:
    """What came of a trial: test accuracy and cross-entropy after the last epoch, the ticket, and the time it took.

    A run that diverged has the accuracy of chance and an infinite loss, and `diverged` says where.
    """

    accuracy: float
    loss: float
    curve: tuple[Mapping[str, Json], ...]
    ticket: Ticket | None = None
    diverged: str | None = None
    seconds: float = field(default=0.0, compare=False)


def run(trial: Trial) -> Outcome:
    """Do everything the trial says.

    >>> from disbud.study import Seeds, Trial, run
    >>> trial = Trial("lenet-300-100", "digits", "digits:epochs=2", "magnitude", 0.9, "shuffle", Seeds.all(1))
    >>> outcome = run(trial)
    >>> outcome.ticket.origin.method, outcome.accuracy > 0.3, run(trial) == outcome
    ('shuffle', True, True)
    """
    began = time.perf_counter()
    dataset = load(trial.data, seed=trial.seeds.split)
    model = network(trial, dataset)
    ticket = None if trial.method == DENSE else ticket_of(trial, model, dataset)
    result = train(model, dataset, ticket=ticket, recipe=trial.recipe, seed=trial.seeds.order)
    return Outcome(
        accuracy=1 / dataset.classes if result.diverged else result.accuracy,
        loss=math.inf if result.diverged else result.loss,
        curve=tuple(
            {
                "epoch": e.epoch,
                "train_loss": e.train_loss,
                "test_loss": e.test_loss,
                "test_accuracy": e.test_accuracy,
            }
            for e in result.curve
        ),
        ticket=ticket,
        diverged=str(result.diverged) if result.diverged else None,
        seconds=time.perf_counter() - began,
    )


def network(trial: Trial, dataset: Dataset, *, seed: int | None = None) -> nn.Module:
    """The trial's network with its first weights, or with those of another seed."""
    return build(
        trial.model,
        classes=dataset.classes,
        input_shape=dataset.input_shape,
        seed=trial.seeds.init if seed is None else seed,
    )


def ticket_of(trial: Trial, model: nn.Module, dataset: Dataset) -> Ticket:
    """Prune, and intervene: on the data before, on the mask or on the model's weights after."""
    seed = trial.seeds.mask
    altered = None if trial.intervention is None else parse(trial.intervention)
    acts_on = None if altered is None else find("intervention", altered.name, INTERVENTIONS).acts_on
    looked_at = corrupted(dataset, str(trial.intervention), seed=seed) if acts_on == "data" else dataset
    ticket = _pruned(trial, model, looked_at)
    if acts_on == "mask":
        return on_mask(ticket, str(trial.intervention), seed=seed, model=model, example=dataset.example())
    if acts_on == "weights":
        ticket.start_(model)
        state, ticket = on_weights(
            model.state_dict(), ticket, str(trial.intervention), seed=seed, model=model,
            factory=lambda other: network(trial, dataset, seed=other),
        )  # fmt: skip
        model.load_state_dict(state)
    return ticket


def _pruned(trial: Trial, model: nn.Module, dataset: Dataset) -> Ticket:
    spec, seed = parse(trial.method), trial.seeds.mask
    assert trial.sparsity is not None
    if spec.name not in METHODS:
        function = resolve(f"{spec.name}:{spec.argument}")
        batches = dataset.batches(seed=seed)
        return own_ticket(function, model, batches, sparsity=trial.sparsity, seed=seed, **spec.settings)
    method = METHODS[spec.name]
    evidence: dict[str, object] = {}
    if method.trains:
        evidence = {"data": dataset, "recipe": trial.recipe}
    elif method.needs == "batches":
        evidence = {"batches": dataset.batches(seed=seed)}
    return prune(
        model, spec.name, sparsity=trial.sparsity, example=dataset.example(), seed=seed, **evidence, **spec.settings,  # type: ignore[arg-type]
    )  # fmt: skip


def corrupted(dataset: Dataset, intervention: str, *, seed: int) -> Dataset:
    """The data set with its training images and labels altered, to prune with; the test set stays.

    >>> import disbud, torch
    >>> from disbud.study.running import corrupted
    >>> digits = disbud.data.load("digits")
    >>> other = corrupted(digits, "random-labels", seed=1)
    >>> torch.equal(other.train.images, digits.train.images), torch.equal(other.train.labels, digits.train.labels)
    (True, False)
    """
    spec = parse(intervention)
    entry = find("intervention", spec.name, INTERVENTIONS)
    if entry.acts_on != "data":
        raise DisbudError(f"{entry.name} changes the {entry.acts_on}, not the data")
    function = entry.load()
    settings = {**entry.settings, **spec.settings}
    images, labels = dataset.train.images, dataset.train.labels
    if entry.name == "noise":  # is of real numbers; a data set holds bytes
        images, labels = function(images.float(), labels, seed, **settings)  # type: ignore[misc]
        images = images.round().clamp(0, 255).to(torch.uint8)
    else:
        images, labels = function(images, labels, seed, **settings)  # type: ignore[misc]
    return replace(dataset, name=f"{dataset.name} ({intervention})", train=Split(images, labels))
