"""One pruning without training: scores or a construction, to masks and what goes into their origin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from disbud.batches import Loss, cross_entropy
from disbud.graph import Layer
from disbud.isolation import Example, isolated
from disbud.methods.evidence import Evidence
from disbud.methods.scoring import Scoring, Tensors
from disbud.origin import Json
from disbud.pruning.grouped import record, whole_groups
from disbud.pruning.plan import Plan, as_json
from disbud.pruning.rounds import Group, constructed, groups_of, masks_of, single_weights
from disbud.pruning.sources import scoring_of


class Made(NamedTuple):
    """Masks, the settings as they were resolved, what was looked at, and the weights to start from if they change."""

    masks: Mapping[str, Tensor]
    settings: Mapping[str, Json]
    evidence: Mapping[str, Json] | None
    start: Mapping[str, Tensor] | None = None


def by_scores(
    plan: Plan,
    model: nn.Module,
    layers: Sequence[Layer],
    sparsity: float | None,
    *,
    evidence: Evidence | None,
    loss: Loss | None,
    example: Example | None,
    seed: int,
) -> Made:
    """Prune once, at that sparsity."""
    scoring = scoring_of(
        plan.method.name, model, layers, evidence=evidence, loss=loss, example=example, seed=seed
    )
    with isolated(model, seed=seed, batch_norm=plan.batch_norm):
        groups = groups_of(plan, layers, sparsity)
        masks, start = plan.finish(scoring, _masks(plan, scoring, groups))
    settings = plan.to_json()
    looked_at = None
    if evidence is not None and evidence.batches > 0:  # a construction may look at data, or not
        looked_at = evidence.summary()
        settings |= {
            "examples_per_class": evidence.examples_per_class,
            "batch_size": evidence.batch_size,
            "loss": as_json(cross_entropy if loss is None else loss),
        }
    if plan.granularity.kind != "weight":
        settings |= record(groups, masks)
    return Made(masks, settings, looked_at, start)


def _masks(plan: Plan, scoring: Scoring, groups: Sequence[Group]) -> Tensors:
    if plan.method.construction:
        return constructed(plan, scoring, groups)
    if plan.by_groups:
        return masks_of(plan, scoring, groups, whole_groups(plan, scoring, groups))
    return masks_of(plan, scoring, groups, single_weights(plan, scoring))
