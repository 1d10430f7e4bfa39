"""From scores to masks: score and select, round after round, each group of layers to its own exact count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from disbud.errors import DisbudError
from disbud.graph import Layer
from disbud.methods.scoring import Score, Scoring, Tensors
from disbud.pruning.plan import KEEP, Plan
from disbud.selection import allocate, kept_count, schedule


@dataclass(frozen=True)
class _Group:
    """Layers ranked together, how many of their weights are left in the end, and the sparsity that is."""

    names: tuple[str, ...]
    size: int
    kept: int
    sparsity: float


def _groups(plan: Plan, layers: Sequence[Layer], sparsity: float | None) -> list[_Group]:
    """All layers together, or each by itself with the budget its density rule gives it."""
    if plan.densities is None:
        assert sparsity is not None
        total = sum(layer.size for layer in layers)
        return [_Group(tuple(layer.name for layer in layers), total, kept_count(sparsity, total), sparsity)]
    counts = allocate(plan.densities, layers, sparsity, **plan.rule_settings)
    return [
        _Group((x.name,), x.size, counts[x.name], 1 - counts[x.name] / x.size if x.size else 0.0)
        for x in layers
    ]


def masks_of(plan: Plan, scoring: Scoring, sparsity: float | None) -> dict[str, Tensor]:
    """Score and select, round after round; each group of layers goes down its own schedule to its own count."""
    groups = _groups(plan, scoring.layers, sparsity)
    if plan.method.construction:
        return _constructed(plan, scoring, groups)
    steps = [schedule(plan.schedule, group.sparsity, plan.rounds) for group in groups]
    for scoring.round in range(plan.rounds):
        found = score_of(plan, scoring)
        kept = None if plan.regrowth else scoring.positions
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


def _constructed(plan: Plan, scoring: Scoring, groups: Sequence[_Group]) -> dict[str, Tensor]:
    """Masks from a construction, which keeps to its budget like everything else."""
    budget = {group.names[0]: group.kept for group in groups} if plan.densities else groups[0].kept
    masks = cast("dict[str, Tensor]", plan.method.load()(scoring, budget, **plan.score_settings))
    for group in groups:
        kept = sum(int(masks[name].sum()) for name in group.names)
        if kept != group.kept:
            raise DisbudError(
                f"{plan.method.name} kept {kept:,} weights of {', '.join(group.names[:3])}, not {group.kept:,}"
            )
    return masks


def _survivors(score: Tensor, positions: Tensor) -> Tensor:
    return score if score.shape == positions.shape else score.reshape(-1).index_select(0, positions)


def score_of(plan: Plan, scoring: Scoring) -> Tensors:
    """The scores of one round."""
    function: Score = plan.method.load()  # type: ignore[assignment]
    return function(scoring, **plan.score_settings)
