"""What every verdict of a study rests on: its margins, its positive controls, its looks."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from disbud.claims import (
    Cells,
    Judgement,
    Looks,
    Margin,
    Pairs,
    beats_guessing,
    calibrated_margin,
    paired,
    positive_controls,
)
from disbud.errors import DisbudError
from disbud.study.deciding.bounds import LEAST_PAIRS
from disbud.study.frame import FIRST_CALIBRATION, LOG_PATHS, Frame
from disbud.study.specification.grid import REFERENCE, dense_of
from disbud.study.trial import Trial

TRAINED, SHUFFLED = "magnitude-after-training", "shuffle"


@dataclass(frozen=True)
class Setting:
    """A frame, and by what its variants are judged.

    `given` is the margin of the study file, None where margins are found on calibration seeds: one for each model, data
    set, recipe and sparsity.
    """

    frame: Frame
    looks: Looks | None = None
    given: float | None = None
    _found: dict[Trial, Margin] = field(default_factory=dict, compare=False)
    _controls: dict[tuple[Trial, float | None, Margin], Cells | None] = field(
        default_factory=dict, compare=False
    )

    def margin(self, variant: Trial) -> Margin:
        """The margin for accuracies where the variant is."""
        if self.given is not None:
            return Margin(self.given, why="given")
        random = replace(variant, method=REFERENCE, intervention=None)
        if random not in self._found:
            dense = self._calibrating(dense_of(variant))
            below = self._calibrating(random)
            shared = dense.keys() & below.keys()
            self._found[random] = calibrated_margin(
                {s: dense[s] for s in shared}, {s: below[s] for s in shared}
            )
        return self._found[random]

    def _calibrating(self, variant: Trial) -> dict[int, float]:
        """Accuracies on the seeds that margins are found on."""
        found = {s: v for s, v in self.frame.values(variant, "accuracy").items() if s >= FIRST_CALIBRATION}
        if not found:
            failed = [r.error for r in self.frame.rows.get(variant, {}).values() if r.failed and r.error]
            why = f"failed: {failed[0].strip().splitlines()[-1]}" if failed else "has no result yet"
            raise DisbudError(f"there is no margin: on the seeds that margins are found on, {variant} {why}")
        return found

    def controls(self, variant: Trial, margin: Margin) -> Cells | None:
        """Whether a control is worse by more than the margin where the variant is; None without controls."""
        place = dense_of(variant), variant.sparsity, margin
        if place not in self._controls:
            pairs = {
                name: self.pairs(better, worse)
                for name, (better, worse) in control_pairs(variant, self.frame.variants).items()
            }
            enough = {name: found for name, found in pairs.items() if len(found) >= self.least}
            self._controls[place] = (
                positive_controls(enough, margin=margin, looks=self.looks, better="reference")
                if enough
                else None
            )
        return self._controls[place]

    def unless_at_chance(self, judgement: Judgement, data: str, *sides: Collection[float]) -> Judgement:
        """What was judged of accuracies; uninformative where neither side is better than guessing by the margin."""
        chance = self.frame.chance.get(data)
        if chance is None or any(beats_guessing(s, chance=chance, margin=judgement.margin) for s in sides):
            return judgement
        return judgement.uninformative(f"neither side is above guessing, {100 * chance:.3g} %, by the margin")

    @property
    def least(self) -> int:
        """How many pairs a test needs."""
        return LEAST_PAIRS if self.looks is None else self.looks.seeds[0]

    def values(self, variant: Trial, name: str) -> dict[int, float]:
        """A value by seed, for the seeds that claims are judged on.

        A run that diverged has the accuracy and the loss of guessing; where no path is left, log10 of their number
        counts as that of one. A value that is not defined is left out.
        """
        rows = self.frame.rows.get(variant, {})
        found = {}
        for seed, value in self.frame.values(variant, name).items():
            if seed >= FIRST_CALIBRATION:
                continue
            if name == "loss" and rows[seed].diverged:
                value = -math.log(rows[seed].accuracy or math.nan)
            if name == LOG_PATHS and value == -math.inf:
                value = 0.0
            if math.isfinite(value):
                found[seed] = value
        return found

    def pairs(self, left: Trial, right: Trial, value: str = "accuracy") -> Pairs:
        """Left minus right over the seeds that both have."""
        one, other = self.values(left, value), self.values(right, value)
        shared = one.keys() & other.keys()
        pairs = paired(
            {seed: one[seed] for seed in shared},
            {seed: other[seed] for seed in shared},
            unit="points" if value == "accuracy" else "plain",
        )
        if value not in ("accuracy", "loss"):
            return pairs
        diverged = sum(
            bool(self.frame.rows[side][seed].diverged) for side in (left, right) for seed in shared
        )
        return replace(pairs, diverged=diverged)


def control_pairs(variant: Trial, known: Collection[Trial]) -> dict[str, tuple[Trial, Trial]]:
    """What is known to be better, and worse, where the variant is: of the positive controls those that are run."""
    if variant.sparsity is None:
        return {}
    place = replace(variant, method=REFERENCE, intervention=None)
    trained = replace(place, method=TRAINED)
    wanted = {
        REFERENCE: (dense_of(variant), place),
        f"{TRAINED}, shuffled": (trained, replace(trained, intervention=SHUFFLED)),
    }
    run = set(known)
    return {name: sides for name, sides in wanted.items() if run.issuperset(sides)}
