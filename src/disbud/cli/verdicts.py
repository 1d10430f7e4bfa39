"""What a study found, in the terminal: each claim with its verdict, and the cells it rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from disbud.cli import show

if TYPE_CHECKING:
    from disbud.study import Cell, Decision, Findings

_STYLES = {"supported": "green", "contradicted": "red", "undecided": "yellow", "uninformative": show.FAINT}
_NOT_TESTED = "not testable here"


def show_findings(findings: Findings, *, details: bool) -> None:
    """A heading, the claims, and what failed; with details, every cell of every claim."""
    failed = [record for record in findings.records if record.failed]
    counts = f"{len(findings.records)} trials" + (f", {len(failed)} failed" if failed else "")
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
    for record in failed:
        show.note(f"{record.trial}: {record.error}")


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
    """The tally of cells, or the one interval."""
    if decision.verdict is None or len(decision.cells) != 1:
        return decision.words
    [cell] = decision.cells
    if cell.estimate is None or cell.low is None or cell.high is None:
        return decision.words
    scale, unit = (100, " points") if cell.unit == "points" else (1, "")
    low, high = (f"{scale * bound:.3g}" for bound in (cell.low, cell.high))
    return f"{scale * cell.estimate:+.3g}{unit}, {100 * cell.level:g} % interval {low} to {high}"
