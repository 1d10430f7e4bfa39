"""What every verdict of a study rests on: its margins, its positive controls, its looks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from disbud.claims import Cells, Looks, Margin, Pairs, calibrated_margin, paired, positive_controls
from disbud.errors import DisbudError
from disbud.study.deciding.bounds import LEAST_PAIRS
from disbud.study.frame import FIRST_CALIBRATION, Frame
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
    _controls: dict[tuple[Trial, Margin], Cells | None] = field(default_factory=dict, compare=False)

    def margin(self, variant: Trial) -> Margin:
        """The margin for accuracies where the variant is."""
        if self.given is not None:
            return Margin(self.given, why="given")
        random = replace(variant, method=REFERENCE, intervention=None)
        if random not in self._found:
            dense = _beyond(self.frame.values(dense_of(variant), "accuracy"))
            below = _beyond(self.frame.values(random, "accuracy"))
            shared = sorted(dense.keys() & below.keys())
            if not shared:
                raise DisbudError(
                    f"there is no margin for {variant}: dense and {REFERENCE} were not run on calibration seeds; give "
                    "margin = 0.005 in the study file"
                )
            self._found[random] = calibrated_margin(
                {s: dense[s] for s in shared}, {s: below[s] for s in shared}
            )
        return self._found[random]

    def controls(self, variant: Trial, margin: Margin) -> Cells | None:
        """Whether a control is worse by more than the margin where the variant is; None without controls."""
        place = replace(variant, method=REFERENCE, intervention=None)
        if (place, margin) not in self._controls:
            known = set(self.frame.variants)
            wanted = {
                REFERENCE: (dense_of(variant), place),
                f"{TRAINED}, shuffled": (
                    replace(place, method=TRAINED),
                    replace(place, method=TRAINED, intervention=SHUFFLED),
                ),
            }
            pairs = {
                name: self.pairs(better, worse)
                for name, (better, worse) in wanted.items()
                if better in known and worse in known
            }
            enough = {name: found for name, found in pairs.items() if len(found) >= self.least}
            self._controls[place, margin] = (
                positive_controls(enough, margin=margin, looks=self.looks, better="reference")
                if enough
                else None
            )
        return self._controls[place, margin]

    @property
    def least(self) -> int:
        """How many pairs a test needs."""
        return LEAST_PAIRS if self.looks is None else self.looks.seeds[0]

    def pairs(self, left: Trial, right: Trial, value: str = "accuracy") -> Pairs:
        """Left minus right over the seeds that both have; a run that diverged has the accuracy and loss of guessing."""
        sides = [_judged(self.frame.values(variant, value)) for variant in (left, right)]
        shared = sorted(sides[0].keys() & sides[1].keys())
        guessed = [self._of_guessing(variant, value) for variant in (left, right)]
        one, other = (
            {seed: side[seed] if math.isfinite(side[seed]) else guess for seed in shared}
            for side, guess in zip(sides, guessed, strict=True)
        )
        return paired(one, other, unit="points" if value == "accuracy" else "plain")

    def _of_guessing(self, variant: Trial, value: str) -> float:
        """The loss of a diverged run counts as that of guessing; no other value is ever infinite."""
        if value != "loss":
            return math.nan
        lost = [r.accuracy for r in self.frame.rows[variant].values() if r.diverged and r.accuracy]
        return -math.log(lost[0]) if lost else math.nan


def _judged(values: Mapping[int, float]) -> dict[int, float]:
    return {seed: value for seed, value in values.items() if seed < FIRST_CALIBRATION}


def _beyond(values: Mapping[int, float]) -> dict[int, float]:
    return {seed: value for seed, value in values.items() if seed >= FIRST_CALIBRATION}
