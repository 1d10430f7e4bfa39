"""The levels a method that trains goes down by: how many weights each keeps, and which of trained weights those are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real

import torch

from disbud.errors import DisbudError
from disbud.methods.trained import Masks, Weights
from disbud.pruning.plan import KEEP, Plan
from disbud.pruning.rounds import Group
from disbud.selection import kept_count, schedule


@dataclass(frozen=True)
class Pruned:
    """One level: the groups of layers that are ranked together, and how many weights of each it keeps."""

    groups: Sequence[Group]
    counts: Sequence[int]
    keep: str

    @property
    def kept(self) -> int:
        """How many weights the level keeps."""
        return sum(self.counts)

    def __call__(self, weights: Weights, masks: Masks | None) -> Masks:
        """Masks of the largest abs(w) of the weights still kept, or of the smallest where the plan says so."""
        found: Masks = {}
        for group, count in zip(self.groups, self.counts, strict=True):
            magnitudes = {name: weights[name].abs() for name in group.names}
            if masks is None:
                found |= KEEP[self.keep](magnitudes, count)
                continue
            chosen = KEEP[self.keep]({name: magnitudes[name][masks[name]] for name in group.names}, count)
            for name in group.names:
                found[name] = torch.zeros_like(masks[name]).masked_scatter_(masks[name], chosen[name])
        return found


def levels_of(plan: Plan, groups: Sequence[Group], *, per_level: float | None) -> list[Pruned]:
    """Each group's counts level by level, down to its own: by the plan's rounds and schedule, or by a fraction a level.

    By a fraction, what a level keeps does not depend on the sparsity asked, but for the last level: a run to a higher
    sparsity passes through the levels of a lower one.
    """
    if per_level is None:
        counts = [_by_schedule(group, plan) for group in groups]
    else:
        counts = [_by_fraction(group, per_level) for group in groups]
        longest = max(map(len, counts))
        counts = [[*own, *own[-1:] * (longest - len(own))] for own in counts]
    return [Pruned(groups, level, plan.keep) for level in zip(*counts, strict=True)]


def _by_schedule(group: Group, plan: Plan) -> list[int]:
    steps = schedule(plan.schedule, group.sparsity, plan.rounds)
    return [*(kept_count(step, group.size) for step in steps[:-1]), group.kept]


def _by_fraction(group: Group, per_level: float) -> list[int]:
    """Counts that fall by the fraction each level, in decimal and rounded half up, until the group's own is reached."""
    if isinstance(per_level, bool) or not isinstance(per_level, Real) or not 0 < per_level < 1:
        raise DisbudError(
            "per_level is the fraction of the weights still kept that each level removes, such as 0.2, not "
            f"{per_level!r}"
        )
    left, counts = Fraction(1), list[int]()
    while not counts or counts[-1] > group.kept:
        left *= 1 - Fraction(repr(float(per_level)))
        counts.append(max(group.kept, math.floor(left * group.size + Fraction(1, 2))))
    return counts
