"""Running a trial: data, network, ticket, intervention, training. The same trial gives the same numbers bit for bit."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from disbud.origin import Json
from disbud.study.datasets import guessing, loaded
from disbud.study.environments import training_device
from disbud.study.memory import own_peak, watch_own_peak
from disbud.study.tickets import network, ticket_of
from disbud.study.trial import DENSE, SMALL_DENSE, Trial
from disbud.ticket import Ticket
from disbud.training import Result, train

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Outcome:
    """What came of a trial: test accuracy and cross-entropy after the last epoch, the ticket, and what it took.

    A run that diverged has the accuracy of chance and an infinite loss, and `diverged` says where. `weights` is the
    state dict after training; a run that diverged has none. `memory` is the most that the process held, in bytes.
    """

    accuracy: float
    loss: float
    curve: tuple[Mapping[str, Json], ...]
    ticket: Ticket | None = None
    diverged: str | None = None
    seconds: float = field(default=0.0, compare=False)
    memory: int = field(default=0, compare=False)
    weights: Mapping[str, Tensor] | None = field(default=None, compare=False, repr=False)


def run(trial: Trial) -> Outcome:
    """Do everything the trial says: prune on the CPU, whose tickets a measure can make again, and train.

    >>> from disbud.study import Seeds, Trial, run
    >>> trial = Trial("lenet-300-100", "digits", "digits:epochs=2", "magnitude", 0.9, "shuffle", Seeds.all(1))
    >>> outcome = run(trial)
    >>> outcome.ticket.origin.method, outcome.accuracy > 0.3, run(trial) == outcome
    ('shuffle', True, True)
    """
    device = training_device()
    began = time.perf_counter()
    watch_own_peak()
    dataset = loaded(trial.data, trial.seeds.split)
    model = network(trial, dataset)
    ticket = None if trial.method in (DENSE, SMALL_DENSE) else ticket_of(trial, model, dataset)
    result = train(model, dataset, ticket=ticket, recipe=trial.recipe, seed=trial.seeds.order, device=device)
    return Outcome(
        accuracy=guessing(trial.data, trial.seeds.split) if result.diverged else result.accuracy,
        loss=math.inf if result.diverged else result.loss,
        curve=_curve(result),
        ticket=ticket,
        diverged=str(result.diverged) if result.diverged else None,
        seconds=time.perf_counter() - began,
        memory=own_peak(),
        weights=None if result.diverged else _state(model),
    )


def _curve(result: Result) -> tuple[Mapping[str, Json], ...]:
    return tuple(
        {
            "epoch": line.epoch,
            "train_loss": _number(line.train_loss),
            "test_loss": _number(line.test_loss),
            "test_accuracy": line.test_accuracy,
        }
        for line in result.curve
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
