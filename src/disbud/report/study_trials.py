"""Every trial of a study in one table, with its settings, its error where it failed, and what runs it again."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from disbud.artifacts import canonical
from disbud.errors import DisbudError
from disbud.report.listing import Column, Listing, Row
from disbud.report.page import Section
from disbud.report.study_numbers import Overview, for_margins, keeps_weights
from disbud.report.words import percent, sentence

if TYPE_CHECKING:
    from disbud.report.markup import Html
    from disbud.study.record import Record
    from disbud.study.trial import Seeds, Trial

_LONGEST = 6000  # characters of a traceback; its end tells most


def trials(known: Overview, tickets: Mapping[str, str]) -> Section:
    """The table; columns in which all trials agree are left to the details."""
    records = known.records
    varying = {
        name: column
        for name, column in {
            "model": [r.trial.model for r in records],
            "data": [r.trial.data for r in records],
            "recipe": [r.trial.recipe for r in records],
        }.items()
        if len(set(column)) > 1
    }
    columns = [
        Column("method"), Column("sparsity", "share"), Column("intervention"), Column("seed"),
        *map(Column, varying), Column("outcome"), Column("accuracy", "share", 2), Column("loss", "number", 4),
        Column("seconds", "number", 1),
    ]  # fmt: skip
    rows = [
        Row(
            (
                r.trial.method, r.trial.sparsity, r.trial.intervention or "none", _seeds(r.trial.seeds),
                *(column[i] for column in varying.values()), _outcome(r), _finite(r.accuracy), _finite(r.loss),
                round(r.seconds, 2) or None,
            ),
            _details(r),
            tickets.get(r.identity),
            "bad" if r.failed else "",
        )
        for i, r in enumerate(records)
    ]  # fmt: skip
    lead = sentence(
        "A head sorts by its column. Numbers can be filtered as in > 90, <= 1.5 or 90 .. 95, in the unit that the "
        "column shows; + opens a row: every setting as it was resolved, why a trial failed, and what runs it again.",
        " A method with a link leads to the page of its ticket." if tickets else "",
    )
    return Section("Every trial", [lead, *_only_here(known)], [Listing(columns, rows, "trial")])


def _only_here(known: Overview) -> list[Html]:
    """Which trials of the table are in no chart, and why."""
    margins = sorted({_seeds(r.trial.seeds) for r in known.records if for_margins(r)})
    said = []
    if margins:
        of = f"{'seeds' if len(margins) > 1 else 'seed'} {' and '.join(margins)}"
        said.append(f"Trials of {of} only fix margins: they are in no chart and in no mean.")
    if not all(map(keeps_weights, known.records)):
        said.append(f"Trials at {percent(1.0)} sparsity keep no weight: they are in no chart.")
    return [sentence(" ".join(said))] if said else []


def check_links(tickets: Mapping[str, str]) -> None:
    """Raise for a link that leads elsewhere than to a file beside the page."""
    for link in tickets.values():
        # As browsers read it: they pass over control characters and white space.
        bare = re.sub(r"[\x00-\x20\x7f-\x9f\s]", "", link)
        if re.match(r"[a-z][a-z0-9+.-]*:|[/\\]", bare, re.IGNORECASE):
            raise DisbudError(
                f"tickets: {link!r} is no relative link; give the page's place beside this one, as in "
                "'tickets/ab12.html'"
            )


def again(trial: Trial) -> str:
    """A command that runs this trial alone and prints its accuracy and cross-entropy.

    >>> from disbud.study import Trial
    >>> print(again(Trial("lenet-300-100", "digits", "digits:epochs=2")))  # doctest: +ELLIPSIS
    python -c 'import torch; from disbud.study import Seeds, Trial, run; torch.set_num_threads(1); ...
    """
    # JSON's double quotes, since single ones are the shell's.
    settings = ", ".join(
        f"{field.name}={json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)}"
        for field in dataclasses.fields(trial)
        if (value := getattr(trial, field.name)) is not None
    )
    code = (
        "import torch; from disbud.study import Seeds, Trial, run; torch.set_num_threads(1); "
        f"outcome = run(Trial({settings})); print(outcome.accuracy, outcome.loss)"
    )
    return f"python -c {shlex.quote(code)}"


def _details(record: Record) -> dict[str, str]:
    found = {"Trial": str(record.trial)}
    if record.error is not None:
        found["Error"] = record.error
    if record.traceback:
        long = len(record.traceback) > _LONGEST
        found["Traceback"] = ("...\n" if long else "") + record.traceback[-_LONGEST:]
    if record.diverged is not None:
        found["Diverged"] = record.diverged
    for part, value in record.trial.described().items():
        if value is not None:
            found[f"Resolved {part}"] = str(value) if isinstance(value, int | float) else canonical(value)
    if record.ticket is not None:
        found["Ticket"] = f"SHA-256 {record.ticket}"
    found["Identity"] = record.identity
    if record.attempts > 1:
        found["Attempts"] = str(record.attempts)
    if record.finished:
        found["Finished"] = record.finished
    found["Again"] = again(record.trial)
    return found


def _outcome(record: Record) -> str:
    if record.failed:
        return "failed"
    return "diverged" if record.diverged is not None else "done" if record.accuracy is not None else "not run"


def _seeds(seeds: Seeds) -> str:
    """One number where all are the same, else all four."""
    found = [seeds.split, seeds.init, seeds.mask, seeds.order]
    return str(found[0]) if len(set(found)) == 1 else "/".join(map(str, found))


def _finite(value: float | None) -> float | None:
    """To six digits; None where it is infinite."""
    if value is None or value in (float("inf"), float("-inf")) or value != value:
        return None
    return float(f"{value:.6g}")
