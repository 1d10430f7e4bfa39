"""Training curves: accuracy and losses over the epochs, by method, mean over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from disbud.report import study_charts
from disbud.report.charts import Answers, Choice, Choosable, ChosenCell, Columns
from disbud.report.looks import DENSE, Look, legend_that_filters
from disbud.report.page import Block, Section
from disbud.report.study_numbers import Overview, columns_of, grouped, mean, number, setting_of, sparsity_of
from disbud.report.words import percent, sentence

if TYPE_CHECKING:
    from disbud.study.record import Record

_MOST = 60  # epochs that are drawn of longer runs
_MARKS = 6  # on a line, so that its shape can be seen
_SERIES = {
    "test_accuracy": ("Test accuracy", "share"),
    "test_loss": ("Test cross-entropy", "plain"),
    "train_loss": ("Training cross-entropy", "plain"),
}


def curves(known: Overview, looks: dict[str, Look]) -> Section:
    """Three charts, for a setting and a sparsity that the reader chooses."""
    with_curve = [r for r in known.plain if r.curve]
    settings = list(dict.fromkeys(map(setting_of, with_curve)))
    sparsities = sorted({sparsity_of(r) for r in with_curve}, reverse=True)
    choices = [
        Choice("Setting", [known.settings[s] for s in settings]),
        Choice("Sparsity", [percent(s, most=4) for s in sparsities]),
    ]
    has_dense = any(r.curve for s in settings for r in known.dense.get(s, []))
    blocks: list[Block] = [
        legend_that_filters(looks, more={"dash-line": "dense network"} if has_dense else None)
    ]
    drawn = {
        "share": study_charts.over_epochs(looks, written="share"),
        "plain": study_charts.over_epochs(looks, written="plain"),
    }
    cells = []
    for column, (called, form) in _SERIES.items():
        columns: dict[Answers, Columns] = {
            (i, j): found
            for i, setting in enumerate(settings)
            for j, sparsity in enumerate(sparsities)
            if (
                found := _lines(
                    [r for r in with_curve if (setting_of(r), sparsity_of(r)) == (setting, sparsity)],
                    [r for r in known.dense.get(setting, []) if r.curve],
                    column,
                )
            )
        }
        if columns:
            cells.append(ChosenCell(called, drawn[form], columns))
    blocks.append(Choosable(choices, cells, "Training curves", size="large"))
    lead = sentence(
        "Means over seeds of the trials without intervention, epoch by epoch; a run that diverged is left out from "
        "where it did.",
    )
    return Section("Training curves", [lead], blocks)


def has_curves(known: Overview) -> bool:
    """Whether any trial without intervention has its epochs on record."""
    return any(r.curve for r in known.plain)


def _lines(records: Sequence[Record], dense: Sequence[Record], column: str) -> Columns | None:
    rows: list[dict[str, str | float | int | None]] = []
    for method, mine in grouped([*records, *(dense if records else [])], lambda r: r.trial.method).items():
        by_epoch: dict[int, list[float]] = {}
        for record in mine:
            for line in record.curve:
                epoch, value = number(line.get("epoch")), number(line.get(column))
                if epoch is not None and value is not None:
                    by_epoch.setdefault(round(epoch), []).append(value)
        epochs = _thinned(sorted(by_epoch), _MOST)
        marked = set(_thinned(epochs, _MARKS))
        kind = "dense" if method == DENSE else "line"
        for epoch in epochs:
            found = mean(by_epoch[epoch])
            if found is not None:
                rows.append({
                    "name": method, "kind": kind, "x": epoch, "y": float(f"{found.value:.4g}"),
                    "dot": int(epoch in marked), "seeds": found.seeds,
                })  # fmt: skip
    return columns_of(rows) if any(row["kind"] == "line" for row in rows) else None


def _thinned(epochs: list[int], most: int) -> list[int]:
    """So many of them at most, the first and the last among them."""
    if len(epochs) <= most:
        return epochs
    return [epochs[round(i * (len(epochs) - 1) / (most - 1))] for i in range(most)]
