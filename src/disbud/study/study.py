"""A study: a grid of trials and the claims to be decided on it, from a file or from Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from disbud.errors import DisbudError
from disbud.study.deciding import check
from disbud.study.engines import Engine, Pool
from disbud.study.findings import Findings
from disbud.study.frame import Frame
from disbud.study.performing import Progress, expected_seconds, perform
from disbud.study.plan import More, Plan, framed, no_more, with_added
from disbud.study.record import Record
from disbud.study.specification import StudyForm, as_toml, grid_of, read_study, seeds_of, study_of
from disbud.study.specification.grid import CALIBRATION, Grid
from disbud.study.store import Store
from disbud.study.trial import Trial
from disbud.study.trial_measures import trial_measure

Folder = str | os.PathLike[str]


@dataclass(frozen=True)
class Outlook:
    """What running a study would come to: its trials, those already done, those that failed, those that are to be run.

    `seconds` is what these may take one worker; None where nothing of the kind was ever run. `measures` are to be taken
    when all is run. `left_out` are combinations that would only repeat another, with the reason; `not_at_hand` the data
    sets that cannot be read, so that none of their trials counts as done.

    >>> from disbud.study import Study
    >>> study = Study(name="mine", data="digits", model="lenet-300-100", methods="dense", controls=False)
    >>> outlook = study.outlook("nowhere")
    >>> outlook.trials, outlook.done, len(outlook.to_run)
    (5, 0, 5)
    """

    trials: int
    done: int
    failed: int
    to_run: tuple[Trial, ...]
    seconds: float | None
    measures: int = 0
    left_out: tuple[tuple[Trial, str], ...] = ()
    not_at_hand: Mapping[str, str] = field(default_factory=dict)


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
        self._prepare(study_of(keys), command="disbud.Study(...).run()")

    @classmethod
    def load(cls, path: Folder) -> Study:
        """The study of a TOML file."""
        form, text = read_study(path)
        study = cls.__new__(cls)
        study._prepare(form, text=text, command=f"disbud study run {os.fspath(path)}")
        return study

    @classmethod
    def of(cls, values: Mapping[str, object], *, command: str) -> Study:
        """The study of plain values as they stand in a file, with what runs it again."""
        study = cls.__new__(cls)
        study._prepare(study_of(values), command=command)
        return study

    def _prepare(self, form: StudyForm, *, command: str, text: str | None = None) -> None:
        self.form, self.command = form, command
        self.text = as_toml(form) if text is None else text
        self.measures = [form.measures] if isinstance(form.measures, str) else list(form.measures)
        for name in self.measures:
            trial_measure(name)
        seeds_of(form)
        check(form, self.grid.variants)

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

    def plan(self, store: Store, *, until_decided: bool = False) -> Plan:
        """What it comes to, with the seeds that were added to it as far as the store was told."""
        before = store.studies().get(self.name)
        return Plan.of(self.form, self.grid, before=before, until_decided=until_decided)

    def outlook(
        self, store: Folder | None = None, *, until_decided: bool = False, retry_failed: bool = False
    ) -> Outlook:
        """What running it would come to, from what the store knows; of looks, those that were begun."""
        with Store.open(store) as kept:
            plan = self.plan(kept, until_decided=until_decided)
            known = plan.known(kept)
            over = {trial for trial, record in known.items() if not (record.failed and retry_failed)}
            to_run = tuple(trial for trial in plan.trials if trial not in over)
            seconds, taken = expected_seconds(to_run, kept), kept.measured(known.values())
        done = [record for record in known.values() if not record.failed]
        measures = [trial_measure(name) for name in self.measures]
        missing = sum((record.identity, m.name, m.revision) not in taken for record in done for m in measures)
        return Outlook(
            trials=len(plan.trials), done=len(done), failed=len(known) - len(done), to_run=to_run, seconds=seconds,
            measures=missing + len(to_run) * len(measures), left_out=self.grid.left_out,
            not_at_hand=plan.not_at_hand,
        )  # fmt: skip

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
        verdicts then go by the sequential design, also when it is run or reported again. What was interrupted goes on
        where it stopped.
        """
        if until_decided and not self.form.claim:
            raise DisbudError(f"{self.name} makes no claim that could be decided; leave until_decided out")
        with Store.open(store, write=True) as kept, engine or Pool() as workers:
            plan = self.plan(kept, until_decided=until_decided)

            def performed(trials: Sequence[Trial]) -> dict[Trial, Record]:
                kept.note_study(self.name, plan.told, trials)
                return perform(
                    trials,
                    store=kept,
                    engine=workers,
                    measures=self.measures,
                    retry_failed=retry_failed,
                    tell=tell,
                )

            return self._decided(plan, performed(plan.trials), performed if until_decided else no_more)

    def findings(self, store: Folder | None = None) -> Findings:
        """What the store holds of the study already, and the claims decided on that."""
        with Store.open(store) as kept:
            plan = self.plan(kept)
            records = kept.records(plan.trials)
        return self._decided(plan, records, no_more)

    def frame(self, records: dict[Trial, Record]) -> Frame:
        """The records by variant and by the number of the seed, those of added seeds too."""
        drawn = seeds_of(self.form)
        if not {trial.seeds for trial in records} <= {*drawn, *CALIBRATION}:
            drawn = with_added(self.form)
        return framed(records, drawn)

    def _decided(self, plan: Plan, records: Mapping[Trial, Record], more: More) -> Findings:
        records, decisions = plan.decided(records, more)
        return Findings(
            title=self.form.title or self.name,
            says=self.form.says,
            records=tuple(records.values()),
            decisions=decisions,
            specification=self.form.model_dump(mode="json", by_alias=True, exclude_none=True),
            text=self.text,
            command=_again(self.command, in_looks=plan.looks is not None),
        )


def _again(command: str, *, in_looks: bool) -> str:
    """What runs a study again as it was run."""
    if not in_looks:
        return command
    if command.endswith(".run()"):
        return command.removesuffix(")") + "until_decided=True)"
    return f"{command} --until-decided"
