"""Between records and rows: what stands in which column, and the checksum by which a row knows that it is whole."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar, cast

from disbud.errors import DisbudError
from disbud.origin import Json
from disbud.study.record import Record
from disbud.study.trial import Seeds, Trial

COLUMNS = (
    "identity", "model", "data", "recipe", "method", "sparsity", "intervention", "split", "init", "mask", "order",
    "described", "accuracy", "loss", "diverged", "error", "traceback", "ticket", "weights", "start", "seconds",
    "memory", "attempts", "finished", "environment",
)  # fmt: skip
EPOCH_COLUMNS = ("epoch", "train_loss", "test_loss", "test_accuracy")
MEASURE_COLUMNS = ("trial", "name", "revision", "content", "error", "traceback", "finished")
BRIEF_COLUMNS = (
    "identity", "model", "data", "recipe", "method", "sparsity", "intervention", "split", "init", "mask", "order",
    "error", "seconds", "memory", "finished",
)  # fmt: skip
_Row = sqlite3.Row
_Value = TypeVar("_Value")


def trial_values(record: Record, *, described: str, start: str | None, environment: str) -> dict[str, object]:
    """A value for each of COLUMNS."""
    trial, seeds = record.trial, record.trial.seeds
    own = {name: getattr(record, name) for name in COLUMNS if hasattr(record, name)}
    parts = {name: getattr(trial, name) for name in ("model", "data", "recipe", "method", "intervention")}
    drawn = {name: getattr(seeds, name) for name in ("split", "init", "mask", "order")}
    reals = {name: real(own[name]) for name in ("accuracy", "loss", "seconds")} | {
        "sparsity": real(trial.sparsity)
    }
    known = {"described": described, "start": start, "environment": environment}
    return {name: value for name, value in (own | parts | drawn | reals | known).items() if name in COLUMNS}


def epoch_values(record: Record) -> list[tuple[object, ...]]:
    """A value for each of EPOCH_COLUMNS, a line an epoch."""
    return [(line["epoch"], *(real(line[name]) for name in EPOCH_COLUMNS[1:])) for line in record.curve]


def real(value: object) -> float | None:
    """A number as the database gives it back: it holds infinities, and nothing for what is no number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    assert isinstance(value, int | float)
    return float(value)


def checksum(*values: object) -> str:
    """The hash of what a row and its epochs hold."""
    return hashlib.sha256(json.dumps(values, default=repr).encode()).hexdigest()[:16]


def record_of(row: _Row, epochs: Sequence[tuple[object, ...]], *, environment: str) -> Record:
    """The record of a row, once its checksum is compared; `environment` is the document the row refers to."""
    try:
        values = {name: row[name] for name in COLUMNS}
    except IndexError as error:  # a column of the table has another name
        raise DisbudError(
            "the table of trials is not what was written: the disk or another program changed it. Restore the store "
            "from a copy, or move its folder away and run again"
        ) from error
    if row["checksum"] != checksum(values, epochs):
        raise DisbudError(
            f"the row of trial {str(row['identity'])[:16]} ({row['method']}, {row['model']}) is not what was written: "
            f"the disk or another program changed it. {_forget(row['identity'])}"
        )
    given = {
        name: row[name]
        for name in (
            "identity",
            "accuracy",
            "loss",
            "diverged",
            "ticket",
            "weights",
            "error",
            "traceback",
            "seconds",
            "memory",
            "attempts",
            "finished",
        )
    }
    return Record(
        trial=_trial_as_kept(row),
        curve=tuple(dict(zip(EPOCH_COLUMNS, cast("tuple[Json, ...]", line), strict=True)) for line in epochs),
        environment=_environment(environment, str(row["environment"])),
        **given,
    )


def brief_of(row: _Row) -> Record:
    """Which trial a row is of, whether it failed, and what it took: as it stands there, whole or damaged."""
    seconds, memory = row["seconds"], row["memory"]
    return Record(
        _trial_as_kept(row),
        str(row["identity"]),
        error=None if row["error"] is None else str(row["error"]),
        seconds=seconds if isinstance(seconds, float) else 0.0,
        memory=memory if isinstance(memory, int) else 0,
        finished=str(row["finished"]),
    )


def environment_id(document: str) -> str:
    """The hash by which rows refer to an environment."""
    return hashlib.sha256(document.encode()).hexdigest()[:16]


def _environment(document: str, known_as: str) -> dict[str, Json]:
    if environment_id(document) != known_as:
        raise DisbudError(
            f"what the store holds of the environment {known_as} is not what was written: the disk or another program "
            "changed it. Forget the trials of the store and run them again"
        )
    return cast("dict[str, Json]", json.loads(document))


def _trial_as_kept(row: _Row) -> Trial:
    """The trial of a row. It was checked when it was made; a function of one's own need not be at hand to read it."""
    seeds = _unchecked(Seeds, {name: row[name] for name in ("split", "init", "mask", "order")})
    texts = {name: str(row[name]) for name in ("model", "data", "recipe", "method")}
    rest = {name: row[name] for name in ("sparsity", "intervention")}
    return _unchecked(Trial, {**texts, **rest, "seeds": seeds})


def _unchecked(kind: type[_Value], values: Mapping[str, object]) -> _Value:
    made = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


def check_measure(row: _Row) -> None:
    """Raise where a measure's row is not what was written."""
    if row["checksum"] != checksum({name: row[name] for name in MEASURE_COLUMNS}):
        raise DisbudError(
            f"the measure {row['name']} of trial {str(row['trial'])[:16]} is not what was written: the disk or another "
            f"program changed it. {_forget(row['trial'])}"
        )


def _forget(identity: object) -> str:
    return f"Forget the trial (disbud study gc --trial {str(identity)[:16]}) and run it again"


def insert(connection: sqlite3.Connection, table: str, values: Mapping[str, object]) -> None:
    """Put a row into a table, in the place of one with the same key."""
    names = ", ".join(f'"{name}"' for name in values)
    marks = ", ".join("?" * len(values))
    connection.execute(f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})", tuple(values.values()))


def listed(values: Iterable[str]) -> str:
    """Strings as one parameter, for `IN (SELECT value FROM json_each(?))`."""
    return json.dumps(list(values))
