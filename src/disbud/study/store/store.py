"""The store of trials: what was run is read from it and never run again; written by one driver, read by anyone."""

from __future__ import annotations

import json
import os
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

from disbud.artifacts import canonical
from disbud.errors import DisbudError
from disbud.measures import Table
from disbud.origin import Json
from disbud.study.engines import Failure
from disbud.study.environments import environment as environment_here
from disbud.study.identity import identity_of
from disbud.study.record import Record
from disbud.study.running import Outcome
from disbud.study.store import reading
from disbud.study.store import weights as stored_weights
from disbud.study.store.folder import driver_lock, explained, store_folder
from disbud.study.store.objects import Objects, settled
from disbud.study.store.rows import (
    COLUMNS,
    EPOCH_COLUMNS,
    checksum,
    environment_id,
    epoch_values,
    insert,
    listed,
    trial_values,
)  # fmt: skip
from disbud.study.store.schema import open_to_read, open_to_write
from disbud.study.trial import Trial
from disbud.ticket import Ticket
from disbud.ticket_file import encoded

if TYPE_CHECKING:
    from types import TracebackType

    from torch import Tensor


@dataclass(frozen=True)
class KeptStudy:
    """A study that a store was told of: its specification as text, the identities of its trials, and when.

    >>> from disbud.study import KeptStudy
    >>> KeptStudy("mine", "name = 'mine'", frozenset({"6e1f"}), "2026-01-01").name
    'mine'
    """

    name: str
    text: str
    trials: frozenset[str]
    noted: str


@dataclass(frozen=True)
class Freed:
    """What collecting garbage removed.

    >>> from disbud.study import Freed
    >>> Freed(files=2, bytes=1024).files
    2
    """

    files: int
    bytes: int


class Store:
    """A folder with a database of trials and, beside it, their tickets and weights.

    Opened with `write`, it is this process's alone to write to while the context lasts; reading needs no waiting, and
    where nothing was stored yet there is nothing to read. What a method here has written is on the disk when it
    returns.

    >>> import tempfile
    >>> from disbud.study import Store, Trial, environment, run
    >>> trial = Trial("lenet-300-100", "digits", "digits:epochs=1", "magnitude", 0.9)
    >>> with tempfile.TemporaryDirectory() as folder, Store.open(folder, write=True) as store:
    ...     added = store.add(trial, run(trial))
    ...     store.records([trial])[trial] == added, round(store.ticket(added).sparsity, 3)
    (True, 0.9)
    """

    def __init__(self, folder: Path, *, write: bool) -> None:
        self.folder = folder
        self._writes = write
        self._objects = Objects(folder)
        self._open = ExitStack()
        self._database: sqlite3.Connection | None = None

    @classmethod
    def open(cls, folder: str | os.PathLike[str] | None = None, *, write: bool = False) -> Store:
        """The store of that folder (else $DISBUD_STORE, else ~/.local/share/disbud/store), as a context."""
        return cls(store_folder(folder), write=write)

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            if self._writes:
                opening.enter_context(driver_lock(self.folder))
            database = open_to_write(self.folder) if self._writes else open_to_read(self.folder)
            opening.callback(database.close)
            database.row_factory = sqlite3.Row
            # Text that is none stops no other row: what must be whole has a checksum.
            database.text_factory = lambda text: text.decode("utf-8", "replace")
            self._database, self._open = database, opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database = None
        self._open.close()

    # Reading

    def records(self, trials: Iterable[Trial] | Mapping[Trial, str] | None = None) -> dict[Trial, Record]:
        """What is known of these trials, those unknown left out; of all, where none are named.

        A mapping gives the identities that they had when they were run, whatever has changed since.
        """
        if trials is None:
            return {record.trial: record for record in self.all()}
        asked = trials if isinstance(trials, Mapping) else {trial: identity_of(trial) for trial in trials}
        found = {record.identity: record for record in self._read(asked.values())}
        return {
            trial: replace(found[identity], trial=trial)
            for trial, identity in asked.items()
            if identity in found
        }

    def all(self) -> list[Record]:
        """Every record, from the first finished to the last."""
        return self._read(None)

    def ticket(self, record: Record) -> Ticket | None:
        """The ticket of a trial, with the weights it starts from, if it has any."""
        if record.ticket is None:
            return None
        what = f"the ticket of {record.trial}"
        self._objects.get(record.ticket, what)
        ticket = Ticket.load(self._objects.path(record.ticket))
        if ticket.start is None:
            return ticket
        content = self._objects.get(ticket.start.sha256, f"the weights that {what} starts from")
        return replace(ticket, start=replace(ticket.start, content=content))

    def weights(self, record: Record) -> dict[str, Tensor] | None:
        """The state dict after training; none where the trial failed or diverged."""
        if record.weights is None:
            return None
        content = self._objects.get(record.weights, f"the weights of {record.trial}")
        return stored_weights.decoded(content, self.ticket(record))

    def outcome(self, record: Record) -> Outcome:
        """What came of a trial that did not fail, as `run` gave it, but for the weights."""
        if record.accuracy is None:
            raise DisbudError(f"{record.trial} failed: {record.error}")
        return Outcome(
            record.accuracy, float("nan") if record.loss is None else record.loss, record.curve, self.ticket(record),
            record.diverged, record.seconds, record.memory,
        )  # fmt: skip

    def measured(self, records: Iterable[Record]) -> dict[tuple[str, str, int], str | None]:
        """The measures that were taken: by trial, name and revision, None or the error."""
        found = self._query(
            "SELECT trial, name, revision, error FROM measure WHERE trial IN (SELECT value FROM json_each(?))",
            listed(record.identity for record in records),
        )
        return {(row["trial"], row["name"], row["revision"]): row["error"] for row in found}

    def studies(self) -> dict[str, KeptStudy]:
        """The studies it was told of, by name."""
        trials: dict[str, set[str]] = defaultdict(set)
        for row in self._query("SELECT study, trial FROM study_trial"):
            trials[row["study"]].add(row["trial"])
        return {
            row["name"]: KeptStudy(row["name"], row["content"], frozenset(trials[row["name"]]), row["noted"])
            for row in self._query("SELECT * FROM study ORDER BY name")
        }

    def in_brief(self) -> list[Record]:
        """Every trial, when it was over, whether it failed, what it took; no numbers. A damaged row stops nothing."""
        return reading.in_brief(self._query)

    def unwanted(self) -> list[Record]:
        """The trials that are of no study, in brief."""
        return reading.in_brief(self._query, only="WHERE identity NOT IN (SELECT trial FROM study_trial)")

    def identity(self, begins: str) -> str:
        """The identity of the trial whose identity begins so, as an error or a report names it, to `forget` it by."""
        return reading.identity(self._query, begins)

    def _read(self, identities: Iterable[str] | None) -> list[Record]:
        with self._snapshot():
            return reading.records(self._query, identities)

    # Writing

    def check_writes(self) -> None:
        """Raise where the store was opened to be read."""
        if not self._writes:
            raise DisbudError("the store was opened to be read; open it with Store.open(folder, write=True)")

    def add(
        self,
        trial: Trial,
        result: Outcome | Failure,
        *,
        identity: str | None = None,
        environment: Mapping[str, Json] | None = None,
        attempts: int = 1,
    ) -> Record:
        """Keep what came of a trial, in the place of what was known of it.

        `identity` is the one it had when it was run; without it, it is taken to be run just now. The environment is
        that which ran it: this one unless said, and none of a failure, which has no numbers that depend on it.
        """
        if environment is None:
            environment = {} if isinstance(result, Failure) else environment_here()
        record = Record(
            trial, identity or identity_of(trial), environment=dict(environment), attempts=attempts, finished=_now(),
        )  # fmt: skip
        start = None
        if isinstance(result, Failure):
            record = replace(record, error=result.error, traceback=result.traceback)
        else:
            record, start = self._with_outcome(record, result)
        document = canonical(record.environment)
        known = environment_id(document)
        values = trial_values(record, described=canonical(trial.described()), start=start, environment=known)
        epochs = epoch_values(record)
        values = {name: values[name] for name in COLUMNS}
        with self._commit() as database:
            insert(database, "environment", {"id": known, "document": document})
            insert(database, "trial", {**values, "checksum": checksum(values, epochs)})
            for line in epochs:
                insert(
                    database,
                    "epoch",
                    {"trial": record.identity, **dict(zip(EPOCH_COLUMNS, line, strict=True))},
                )
        return record

    def _with_outcome(self, record: Record, outcome: Outcome) -> tuple[Record, str | None]:
        """The record with the outcome's numbers, its files being on the disk; and the hash of the start's weights."""
        ticket, start = outcome.ticket, None
        if ticket is not None and ticket.start is not None:
            given = ticket.start
            start = self._put(given.content or Path(given.folder, given.file).read_bytes())
        kept = None if ticket is None else self._put(settled(encoded(ticket)))
        weights = (
            None if outcome.weights is None else self._put(stored_weights.encoded(outcome.weights, ticket))
        )
        return replace(
            record, accuracy=outcome.accuracy, loss=outcome.loss, curve=outcome.curve, diverged=outcome.diverged,
            ticket=kept, weights=weights, seconds=outcome.seconds, memory=outcome.memory,
        ), start  # fmt: skip

    def add_measure(self, record: Record, name: str, *, revision: int, result: Table | Failure) -> None:
        """Keep what a measure found in a trial that is in the store, or why it found nothing."""
        values: dict[str, object] = {
            "trial": record.identity,
            "name": name,
            "revision": revision,
            "content": None if isinstance(result, Failure) else json.dumps(result.to_json()),
            "error": result.error if isinstance(result, Failure) else None,
            "traceback": result.traceback if isinstance(result, Failure) else None,
            "finished": _now(),
        }
        with self._commit() as database:
            insert(database, "measure", {**values, "checksum": checksum(values)})

    def note_study(self, name: str, text: str, trials: Iterable[Trial]) -> None:
        """Keep what a study asks for, so that its trials count as wanted; more trials of the same text add to it."""
        identities = [identity_of(trial) for trial in trials]
        with self._commit() as database:
            found = database.execute("SELECT content FROM study WHERE name = ?", (name,)).fetchone()
            if found is None or found["content"] != text:
                insert(database, "study", {"name": name, "content": text, "noted": _now()})
            for identity in identities:
                insert(database, "study_trial", {"study": name, "trial": identity})

    def forget_study(self, name: str) -> None:
        """No longer count a study's trials as wanted by it."""
        with self._commit() as database:
            database.execute("DELETE FROM study WHERE name = ?", (name,))

    def forget(self, trials: Iterable[Record | str]) -> None:
        """Remove trials, by record or identity, with their measures, also damaged ones; `gc` then frees their files."""
        with self._commit() as database:
            database.execute(
                "DELETE FROM trial WHERE identity IN (SELECT value FROM json_each(?))",
                (listed(each if isinstance(each, str) else each.identity for each in trials),),
            )

    def gc(self) -> Freed:
        """Remove the files that no record names, and what a crash left half written."""
        with self._commit() as database:
            rows = database.execute("SELECT ticket, weights, start FROM trial").fetchall()
        wanted = {sha256 for row in rows for sha256 in tuple(row) if sha256 is not None}
        return Freed(*self._objects.remove_all_but(wanted))

    # The database

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._database is None:
            raise DisbudError("a store is used within its context: with Store.open(...) as store: ...")
        return self._database

    def _query(self, question: str, *given: object) -> list[sqlite3.Row]:
        with explained(self.folder):
            return self._connection.execute(question, given).fetchall()

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Let several questions be answered as of one moment, whatever a driver writes meanwhile."""
        with explained(self.folder):
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("COMMIT")

    def _put(self, content: bytes) -> str:
        self.check_writes()
        return self._objects.put(content)

    @contextmanager
    def _commit(self) -> Iterator[sqlite3.Connection]:
        """All that is done with the connection, or nothing; on the disk at the end."""
        self.check_writes()
        connection = self._connection
        with explained(self.folder):
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
