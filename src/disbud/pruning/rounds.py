"""From scores to masks: score and choose, round after round, each group of layers to its own count."""

from __future__ import annotations

import bisect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from disbud.errors import DisbudError
from disbud.graph import Layer
from disbud.methods.scoring import Scoring, Tensors
from disbud.pruning.plan import KEEP, Plan
from disbud.pruning.returned import by_layer, unchanged
from disbud.selection import allocate, kept_count, schedule


@dataclass(frozen=True)
class Group:
    """Layers ranked together, how many of their weights are left in the end, and the sparsity that is."""

    names: tuple[str, ...]
    size: int
    kept: int
    sparsity: float


Counts = Sequence[tuple[tuple[str, ...], int]]


class Chooser(Protocol):
    """How one round's scores become the masks of the scoring."""

    def __call__(self, found: Tensors, counts: Counts, *, returning: bool) -> None:
        """So many weights of each group of layers, of those still kept; of all, where pruned ones are returning."""


def groups_of(plan: Plan, layers: Sequence[Layer], sparsity: float | None) -> list[Group]:
    """All layers together, or each by itself with the budget its density rule gives it."""
    if plan.densities is None:
        assert sparsity is not None
        total = sum(layer.size for layer in layers)
        return [Group(tuple(layer.name for layer in layers), total, kept_count(sparsity, total), sparsity)]
    counts = allocate(plan.densities, layers, sparsity, **plan.rule_settings)
    return [
        Group((x.name,), x.size, counts[x.name], 1 - counts[x.name] / x.size if x.size else 0.0)
        for x in layers
    ]


def most_kept(plan: Plan, layers: Sequence[Layer], *, above: int) -> int:
    """The most weights that the plan's densities can keep, `above` at least: not all, where they empty a layer."""
    total = sum(layer.size for layer in layers)

    def beyond(kept: int) -> bool:
        try:
            groups_of(plan, layers, 1 - kept / total)
        except DisbudError:
            return True
        return False

    if not total or not beyond(total):
        return total
    return bisect.bisect_left(range(total), True, lo=above, key=beyond) - 1


def masks_of(plan: Plan, scoring: Scoring, groups: Sequence[Group], choose: Chooser) -> Tensors:
    """Score and choose, round after round; each group of layers goes down its own schedule to its own count."""
    steps = [schedule(plan.schedule, group.sparsity, plan.rounds) for group in groups]
    scoring.signed = plan.aggregate == "abs-of-sum"
    for scoring.round in range(plan.rounds):
        last = scoring.round == plan.rounds - 1
        counts = [
            (group.names, group.kept if last else kept_count(step[scoring.round], group.size))
            for group, step in zip(groups, steps, strict=True)
        ]
        found = plan.score(scoring)
        returning = plan.regrowth and not _of_survivors(found, scoring)
        _warn_if_silent(plan, scoring, found, sum(count for _, count in counts), returning=returning)
        choose(found, counts, returning=returning)
    assert scoring.masks is not None
    return scoring.masks


def single_weights(plan: Plan, scoring: Scoring) -> Chooser:
    """Each weight by itself, exactly as many as the counts say."""

    def choose(found: Tensors, counts: Counts, *, returning: bool) -> None:
        kept = None if returning else scoring.positions
        candidates = found if kept is None else {name: _survivors(found[name], kept[name]) for name in found}
        chosen: Tensors = {}
        for names, count in counts:
            chosen |= KEEP[plan.keep]({name: candidates[name] for name in names}, count)
        if kept is None:
            scoring.masks = chosen
        else:
            scoring.narrow(chosen)

    return choose


def constructed(plan: Plan, scoring: Scoring, groups: Sequence[Group]) -> Tensors:
    """Masks from a construction, which keeps to its budget like everything else."""
    budget = {group.names[0]: group.kept for group in groups} if plan.densities else groups[0].kept
    with unchanged(plan.method.name, scoring.model):
        made = plan.method.load()(scoring, budget, **plan.score_settings)
    masks = by_layer(plan.method.name, made, {layer.name: layer.shape for layer in scoring.layers})
    if plan.method.whole_channels:  # as many as fit into the budget of all layers together
        names = tuple(name for group in groups for name in group.names)
        groups = [Group(names, sum(x.size for x in groups), sum(x.kept for x in groups), 0.0)]
    for group in groups:
        kept = sum(int(masks[name].sum()) for name in group.names)
        if kept > group.kept or (kept < group.kept and not plan.method.whole_channels):
            raise DisbudError(
                f"{plan.method.name} kept {kept:,} weights of {', '.join(group.names[:3])}, not {group.kept:,}"
            )
    return masks


def in_full(score: Tensor, scoring: Scoring, name: str) -> Tensor:
    """A score in the weight's own shape; of what is pruned, where a method scores survivors alone, zero."""
    shape, kept = scoring.weights[name].shape, scoring.positions
    if kept is None or score.shape == shape:
        return score.view(shape)
    flat = torch.zeros(shape.numel(), dtype=score.dtype, device=score.device)
    return flat.index_copy_(0, kept[name].long(), score).view(shape)


def _of_survivors(found: Tensors, scoring: Scoring) -> bool:
    """Whether a round scored only what is still kept, so that nothing can return in it."""
    kept = scoring.positions
    return kept is not None and all(score.shape == kept[name].shape for name, score in found.items())


def _survivors(score: Tensor, positions: Tensor) -> Tensor:
    return score if score.shape == positions.shape else score.reshape(-1).index_select(0, positions)


def _warn_if_silent(plan: Plan, scoring: Scoring, found: Tensors, count: int, *, returning: bool) -> None:
    """Say, once, that a choice is no choice: nothing that is ranked has a score other than zero."""
    kept = None if returning else scoring.positions
    for name, score in found.items():  # mostly the first layer has one, and that is the end of it
        if bool((score if kept is None else _survivors(score, kept[name])).any()):
            return
    candidates = sum(score.numel() if kept is None else len(kept[name]) for name, score in found.items())
    if not 0 < count < candidates:
        return
    scoring.once(
        "said that all scores are zero",
        lambda: warnings.warn(
            f"{plan.method.name}: all scores of round {scoring.round + 1} are zero, so which weights are kept is "
            f"decided by their position; {_why_silent(scoring)}, or choose another method",
            stacklevel=9,  # of the caller of disbud.prune
        ),
    )


def _why_silent(scoring: Scoring) -> str:
    zeros = [name for name, weight in scoring.masked().items() if weight.numel() and not bool(weight.any())]
    if not zeros:
        return "nothing that this method looks at gets through the model: give it other data or weights"
    return (
        f"a layer of zeros ({', '.join(zeros[:3])}{', ...' if len(zeros) > 3 else ''}), as a zero-initialised head or "
        "one that is pruned away, stops every gradient: give it weights, ask for a lower sparsity"
    )
