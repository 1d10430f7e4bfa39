"""What can be measured of a trial: functions of its network, its ticket and its trained weights to tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from disbud import measures
from disbud.data import Dataset
from disbud.errors import unknown_name
from disbud.graph import prunable
from disbud.measures import Table
from disbud.study.trial import Trial
from disbud.ticket import Ticket

QUANTILES = 64


@dataclass(frozen=True)
class Subject:
    """What a measure may look at: `model` holds the weights that training began with, `trained` those it ended with."""

    trial: Trial
    dataset: Dataset
    model: nn.Module
    ticket: Ticket | None
    trained: Mapping[str, Tensor] | None


@dataclass(frozen=True)
class TrialMeasure:
    """A measure by name; `revision` rises when it comes to give other numbers, so that it is taken again."""

    name: str
    summary: str
    function: Callable[[Subject], Table]
    revision: int = 1


def _paths(subject: Subject) -> Table:
    return measures.paths(subject.model, subject.ticket, example=subject.dataset.example())


def _cost(subject: Subject) -> Table:
    return measures.cost(subject.model, subject.ticket, example=subject.dataset.example())


def _weights(subject: Subject) -> Table:
    """Per layer, at the start and trained: mean, deviation, and 64 quantiles at the middles of equal parts."""
    states: dict[str, Mapping[str, Tensor]] = {"start": subject.model.state_dict()}
    if subject.trained is not None:
        states["trained"] = subject.trained
    rows: list[dict[str, object]] = []
    for layer in prunable(subject.model, example=subject.dataset.example()):
        for when, state in states.items():
            weight = state[layer.name].double()
            mask = None if subject.ticket is None else subject.ticket.masks.get(layer.name)
            kept = (weight.flatten() if mask is None else weight[mask]).sort().values
            rows.append(
                {
                    "layer": layer.name,
                    "when": when,
                    "kept": kept.numel(),
                    "total": weight.numel(),
                    "mean": float(kept.mean()) if kept.numel() else None,
                    "deviation": float(kept.std(correction=0)) if kept.numel() else None,
                    **{f"q{i + 1}": value for i, value in enumerate(_quantiles(kept))},
                }
            )
    return Table.of(rows)  # type: ignore[arg-type]


def _quantiles(ordered: Tensor) -> list[float | None]:
    """Values at ranks (i - 1/2) / 64 of the sorted values, linear between neighbours; six digits are kept."""
    if not ordered.numel():
        return [None] * QUANTILES
    ranks = (torch.arange(QUANTILES, dtype=torch.float64) + 0.5) / QUANTILES * ordered.numel() - 0.5
    ranks = ranks.clamp(0, ordered.numel() - 1)
    low = ranks.floor().long()
    high = (low + 1).clamp(max=ordered.numel() - 1)
    values = ordered[low] + (ranks - low) * (ordered[high] - ordered[low])
    return [float(f"{value:.6g}") for value in values.tolist()]


TRIAL_MEASURES: dict[str, TrialMeasure] = {
    measure.name: measure
    for measure in (
        TrialMeasure("paths", "effective paths, nodes and weights, layer by layer", _paths),
        TrialMeasure("cost", "weights and multiply-adds, layer by layer", _cost),
        TrialMeasure(
            "weights", "how each layer's kept weights are distributed, before and after training", _weights
        ),
    )
}


def trial_measure(name: str) -> TrialMeasure:
    """The measure of that name.

    >>> from disbud.study.trial_measures import trial_measure
    >>> trial_measure("paths").revision
    1
    """
    if name not in TRIAL_MEASURES:
        raise unknown_name("measure", name, TRIAL_MEASURES)
    return TRIAL_MEASURES[name]
