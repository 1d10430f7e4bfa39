"""A study: a grid of trials and the claims to be decided on it, from a file or from Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from disbud.claims import Looks
from disbud.errors import DisbudError
from disbud.study.deciding import check, decide, decide_in_looks
from disbud.study.engines import Engine, Pool
from disbud.study.findings import Decision, Findings
from disbud.study.frame import Frame
from disbud.study.performing import Progress, expected_seconds, perform
from disbud.study.record import Record
from disbud.study.specification import StudyForm, grid_of, read_study, seeds_of, study_of
from disbud.study.specification.grid import CALIBRATION, Grid
from disbud.study.store import Store
from disbud.study.trial import Seeds, Trial
from disbud.study.trial_measures import trial_measure

Folder = str | os.PathLike[str]
_ON_PAPER = "# this study was made from Python\n"


@dataclass(frozen=True)
class Outlook:
    """What running a study would come to: its trials, those already done, those that failed, the seconds it may take.

    `seconds` is the time of one worker; None where nothing of the kind was ever run.

    >>> from disbud.study import Study
    >>> study = Study(name="mine", data="digits", model="lenet-300-100", methods="dense", controls=False)
    >>> study.outlook("nowhere").trials
    5
    """

    trials: int
    done: int
    failed: int
    seconds: float | None
    left_out: tuple[tuple[Trial, str], ...]


class Study:
    """A study file, or its keys: data, model, recipe, methods, sparsities, interventions, seeds, measures, claims.

    >>> import tempfile
    >>> from disbud.study import InProcess, Study
    >>> study = Study(
    ...     name="mine", data="digits", model="lenet-300-100", recipe="digits:epochs=1", methods=["magnitude"],
    ...     sparsities=[0.9], interventions=["none", "shuffle"], seeds=2, controls=False,
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     findings = study.run(store=folder, engine=InProcess())
    >>> len(findings.records)
    4
    """

    def __init__(self, **keys: object) -> None:
        self._prepare(study_of(keys), text=_ON_PAPER, command="disbud.Study(...).run()")

    @classmethod
    def load(cls, path: Folder) -> Study:
        """The study of a TOML file."""
        form, text = read_study(path)
        study = cls.__new__(cls)
        study._prepare(form, text=text, command=f"disbud study run {os.fspath(path)}")
        return study

    @classmethod
    def of(cls, values: Mapping[str, object], *, text: str, command: str) -> Study:
        """The study of plain values as they stand in a file, with the file's text and what runs it again."""
        study = cls.__new__(cls)
        study._prepare(study_of(values), text=text, command=command)
        return study

    def _prepare(self, form: StudyForm, *, text: str, command: str) -> None:
        self.form, self.text, self.command = form, text, command
        self.measures = [form.measures] if isinstance(form.measures, str) else list(form.measures)
        for name in self.measures:
            trial_measure(name)
        seeds_of(form)
        check(form.claim, self.grid.variants, can_judge=form.margin is not None or form.controls)

    @property
    def name(self) -> str:
        """What the study is called; its files are named by it."""
        return self.form.name

    @cached_property
    def grid(self) -> Grid:
        """The variants that the study runs, and what it needs to find margins."""
        return grid_of(self.form)

    def trials(self) -> list[Trial]:
        """Every trial, seed by seed."""
        return self.grid.trials(seeds_of(self.form))

    def outlook(self, store: Folder | None = None) -> Outlook:
        """What running it would come to, from what the store knows."""
        trials = self.trials()
        with Store.open(store) as kept:
            known = kept.records(trials)
            seconds = expected_seconds([trial for trial in trials if trial not in known], kept)
        failed = sum(record.failed for record in known.values())
        return Outlook(len(trials), len(known) - failed, failed, seconds, self.grid.left_out)

    def run(
        self,
        *,
        store: Folder | None = None,
        engine: Engine | None = None,
        until_decided: bool = False,
        retry_failed: bool = False,
        tell: Callable[[Progress], None] | None = None,
    ) -> Findings:
        """Run what is not in the store, and decide the claims.

        `until_decided` adds seeds, at 5, 10, 15, 20 and 30 of them, to those trials only that an undecided claim needs;
        verdicts then go by the sequential design. What was interrupted goes on where it stopped.
        """
        if until_decided and not self.form.claim:
            raise DisbudError(f"{self.name} makes no claim that could be decided; leave until_decided out")
        with Store.open(store, write=True) as kept, engine or Pool() as workers:

            def performed(trials: Sequence[Trial]) -> dict[Trial, Record]:
                kept.note_study(self.name, self.text, trials)
                return perform(
                    trials,
                    store=kept,
                    engine=workers,
                    measures=self.measures,
                    retry_failed=retry_failed,
                    tell=tell,
                )

            if until_decided:
                return self._in_looks(performed)
            records = performed(self.trials())
            return self._findings(records, self._decided(records))

    def findings(self, store: Folder | None = None) -> Findings:
        """What the store holds of the study already, and the claims decided on that."""
        with Store.open(store) as kept:
            records = kept.records(self.trials())
        return self._findings(records, self._decided(records))

    @property
    def numbers(self) -> dict[Seeds, int]:
        """The number of each of the study's seeds, and of those that margins are found on."""
        return _numbers(seeds_of(self.form))

    def frame(self, records: dict[Trial, Record]) -> Frame:
        """The records of the study's seeds, by variant and seed."""
        return Frame(tuple(records.values()), self.numbers)

    def _decided(self, records: dict[Trial, Record]) -> tuple[Decision, ...]:
        return decide(self.form.claim, self.frame(records), self.grid.variants, margin=self.form.margin)

    def _in_looks(self, performed: Callable[[Sequence[Trial]], dict[Trial, Record]]) -> Findings:
        looks = Looks()
        drawn = seeds_of(self.form, count=looks.seeds[-1])
        numbers = _numbers(drawn)
        records = performed(self.grid.trials(drawn[: looks.seeds[0]]))

        def frame_for(variants: Sequence[Trial], seeds: int) -> Frame:
            wanted = Grid(tuple(variants), (), ()).trials(drawn[:seeds])
            missing = [trial for trial in wanted if trial not in records]
            if missing:
                records.update(performed(missing))
            return Frame(tuple(records.values()), numbers)

        decisions = decide_in_looks(
            self.form.claim, frame_for, self.grid.variants, margin=self.form.margin, looks=looks
        )
        return self._findings(records, decisions)

    def _findings(self, records: dict[Trial, Record], decisions: tuple[Decision, ...]) -> Findings:
        return Findings(
            title=self.form.title or self.name,
            says=self.form.says,
            records=tuple(records.values()),
            decisions=decisions,
            specification=self.form.model_dump(mode="json", by_alias=True, exclude_none=True),
            text=self.text,
            command=self.command,
        )


def _numbers(seeds: Sequence[Seeds]) -> dict[Seeds, int]:
    return {seed: number for number, seed in enumerate(seeds)} | {seed: seed.init for seed in CALIBRATION}
