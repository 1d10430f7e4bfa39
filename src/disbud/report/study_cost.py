"""What pruned networks cost: accuracy against multiply-adds, and a table of weights, time and memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from disbud.report import study_charts
from disbud.report.charts import Cell, SmallMultiples
from disbud.report.looks import DENSE, Look, legend_that_filters
from disbud.report.page import Block, Section
from disbud.report.study_numbers import (
    Overview,
    Setting,
    accuracies,
    columns_of,
    grouped,
    mean,
    measured,
    setting_of,
    sparsity_of,
)
from disbud.report.tables import table
from disbud.report.words import name, percent, sentence

if TYPE_CHECKING:
    from disbud.study.record import Record

_COSTS = {
    "multiply_adds_masked": "multiply-adds of the kept weights",
    "multiply_adds_live": "multiply-adds without dead channels",
}
_NONE = "\u2013"


def cost(known: Overview, looks: dict[str, Look]) -> Section:
    """Two charts a setting, and a row a method and sparsity."""
    cells = []
    for entry, called in _COSTS.items():
        found = {s: rows for s in known.settings if (rows := _points(known, s, entry))}
        if found:
            xs = [float(row["x"] or 0) for rows in found.values() for row in rows if row["kind"] == "line"]
            drawn = study_charts.against_cost(looks, xs, what=called)
            cells += [Cell(known.settings[s], columns_of(rows), drawn=drawn) for s, rows in found.items()]
    blocks: list[Block] = []
    if cells and cells[0].drawn is not None:
        blocks.append(
            legend_that_filters(looks, more={"band-line": "dense network"} if known.dense else None)
        )
        blocks.append(SmallMultiples(cells[0].drawn, cells, "Accuracy against multiply-adds", size="large"))
    lead = sentence(
        "Means over seeds, without intervention. Multiply-adds are those of one example: of the kept weights, as "
        "kernels that skip every removed one would need, and of the dense network that is left when dead channels are "
        "taken out. Seconds and memory are those of the whole trial, on whatever machine ran it.",
    )
    return Section("What it costs", [lead], [*blocks, _table(known)])


def _points(known: Overview, setting: Setting, entry: str) -> list[dict[str, str | float | int | None]]:
    rows: list[dict[str, str | float | int | None]] = []
    for (where, method, sparsity), records in sorted(known.plain_points.items(), key=lambda item: item[0][2]):
        price, found = _average(records, "cost", entry), accuracies(records)
        if where == setting and price and found is not None:
            rows.append({
                "name": method, "kind": "line", "x": price, "y": found.value, "low": found.low, "high": found.high,
                "cost": price, "sparsity": percent(sparsity, most=4), "seeds": found.seeds,
            })  # fmt: skip
    dense = accuracies(known.dense.get(setting, []))
    if rows and dense is not None:
        rows.append({"kind": "dense", "y": dense.value, "low": dense.low, "high": dense.high})
    return rows


def _table(known: Overview) -> Block:
    """A row a setting, method and sparsity; columns only for what is known."""
    places = {method: i for i, method in enumerate([DENSE, *known.methods])}
    found = grouped(
        (r for r in known.charted if r.trial.intervention is None),
        lambda r: (list(known.settings).index(setting_of(r)), sparsity_of(r), r.trial.method),
    )
    groups = dict(sorted(found.items(), key=lambda item: (*item[0][:2], places[item[0][2]])))
    several = len(known.settings) > 1
    columns: dict[str, list[str]] = {
        "kept weights": _whole(groups.values(), "kept"),
        "multiply-adds": _whole(groups.values(), "multiply_adds_masked"),
        "without dead channels": _whole(groups.values(), "multiply_adds_live"),
        "ticket": [_bytes(_average(r, "cost", "ticket_bytes")) for r in groups.values()],
        "seconds": [_seconds(r) for r in groups.values()],
        "memory": [_bytes(_mean([x.memory or None for x in r])) for r in groups.values()],
    }
    shown = {key: cells for key, cells in columns.items() if any(cell != _NONE for cell in cells)}
    settings = list(known.settings.values())
    rows = [
        [
            name(method),
            *([settings[where]] if several else []),
            percent(sparsity, most=4) if sparsity else _NONE,
            _accuracy(records),
            *(cells[i] for cells in shown.values()),
        ]
        for i, ((where, sparsity, method), records) in enumerate(groups.items())
    ]
    head = ["method", *(["setting"] if several else []), "sparsity", "accuracy", *shown]
    return table(head, rows, words=("method", "setting"))


def _accuracy(records: Sequence[Record]) -> str:
    found = accuracies(records)
    return _NONE if found is None else percent(found.value)


def _average(records: Iterable[Record], measure: str, entry: str) -> float | None:
    return _mean([measured(record, measure, entry) for record in records])


def _mean(values: Iterable[float | None]) -> float | None:
    found = mean(values)
    return None if found is None else found.value


def _whole(groups: Iterable[Sequence[Record]], entry: str) -> list[str]:
    found = (_average(records, "cost", entry) for records in groups)
    return [_NONE if value is None else f"{value:,.0f}" for value in found]


def _seconds(records: Sequence[Record]) -> str:
    found = _mean([r.seconds or None for r in records])
    return _NONE if found is None else f"{found:,.1f}"


def _bytes(size: float | None) -> str:
    """A number of bytes in the unit that suits it."""
    if size is None:
        return _NONE
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g}\u00a0{unit}"
        size /= 1000
    return f"{size:,.3g}\u00a0GB"
