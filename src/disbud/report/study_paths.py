"""What tickets leave of the network: effective paths and nodes, and the density of each layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from disbud.report import study_charts
from disbud.report.anatomy import short_names
from disbud.report.charts import Answers, Choice, Choosable, ChosenCell, Columns
from disbud.report.looks import Look, legend_that_filters
from disbud.report.markup import joined, tag
from disbud.report.page import Block, Section, aside
from disbud.report.study_numbers import (
    Overview,
    columns_of,
    grouped,
    measured,
    measured_rows,
    number,
    setting_of,
    sparsity_of,
)
from disbud.report.words import counted, name, percent, sentence

if TYPE_CHECKING:
    from disbud.study.record import Record

_ALL = "all"


def plane(known: Overview, looks: dict[str, Look]) -> Section:
    """Every pruned trial at its nodes and paths."""
    records = [
        r for r in known.charted if r.trial.sparsity is not None and measured(r, "paths", "nodes") is not None
    ]
    placed = [r for r in records if measured(r, "paths", "log10_paths") is not None]
    sparsities = sorted({sparsity_of(r) for r in placed})
    chosen: list[Callable[[Record], bool]] = [lambda _: True]
    chosen += [lambda r, s=s: sparsity_of(r) == s for s in sparsities]  # type: ignore[misc]
    cells, drawn = [], study_charts.plane(looks)
    for setting, called in known.settings.items():
        mine = [r for r in placed if setting_of(r) == setting]
        columns: dict[Answers, Columns] = {
            (i,): _dots(found) for i, wanted in enumerate(chosen) if (found := [r for r in mine if wanted(r)])
        }
        if columns:
            cells.append(ChosenCell(called, drawn, columns))
    lead = sentence(
        "Each mark is a trial: how many units still carry a signal (effective nodes), and by how many ways it gets "
        "from input to output (effective paths, logarithm to base 10). The lighter the colour, the higher the "
        "accuracy. At one sparsity, methods differ in how they trade nodes for paths (Pham et al. 2023).",
    )
    options = [_ALL, *(percent(s, most=4) for s in sparsities)]
    blocks: list[Block] = [
        legend_that_filters(looks),
        Choosable([Choice("Sparsity", options)], cells, "Nodes and paths", size="large"),
    ]
    gone = len(records) - len(placed)
    if gone:
        blocks.append(
            aside(f"{counted(gone, 'trial')} left no path from input to output and cannot be drawn.")
        )
    return Section("Effective paths and nodes", [lead], blocks)


def densities(known: Overview, looks: dict[str, Look]) -> Section:
    """The density of each layer by method, for a sparsity that the reader chooses."""
    measured_plain = [r for r in known.plain if measured_rows(r, "paths")]
    sparsities = sorted({sparsity_of(r) for r in measured_plain}, reverse=True)
    cells, lists, drawn = [], [], study_charts.over_layers(looks)
    for setting, called in known.settings.items():
        mine = [r for r in measured_plain if setting_of(r) == setting]
        layers = list(dict.fromkeys(str(row["layer"]) for r in mine for row in measured_rows(r, "paths")))
        labels = dict(zip(layers, short_names(layers), strict=True))
        columns: dict[Answers, Columns] = {
            (i,): _lines(found, labels)
            for i, sparsity in enumerate(sparsities)
            if (found := [r for r in mine if sparsity_of(r) == sparsity])
        }
        if columns:
            cells.append(ChosenCell(called, drawn, columns))
            items = (tag("li", name(label)) for label in labels.values())
            lists.append(joined([tag("p", name(called)), tag("ol", *items)]))
    lead = sentence(
        "The share of its weights that each layer keeps, mean over seeds, on a logarithmic axis. Where a line is low, "
        "the method saves there; a layer that keeps nothing has no mark.",
    )
    return Section(
        "Density of each layer",
        [lead],
        [
            legend_that_filters(looks),
            Choosable(
                [Choice("Sparsity", [percent(s, most=4) for s in sparsities])],
                cells, "Density by layer", size="large",
            ),
            tag("details", tag("summary", "The layers by number"), *lists, class_="layers"),
        ],
    )  # fmt: skip


def has_paths(known: Overview) -> bool:
    """Whether any pruned trial has a place in the plane."""
    return any(
        measured(r, "paths", "log10_paths") is not None for r in known.charted if r.trial.sparsity is not None
    )


def has_layers(known: Overview) -> bool:
    """Whether the densities of layers are known of any trial without intervention."""
    return any(measured_rows(r, "paths") for r in known.plain)


def _dots(records: list[Record]) -> Columns:
    return columns_of([
        {
            "name": r.trial.method, "x": measured(r, "paths", "nodes"), "y": measured(r, "paths", "log10_paths"),
            "accuracy": r.accuracy, "trial": _called(r),
        }
        for r in records
    ])  # fmt: skip


def _called(record: Record) -> str:
    trial = record.trial
    altered = f", {trial.intervention}" if trial.intervention else ""
    return f"{trial.method} at {percent(sparsity_of(record), most=4)}{altered}"


def _lines(records: list[Record], labels: dict[str, str]) -> Columns:
    rows: list[dict[str, str | float | int | None]] = []
    for method, mine in grouped(records, lambda r: r.trial.method).items():
        shares: dict[str, list[float]] = {}
        for record in mine:
            for row in measured_rows(record, "paths"):
                kept, of = number(row.get("kept")), number(row.get("weights"))
                if kept is not None and of:
                    shares.setdefault(str(row["layer"]), []).append(kept / of)
        for place, (layer, label) in enumerate(labels.items(), start=1):
            share = math.fsum(shares[layer]) / len(shares[layer]) if layer in shares else 0.0
            if share > 0:  # nothing has no place on a logarithmic axis
                rows.append({"name": method, "kind": "line", "x": place, "y": share, "layer": label})
    return columns_of(rows)
