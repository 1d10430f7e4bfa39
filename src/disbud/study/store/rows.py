"""Between records and rows: what stands in which column, and the checksum by which a row knows that it is whole."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

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
_Row = sqlite3.Row


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
            "the disk or another program changed it. Forget the trial and run it again"
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
    trial = object.__new__(Trial)
    for name in ("model", "data", "recipe", "method", "sparsity", "intervention"):
        object.__setattr__(trial, name, row[name])
    drawn = {name: cast("int", row[name]) for name in ("split", "init", "mask", "order")}
    object.__setattr__(trial, "seeds", Seeds(**drawn))
    return trial


def table_of(row: _Row) -> Mapping[str, Json]:
    """The table of a measure's row, once its checksum is compared."""
    if row["checksum"] != checksum({name: row[name] for name in MEASURE_COLUMNS}):
        raise DisbudError(
            f"the measure {row['name']} of trial {str(row['trial'])[:16]} is not what was written: the disk or another "
            "program changed it. Forget the trial and run it again"
        )
    return cast("Mapping[str, Json]", json.loads(str(row["content"])))


def insert(connection: sqlite3.Connection, table: str, values: Mapping[str, object]) -> None:
    """Put a row into a table, in the place of one with the same key."""
    names = ", ".join(f'"{name}"' for name in values)
    marks = ", ".join("?" * len(values))
    connection.execute(f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})", tuple(values.values()))


def listed(values: Iterable[str]) -> str:
    """Strings as one parameter, for `IN (SELECT value FROM json_each(?))`."""
    return json.dumps(list(values))
