"""From scores to masks: score and select, round after round, each group of layers to its own exact count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from disbud.errors import DisbudError
from disbud.graph import Layer
from disbud.methods.scoring import Scoring, Tensors
from disbud.pruning.plan import KEEP, Plan
from disbud.selection import allocate, kept_count, schedule


@dataclass(frozen=True)
class Group:
    """Layers ranked together, how many of their weights are left in the end, and the sparsity that is."""

    names: tuple[str, ...]
    size: int
    kept: int
    sparsity: float


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


def masks_of(plan: Plan, scoring: Scoring, sparsity: float | None) -> dict[str, Tensor]:
    """Score and select, round after round; each group of layers goes down its own schedule to its own count."""
    groups = groups_of(plan, scoring.layers, sparsity)
    if plan.method.construction:
        return _constructed(plan, scoring, groups)
    steps = [schedule(plan.schedule, group.sparsity, plan.rounds) for group in groups]
    for scoring.round in range(plan.rounds):
        found = plan.score(scoring)
        kept = None if plan.regrowth and not of_survivors(found, scoring) else scoring.positions
        candidates = found if kept is None else {name: _survivors(found[name], kept[name]) for name in found}
        chosen: dict[str, Tensor] = {}
        for group, step in zip(groups, steps, strict=True):
            last = scoring.round == plan.rounds - 1
            count = group.kept if last else kept_count(step[scoring.round], group.size)
            chosen |= KEEP[plan.keep]({name: candidates[name] for name in group.names}, count)
        if kept is None:
            scoring.masks = chosen
        else:
            scoring.narrow(chosen)
    assert scoring.masks is not None
    return scoring.masks


def _constructed(plan: Plan, scoring: Scoring, groups: Sequence[Group]) -> dict[str, Tensor]:
    """Masks from a construction, which keeps to its budget like everything else."""
    budget = {group.names[0]: group.kept for group in groups} if plan.densities else groups[0].kept
    masks = cast("dict[str, Tensor]", plan.method.load()(scoring, budget, **plan.score_settings))
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


def of_survivors(found: Tensors, scoring: Scoring) -> bool:
    """Whether a round scored only what is still kept, so that nothing can return in it."""
    kept = scoring.positions
    return kept is not None and all(score.shape == kept[name].shape for name, score in found.items())


def _survivors(score: Tensor, positions: Tensor) -> Tensor:
    return score if score.shape == positions.shape else score.reshape(-1).index_select(0, positions)
