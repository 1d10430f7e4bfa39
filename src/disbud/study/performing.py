"""Doing trials: what the store has is not run; the rest goes through an engine, each result kept as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from disbud.errors import DisbudError
from disbud.origin import Json
from disbud.study.datasets import fingerprint, forget_data, knows_fingerprint
from disbud.study.engines import Engine, Failure, Running
from disbud.study.environments import environment, training_device
from disbud.study.expecting import Expectations, longest_first
from disbud.study.identity import Pinned
from disbud.study.measuring import ToMeasure, take
from disbud.study.record import Record
from disbud.study.running import Outcome, run
from disbud.study.store import Store
from disbud.study.trial import Trial
from disbud.study.trial_measures import TrialMeasure, trial_measure


@dataclass(frozen=True)
class Progress:
    """How far the doing is: of `total` trials (or, then, measures) so many are done and so many failed.

    `running` are those under way with the seconds since they began; `left` the seconds that the rest will probably
    take; `latest` the record that was just put into the store, if this tells of one.

    >>> from disbud.study import Progress
    >>> Progress("trials", done=3, failed=1, total=8).fraction
    0.5
    """

    what: str
    done: int
    failed: int
    total: int
    running: tuple[tuple[Trial, float], ...] = ()
    left: float | None = None
    latest: Record | None = None

    @property
    def fraction(self) -> float:
        """The part that is over, well or badly."""
        return (self.done + self.failed) / self.total if self.total else 1.0


Tell = Callable[[Progress], object]


def perform(
    trials: Iterable[Trial],
    *,
    store: Store,
    engine: Engine,
    measures: Sequence[str | TrialMeasure] = (),
    retry_failed: bool = False,
    tell: Tell | None = None,
) -> dict[Trial, Record]:
    """Run the trials that the store does not have, then take the measures that it does not have; all their records.

    Each result is on the disk before the next is looked at: what is stopped, however, goes on where it was. A trial or
    measure that fails is kept with its traceback and the rest goes on; `retry_failed` runs it again.

    >>> import tempfile
    >>> from disbud.study import InProcess, Store, Trial, perform
    >>> trials = [Trial("lenet-300-100", "digits", "digits:epochs=1", method, 0.9) for method in ("magnitude", "snip")]
    >>> with tempfile.TemporaryDirectory() as folder, Store.open(folder, write=True) as store, InProcess() as engine:
    ...     records = perform(trials, store=store, engine=engine, measures=["cost"])
    >>> [(record.failed, list(record.measures)) for record in records.values()]
    [(False, ['cost']), (False, ['cost'])]
    """
    wanted = list(dict.fromkeys(trials))
    chosen = [trial_measure(each) if isinstance(each, str) else each for each in measures]
    store.check_writes()
    forget_data()
    _know_data(wanted, engine)
    pinned = [Pinned.of(trial) for trial in wanted]
    different = list({each.identity: each for each in pinned}.values())
    _run_missing(different, store, engine, retry_failed=retry_failed, tell=tell)
    _measure_missing(different, chosen, store, engine, retry_failed=retry_failed, tell=tell)
    return store.records(_identities(pinned))


def expected_seconds(trials: Sequence[Trial], store: Store) -> float | None:
    """The seconds that these trials will probably take on one worker; None where the store has none to go by.

    >>> from disbud.study import Store, Trial, expected_seconds
    >>> with Store.open("nowhere") as store:
    ...     print(expected_seconds([Trial("lenet-300-100", "digits", "digits")], store))
    None
    """
    return Expectations(store.in_brief()).seconds(trials)


def _know_data(trials: Sequence[Trial], engine: Engine) -> None:
    """Have the fingerprint of every data set; one that cannot be had is an error before anything runs."""
    needed = dict.fromkeys((trial.data, trial.seeds.split) for trial in trials)
    for pair, found, _ in engine.run(
        data_fingerprint, [pair for pair in needed if not knows_fingerprint(*pair)]
    ):
        if isinstance(found, Failure):
            raise DisbudError(f"the data set {pair[0]!r} of the trials cannot be had: {found.error}")
    for data, split in needed:
        fingerprint(data, split)


def data_fingerprint(data_and_split: tuple[str, int]) -> str:
    """The fingerprint of a data set, which whoever asks next finds in the cache."""
    return fingerprint(*data_and_split)


def run_here(pinned: Pinned) -> tuple[Outcome, dict[str, Json]]:
    """What came of a trial, and the environment of the process that ran it."""
    pinned.check()
    return run(pinned.trial), environment(training_device())


def _identities(pinned: Iterable[Pinned]) -> dict[Trial, str]:
    return {each.trial: each.identity for each in pinned}


def _run_missing(
    wanted: Sequence[Pinned], store: Store, engine: Engine, *, retry_failed: bool, tell: Tell | None
) -> None:
    known = store.records(_identities(wanted))
    missing = {
        each.trial: each
        for each in wanted
        if each.trial not in known or (retry_failed and known[each.trial].failed)
    }
    if not missing:
        return
    expectations = Expectations(store.in_brief())
    failed = sum(record.failed for trial, record in known.items() if trial not in missing)
    done = len(wanted) - len(missing) - failed
    counted = _Counted("trials", expectations, done=done, failed=failed, total=len(wanted), tell=tell)
    ordered = longest_first(list(missing), expectations)
    counted.waiting = dict.fromkeys(ordered)
    for each, result, attempts in engine.run(
        run_here,
        [missing[trial] for trial in ordered],
        expect=lambda pinned: expectations.of(pinned.trial),
        watch=lambda running: counted.watch(_trials_of(running)),
    ):
        outcome, where = (result, None) if isinstance(result, Failure) else result
        record = store.add(each.trial, outcome, identity=each.identity, environment=where, attempts=attempts)
        counted.over(each.trial, record, failed=record.failed)


def _measure_missing(
    wanted: Sequence[Pinned],
    measures: Sequence[TrialMeasure],
    store: Store,
    engine: Engine,
    *,
    retry_failed: bool,
    tell: Tell | None,
) -> None:
    records = store.records(_identities(wanted))
    done = {trial: record for trial, record in records.items() if not record.failed}
    taken = store.measured(done.values())
    every = [
        (each, done[each.trial], measure) for each in wanted if each.trial in done for measure in measures
    ]

    def is_missing(record: Record, measure: TrialMeasure) -> bool:
        key = (record.identity, measure.name, measure.revision)
        return key not in taken or (retry_failed and taken[key] is not None)

    missing = [each for each in every if is_missing(*each[1:])]
    if not missing:
        return
    over = len(every) - len(missing)
    counted = _Counted("measures", None, done=over, failed=0, total=len(every), tell=tell)
    # Tickets and weights are read when a worker is free for them: all at once may be more than fits into memory.
    work = (
        ToMeasure(measure, each, store.ticket(record), store.weights(record))
        for each, record, measure in missing
    )
    for item, result, _ in engine.run(take, work, watch=lambda running: counted.watch(_trials_of(running))):
        record = done[item.trial]
        store.add_measure(record, item.measure.name, revision=item.measure.revision, result=result)
        counted.over(item.trial, record, failed=isinstance(result, Failure))


def _trials_of(running: Sequence[Running[Pinned]] | Sequence[Running[ToMeasure]]) -> list[Running[Trial]]:
    return [Running(item.trial, seconds) for item, seconds in running]


class _Counted:
    """Counts what is over, and tells."""

    def __init__(
        self,
        what: str,
        expectations: Expectations | None,
        *,
        done: int,
        failed: int,
        total: int,
        tell: Tell | None,
    ) -> None:
        self._so_far = Progress(what, done, failed, total)
        self._expectations, self._tell = expectations, tell
        self.waiting: dict[Trial, None] = {}  # not over yet

    def watch(self, running: Sequence[Running[Trial]]) -> None:
        """Tell what is under way."""
        if self._tell is None:
            return
        left = None if self._expectations is None else self._expectations.seconds(list(self.waiting))
        if left is not None:
            workers, spent = max(1, len(running)), sum(seconds for _, seconds in running)
            left = max(0.0, left - spent) / workers
        self._so_far = replace(
            self._so_far,
            running=tuple((trial, seconds) for trial, seconds in running),
            left=left,
            latest=None,
        )
        self._tell(self._so_far)

    def over(self, trial: Trial, record: Record, *, failed: bool) -> None:
        """Tell that one more is in the store."""
        self.waiting.pop(trial, None)
        if self._expectations is not None:
            self._expectations.learn(record)
        so_far = self._so_far
        self._so_far = replace(
            so_far,
            done=so_far.done + (not failed),
            failed=so_far.failed + failed,
            running=tuple(each for each in so_far.running if each[0] != trial),
            latest=record,
        )
        if self._tell is not None:
            self._tell(self._so_far)
