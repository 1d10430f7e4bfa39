"""From scores to masks of whole groups: score, add up over each group, and select, round after round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from disbud.errors import DisbudError
from disbud.graph import Layer
from disbud.methods.scoring import Scoring, Tensors
from disbud.origin import Json
from disbud.pruning.plan import Plan
from disbud.pruning.rounds import Group, groups_of, of_survivors
from disbud.selection import kept_count, schedule
from disbud.selection.channels import Channels
from disbud.selection.groups import keep_kernels, keep_some_of_each


class _Chooser(Protocol):
    """How groups of one kind are chosen by scores of all weights, within the budgets, of those still kept."""

    def __call__(
        self, scores: Tensors, budgets: Sequence[tuple[tuple[str, ...], int]], among: Tensors | None
    ) -> Tensors: ...


def masks_by_groups(plan: Plan, scoring: Scoring, sparsity: float | None) -> Tensors:
    """Masks of whole groups, as many weights of each budget as fit, at most what its schedule says in each round."""
    budgets = groups_of(plan, scoring.layers, sparsity)
    plan.granularity.check(scoring.layers, sum(budget.kept for budget in budgets))
    choose = _chooser(plan, scoring, budgets)
    scoring.signed = plan.aggregate == "abs-of-sum"
    steps = [schedule(plan.schedule, budget.sparsity, plan.rounds) for budget in budgets]
    for scoring.round in range(plan.rounds):
        last = scoring.round == plan.rounds - 1
        counts = [
            (budget.names, budget.kept if last else kept_count(step[scoring.round], budget.size))
            for budget, step in zip(budgets, steps, strict=True)
        ]
        found = plan.score(scoring)
        returning = plan.regrowth and not of_survivors(found, scoring)
        full = {name: _full(score, scoring, name) for name, score in found.items()}
        scoring.masks = choose(full, counts, None if returning else scoring.masks)
    assert scoring.masks is not None
    return scoring.masks


def record(
    plan: Plan, layers: Sequence[Layer], sparsity: float | None, masks: Mapping[str, Tensor]
) -> dict[str, Json]:
    """What goes to the origin besides the settings: the weights that were to be kept, and those kept."""
    asked = sum(budget.kept for budget in groups_of(plan, layers, sparsity))
    return {"asked": asked, "kept": sum(int(mask.sum()) for mask in masks.values())}


def _chooser(plan: Plan, scoring: Scoring, budgets: Sequence[Group]) -> _Chooser:
    if plan.granularity.kind == "kernel":
        return _kernels(plan)
    if plan.granularity.kind == "channel":
        return _channels(plan, scoring, budgets)
    return _n_of_m(plan, scoring)


def _kernels(plan: Plan) -> _Chooser:
    def choose(
        scores: Tensors, budgets: Sequence[tuple[tuple[str, ...], int]], among: Tensors | None
    ) -> Tensors:
        masks: Tensors = {}
        for names, count in budgets:
            group = {name: scores[name] for name in names}
            masks |= keep_kernels(group, count, keep=plan.keep, aggregate=plan.aggregate, among=among)
        return masks

    return choose


def _channels(plan: Plan, scoring: Scoring, budgets: Sequence[Group]) -> _Chooser:
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

    def choose(
        scores: Tensors, budgets: Sequence[tuple[tuple[str, ...], int]], among: Tensors | None
    ) -> Tensors:
        values = channels.values(scores, plan.aggregate)
        before = staying[-1] if among is not None and staying else None
        staying.append(channels.choose(values, budgets, keep=plan.keep, among=before))
        found = channels.masks(staying[-1])
        return {name: mask.to(scores[name].device) for name, mask in found.items()}

    return choose


def _n_of_m(plan: Plan, scoring: Scoring) -> _Chooser:
    n, m = plan.granularity.n, plan.granularity.m
    steps = iter(schedule(plan.schedule, 1 - n / m, plan.rounds))

    def choose(
        scores: Tensors, budgets: Sequence[tuple[tuple[str, ...], int]], among: Tensors | None
    ) -> Tensors:
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


def _full(score: Tensor, scoring: Scoring, name: str) -> Tensor:
    """A score in the weight's own shape; of what is pruned, where a method scores survivors alone, zero."""
    shape, kept = scoring.weights[name].shape, scoring.positions
    if kept is None or score.shape == shape:
        return score.view(shape)
    flat = torch.zeros(shape.numel(), dtype=score.dtype, device=score.device)
    return flat.index_copy_(0, kept[name].long(), score).view(shape)
