"""Taking a measure of a trial that was run: the network as training found it, the ticket, the trained weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from disbud.measures import Table
from disbud.study.datasets import loaded
from disbud.study.identity import Pinned
from disbud.study.tickets import alters_weights, network, ticket_of
from disbud.study.trial import Trial
from disbud.study.trial_measures import Subject, TrialMeasure
from disbud.ticket import Ticket

if TYPE_CHECKING:
    from torch import Tensor, nn

    from disbud.data import Dataset


@dataclass(frozen=True, eq=False)
class ToMeasure:
    """A measure to take, of what a store keeps of a trial."""

    measure: TrialMeasure
    pinned: Pinned
    ticket: Ticket | None
    trained: Mapping[str, Tensor] | None

    @property
    def trial(self) -> Trial:
        """The trial it is taken of."""
        return self.pinned.trial


def take(work: ToMeasure) -> Table:
    """What the measure finds.

    >>> from disbud.study import Trial, run
    >>> from disbud.study.identity import Pinned
    >>> from disbud.study.measuring import ToMeasure, take
    >>> from disbud.study.trial_measures import trial_measure
    >>> trial = Trial("lenet-300-100", "digits", "digits:epochs=1", "magnitude", 0.9)
    >>> outcome = run(trial)
    >>> take(ToMeasure(trial_measure("weights"), Pinned.of(trial), outcome.ticket, outcome.weights))["when"][:2]
    ('start', 'trained')
    """
    work.pinned.check()
    dataset = loaded(work.trial.data, work.trial.seeds.split)
    model = _as_training_began(work.trial, dataset, work.ticket)
    return work.measure.function(Subject(work.trial, dataset, model, work.ticket, work.trained))


def _as_training_began(trial: Trial, dataset: Dataset, ticket: Ticket | None) -> nn.Module:
    """The network with the weights that training starts from, but for those that the ticket removes."""
    model = network(trial, dataset)
    if alters_weights(trial):
        ticket_of(trial, model, dataset)  # which gives the model its other weights, as it did in the trial
    elif ticket is not None:
        ticket.start_(model)
    return model
