"""Reading a store: records whole and checked, and what is asked of all rows, which a damaged one does not stop."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import cast

from disbud.errors import DisbudError
from disbud.origin import Json
from disbud.study.record import Record
from disbud.study.store.rows import BRIEF_COLUMNS, EPOCH_COLUMNS, brief_of, check_measure, listed, record_of
from disbud.study.trial_measures import TRIAL_MEASURES

Query = Callable[..., list[sqlite3.Row]]
_SHOWN = 3  # identities that a message lists
_Tables = dict[str, dict[str, Mapping[str, Json]]]
_Errors = dict[str, dict[str, str]]


def records(query: Query, identities: Iterable[str] | None) -> list[Record]:
    """The records of these identities, or of all, from the first finished to the last."""
    some = None if identities is None else listed(identities)
    only = "" if some is None else "WHERE {} IN (SELECT value FROM json_each(?))"
    given = () if some is None else (some,)
    epochs: dict[str, list[tuple[object, ...]]] = defaultdict(list)
    columns = ", ".join(EPOCH_COLUMNS)
    for line in query(
        f"SELECT trial, {columns} FROM epoch {only.format('trial')} ORDER BY trial, epoch", *given
    ):
        epochs[line["trial"]].append(tuple(line)[1:])
    taken = query(f"SELECT * FROM measure {only.format('trial')} ORDER BY trial, name, revision", *given)
    tables, errors = _measures(taken)
    documents = {row["id"]: row["document"] for row in query("SELECT * FROM environment")}
    rows = query(f"SELECT * FROM trial {only.format('identity')} ORDER BY finished, identity", *given)
    return [
        replace(
            record_of(row, epochs[row["identity"]], environment=documents.get(row["environment"], "")),
            measures=tables[row["identity"]],
            measure_errors=errors[row["identity"]],
        )
        for row in rows
    ]


def _measures(taken: Iterable[sqlite3.Row]) -> tuple[_Tables, _Errors]:
    """What each trial's measures found, and why others found nothing; the latest revision alone counts."""
    latest = {(row["trial"], row["name"]): row for row in taken}
    tables: _Tables = defaultdict(dict)
    errors: _Errors = defaultdict(dict)
    for (trial, name), row in latest.items():
        check_measure(row)
        known = TRIAL_MEASURES.get(name)
        if known is not None and row["revision"] < known.revision:
            errors[trial][name] = (
                f"it was taken by revision {row['revision']} of {name}, which is at {known.revision} now; run the "
                "study again to take it anew"
            )
        elif row["error"] is not None:
            errors[trial][name] = row["error"]
        else:
            tables[trial][name] = cast("Mapping[str, Json]", json.loads(row["content"]))
    return tables, errors


def in_brief(query: Query, *, only: str = "") -> list[Record]:
    """Every trial, or those that a condition holds for, as `brief_of` has them."""
    columns = ", ".join(f'"{name}"' for name in BRIEF_COLUMNS)
    return [brief_of(row) for row in query(f"SELECT {columns} FROM trial {only} ORDER BY finished, identity")]


def identity(query: Query, begins: str) -> str:
    """The one identity that begins so."""
    rows = query("SELECT identity FROM trial WHERE substr(identity, 1, ?) = ?", len(begins), begins)
    found = [row["identity"] for row in rows]
    if len(found) == 1 and begins:
        return str(found[0])
    if not found:
        raise DisbudError(
            f"no trial of the store has an identity that begins with {begins!r}; reports and errors name identities"
        )
    some = ", ".join(each[: len(begins) + 8] for each in found[:_SHOWN])
    raise DisbudError(f"{len(found)} identities begin with {begins!r}: {some}, ...; give more of it")
