"""What a study comes to: the trials of its file, those of added seeds, and how its claims are decided on them."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from disbud.artifacts import canonical
from disbud.claims import Looks
from disbud.errors import DisbudError
from disbud.study.datasets import fingerprint, guessing, knows_fingerprint
from disbud.study.deciding import decide, decide_in_looks
from disbud.study.findings import Decision
from disbud.study.frame import Frame
from disbud.study.identity import identity_of
from disbud.study.record import Record
from disbud.study.specification import StudyForm, seeds_of
from disbud.study.specification.grid import CALIBRATION, Grid
from disbud.study.store import KeptStudy, Store
from disbud.study.trial import Seeds, Trial

LOOKS = Looks()
_SAYS_NO_TRIAL = {"name", "title", "says", "measures", "claim"}
More = Callable[[Sequence[Trial]], Mapping[Trial, Record]]


def no_more(missing: Sequence[Trial]) -> Mapping[Trial, Record]:
    """What decides on the records that there are: of trials beyond them nothing is known."""
    return {}


@dataclass(frozen=True)
class Plan:
    """The trials of a study and its looks, None where it has as many seeds as its file says; `drawn` are all its seeds.

    Once `until_decided` was asked for, a study stays one of looks: what is decided on its store later goes by the same
    seeds and the same design as the run that added them.
    """

    form: StudyForm
    grid: Grid
    drawn: tuple[Seeds, ...]
    trials: tuple[Trial, ...]
    looks: Looks | None

    @classmethod
    def of(
        cls, form: StudyForm, grid: Grid, *, before: KeptStudy | None, until_decided: bool = False
    ) -> Plan:
        """The plan of a study, given what the store was told before under the study's name."""
        drawn = seeds_of(form)
        known: frozenset[str] = frozenset()
        if before is not None and before.text == told(form, until_decided=True):
            known = before.trials
        if not (until_decided or known):
            return cls(form, grid, tuple(drawn), tuple(grid.trials(drawn)), None)
        first, drawn = max(len(drawn), LOOKS.seeds[0]), with_added(form)
        asked = grid.trials(drawn[:first])
        wanted = {*asked, *_added(known, asked, grid, drawn[first:])}
        return cls(form, grid, tuple(drawn), tuple(_in_order(grid, drawn, wanted)), LOOKS)

    @property
    def told(self) -> str:
        """What the store is told of the study."""
        return told(self.form, until_decided=self.looks is not None)

    @cached_property
    def not_at_hand(self) -> Mapping[str, str]:
        """The data sets that cannot be read, each with the reason; of their trials the store can say nothing."""
        found: dict[str, str] = {}
        for data, split in dict.fromkeys((trial.data, trial.seeds.split) for trial in self.trials):
            if data not in found:
                try:
                    fingerprint(data, split)
                except DisbudError as error:
                    found[data] = str(error)
        return found

    def known(self, store: Store) -> dict[Trial, Record]:
        """The trials that the store holds, in brief; none of those whose data are not at hand."""
        records = {record.identity: record for record in store.in_brief()}
        at_hand = [trial for trial in self.trials if trial.data not in self.not_at_hand]
        found = {trial: records.get(identity_of(trial)) for trial in at_hand}
        return {trial: record for trial, record in found.items() if record is not None}

    def frame(self, records: Mapping[Trial, Record]) -> Frame:
        """The records by variant and seed."""
        return framed(records, self.drawn)

    def decided(
        self, records: Mapping[Trial, Record], more: More
    ) -> tuple[dict[Trial, Record], tuple[Decision, ...]]:
        """The claims decided on these records and on what `more` gives for a later look; and all the records."""
        claims, margin, variants = self.form.claim, self.form.margin, self.grid.variants
        if self.looks is None:
            return dict(records), decide(claims, self.frame(records), variants, margin=margin)
        found = dict(records)

        def frame_for(asked: Sequence[Trial], seeds: int) -> Frame:
            wanted = Grid(tuple(asked), (), ()).trials(self.drawn[:seeds])
            missing = [trial for trial in wanted if trial not in found]
            if missing:
                found.update(more(missing))
            return self.frame(found)

        decisions = decide_in_looks(claims, frame_for, variants, margin=margin, looks=self.looks)
        return {trial: found[trial] for trial in _in_order(self.grid, self.drawn, found)}, decisions


def told(form: StudyForm, *, until_decided: bool) -> str:
    """What makes a study this one to the store: what it runs, whatever words stand around it and where they stand."""
    asked = form.model_dump(mode="json", exclude=_SAYS_NO_TRIAL, exclude_none=True)
    return canonical({"trials": asked, "until decided": until_decided})


def framed(records: Mapping[Trial, Record], drawn: Sequence[Seeds]) -> Frame:
    """The records by variant and the number of the seed: those drawn in their order, and those for margins."""
    numbers = {seed: number for number, seed in enumerate(drawn)} | {seed: seed.init for seed in CALIBRATION}
    chance: dict[str, float] = {}
    for data, split in {trial.data: trial.seeds.split for trial in records}.items():
        with suppress(DisbudError):  # records may be told of where their data are not at hand
            chance[data] = guessing(data, split)
    return Frame(tuple(records.values()), numbers, chance)


def with_added(form: StudyForm) -> list[Seeds]:
    """The seeds of the file, and those that looks may add to them."""
    return seeds_of(form, count=max(len(seeds_of(form)), LOOKS.seeds[-1]))


def _added(
    known: frozenset[str], asked: Sequence[Trial], grid: Grid, later: Sequence[Seeds]
) -> Iterator[Trial]:
    """The trials of later seeds that the store was told of; seed by seed, and no further than any are left."""
    if not known:
        return
    with suppress(DisbudError):  # where data are not at hand, nothing is known of their trials
        left = known - {identity_of(trial) for trial in asked}
        for seed in later:
            for trial in Grid(grid.variants, (), ()).trials([seed]):
                # Of data that were never drawn no trial was noted.
                if left and knows_fingerprint(trial.data, trial.seeds.split) and identity_of(trial) in known:
                    left -= {identity_of(trial)}
                    yield trial


def _in_order(grid: Grid, drawn: Sequence[Seeds], wanted: Container[Trial]) -> list[Trial]:
    """The trials wanted, seed by seed, and last what margins need."""
    return [trial for trial in grid.trials(drawn) if trial in wanted]
