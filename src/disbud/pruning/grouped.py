"""Choosing whole groups of weights by their scores: kernels, channels, n of every m."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from disbud.errors import DisbudError
from disbud.methods.scoring import Scoring, Tensors
from disbud.origin import Json
from disbud.pruning.plan import Plan
from disbud.pruning.rounds import Chooser, Counts, Group, in_full
from disbud.selection import kept_count, schedule
from disbud.selection.channels import Channels
from disbud.selection.groups import keep_kernels, keep_some_of_each


class _Choice(Protocol):
    """The masks of groups of one kind, by scores of all weights, within the counts, of those `among` (None: all)."""

    def __call__(self, scores: Tensors, counts: Counts, among: Tensors | None) -> Tensors: ...


def whole_groups(plan: Plan, scoring: Scoring, budgets: Sequence[Group]) -> Chooser:
    """Whole groups of the plan's granularity, as many weights of each budget as fit, at most what the counts say."""
    plan.granularity.check(scoring.layers, sum(budget.kept for budget in budgets))
    choice = _choice(plan, scoring, budgets)

    def choose(found: Tensors, counts: Counts, *, returning: bool) -> None:
        scores = {name: in_full(score, scoring, name) for name, score in found.items()}
        scoring.masks = choice(scores, counts, None if returning else scoring.masks)

    return choose


def record(budgets: Sequence[Group], masks: Mapping[str, Tensor]) -> dict[str, Json]:
    """What goes to the origin besides the settings: the weights that were to be kept, and those kept."""
    asked = sum(budget.kept for budget in budgets)
    return {"asked": asked, "kept": sum(int(mask.sum()) for mask in masks.values())}


def _choice(plan: Plan, scoring: Scoring, budgets: Sequence[Group]) -> _Choice:
    if plan.granularity.kind == "kernel":
        return _kernels(plan)
    if plan.granularity.kind == "channel":
        return _channels(plan, scoring, budgets)
    return _n_of_m(plan, scoring)


def _kernels(plan: Plan) -> _Choice:
    def choose(scores: Tensors, counts: Counts, among: Tensors | None) -> Tensors:
        masks: Tensors = {}
        for names, count in counts:
            group = {name: scores[name] for name in names}
            masks |= keep_kernels(group, count, keep=plan.keep, aggregate=plan.aggregate, among=among)
        return masks

    return choose


def _channels(plan: Plan, scoring: Scoring, budgets: Sequence[Group]) -> _Choice:
    if scoring.example is None:
        raise DisbudError(
            "channels that an addition joins are found by sending a signal through the model: give example=..., such "
            "as torch.zeros(1, 3, 32, 32), or a tuple or dict of inputs; its numbers do not matter"
        )
    channels = Channels(scoring.model, scoring.layers, example=scoring.example)
    final = [(budget.names, budget.kept) for budget in budgets]
    channels.choose(
        np.zeros(len(channels.free)), final, keep=plan.keep, among=None
    )  # before any work is done
    staying: list[np.ndarray[tuple[int, ...], np.dtype[np.bool_]]] = []

    def choose(scores: Tensors, counts: Counts, among: Tensors | None) -> Tensors:
        values = channels.values(scores, plan.aggregate)
        before = staying[-1] if among is not None and staying else None
        staying.append(channels.choose(values, counts, keep=plan.keep, among=before))
        found = channels.masks(staying[-1])
        return {name: mask.to(scores[name].device) for name, mask in found.items()}

    return choose


def _n_of_m(plan: Plan, scoring: Scoring) -> _Choice:
    n, m = plan.granularity.n, plan.granularity.m
    steps = iter(schedule(plan.schedule, 1 - n / m, plan.rounds))

    def choose(scores: Tensors, counts: Counts, among: Tensors | None) -> Tensors:
        last = scoring.round == plan.rounds - 1
        wanted = n if last else max(n, kept_count(next(steps), m))
        signless = {name: s.abs() if plan.aggregate == "abs-of-sum" else s for name, s in scores.items()}
        return {
            layer.name: keep_some_of_each(
                signless[layer.name],
                layer,
                wanted,
                m,
                keep=plan.keep,
                among=None if among is None else among[layer.name],
            )
            for layer in scoring.layers
        }

    return choose
