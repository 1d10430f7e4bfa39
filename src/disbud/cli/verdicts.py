"""What a study found, in the terminal: each claim with its verdict, and the cells it rests on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from disbud.cli import show

if TYPE_CHECKING:
    from disbud.study import Cell, Decision, Findings, Record

_STYLES = {"supported": "green", "contradicted": "red", "undecided": "yellow", "uninformative": show.FAINT}
_NOT_TESTED = "not testable here"
_INTERVAL = re.compile(r".*: difference (?P<interval>.+): \w+ \((?P<beside>.+)\)", re.DOTALL)


def show_findings(findings: Findings, *, details: bool) -> None:
    """A heading, the claims, and what failed; with details, every cell of every claim."""
    failed = [record for record in findings.records if record.failed]
    counts = counted(len(findings.records), "trial") + (f", {len(failed)} failed" if failed else "")
    show.write(Text(f"{findings.title}  {counts}", style="bold"), "")
    if findings.decisions:
        table = show.table("claim", "says", "verdict", "evidence", folding=("says", "evidence"))
        for decision in findings.decisions:
            table.add_row(
                Text(decision.name), Text(decision.says), _verdict(decision), Text(_evidence(decision))
            )
        show.write(table)
    if details:
        for decision in findings.decisions:
            show.write("", Text(f"{decision.name}  {decision.says}", style="bold"))
            for cell in decision.cells:
                show.write(Text(f"  {cell.name}: {cell.words}" if cell.name else f"  {cell.words}"))
    for line in failures(findings):
        show.note(line)


def failures(findings: Findings) -> list[str]:
    """A line for each kind of failure, of trials and of measures: how often, on which trial, with what error."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in findings.records:
        if record.error is not None:
            found.setdefault(("", record.error), []).append(record)
        for name, error in record.measure_errors.items():
            found.setdefault((f"the measure {name} of ", error), []).append(record)
    return [f"{what}{_on(records)} failed: {error}" for (what, error), records in found.items()]


def _on(records: Sequence[Record]) -> str:
    others = f" and {counted(len(records) - 1, 'other trial')}" if len(records) > 1 else ""
    return f"{records[0].trial}{others}"


def counted(count: int, what: str) -> str:
    """So many of something: 1 trial, 2 trials."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def findings_json(findings: Findings) -> dict[str, object]:
    """The claims, their evidence and the trials as plain values."""
    return {
        "title": findings.title,
        "command": findings.command,
        "claims": [
            {
                "name": decision.name,
                "says": decision.says,
                "source": decision.source,
                "verdict": None if decision.verdict is None else str(decision.verdict),
                "words": decision.words,
                "p": decision.p,
                "cells": [_cell(cell) for cell in decision.cells],
            }
            for decision in findings.decisions
        ],
        "trials": [
            {
                "trial": str(record.trial),
                "identity": record.identity,
                "accuracy": record.accuracy,
                "loss": record.loss,
                "error": record.error,
                "measure_errors": dict(record.measure_errors),
                "seconds": record.seconds,
            }
            for record in findings.records
        ],
    }


def _cell(cell: Cell) -> dict[str, object]:
    return {
        "name": cell.name,
        "verdict": str(cell.verdict),
        "estimate": cell.estimate,
        "low": cell.low,
        "high": cell.high,
        "level": cell.level,
        "margin": cell.margin,
        "unit": cell.unit,
        "seeds": cell.seeds,
        "further_seeds": cell.further,
        "words": cell.words,
    }


def _verdict(decision: Decision) -> Text:
    if decision.verdict is None:
        return Text(_NOT_TESTED, style=show.FAINT)
    return Text(str(decision.verdict), style=_STYLES[str(decision.verdict)])


def _evidence(decision: Decision) -> str:
    """The tally of cells, or the one interval; with the reason where the verdict is not the interval's."""
    if len(decision.cells) != 1:
        return decision.words
    [cell] = decision.cells
    parts = _INTERVAL.fullmatch(cell.words)
    if parts is None:
        return decision.words
    if decision.verdict is not cell.verdict:  # held back by the correction for many claims
        return f"{parts['interval']}{decision.words.removeprefix(cell.words)}"
    settled = str(decision.verdict) in ("supported", "contradicted")
    return parts["interval"] if settled else f"{parts['interval']} ({parts['beside']})"
