"""How accurate pruned networks are: against sparsity by method, and with each intervention minus without it."""

from __future__ import annotations

import math

from disbud.report import study_charts
from disbud.report.charts import Cell, SmallMultiples
from disbud.report.looks import Look, legend_that_filters
from disbud.report.markup import Html, joined
from disbud.report.page import Section, aside
from disbud.report.study_numbers import (
    Mean,
    Overview,
    Setting,
    accuracies,
    apart,
    columns_of,
    kept_one_in,
    mean,
)
from disbud.report.words import counted, name, percent, sentence

Point = dict[str, str | float | int | None]
_ACCURACY, _LOSS = "test accuracy", "test cross-entropy"
_DENSE = {"band-line": "dense network"}


def accuracy(known: Overview, looks: dict[str, Look]) -> Section:
    """Accuracy and cross-entropy of the trials without intervention, by method, over 1 / density."""
    cells, drawn = [], {
        "accuracy": study_charts.against_sparsity(looks, known.sparsities, what=_ACCURACY, written="share"),
        "loss": study_charts.against_sparsity(looks, known.sparsities, what=_LOSS, written="plain"),
    }  # fmt: skip
    for setting, called in known.settings.items():
        for column, chart in drawn.items():
            rows = _points(known, setting, column) + _dense(known, setting, column)
            if any(row["kind"] == "line" for row in rows):
                cells.append(Cell(called, columns_of(rows), drawn=chart))
    blocks: list[Html | SmallMultiples] = [
        legend_that_filters(looks, more=_DENSE if known.dense else None),
        SmallMultiples(drawn["accuracy"], cells, "Accuracy and cross-entropy by sparsity", size="large"),
    ]
    lead = sentence(
        "Mean test accuracy after the last epoch and its 95 % interval over seeds, without intervention; the axis goes "
        "with the logarithm of 1 / density. Choose methods in the legend to see them alone, in every chart.",
    )
    diverged = sum(r.diverged is not None for r in known.charted)
    return Section(
        "Accuracy against sparsity",
        [lead, *_best(known)],
        [*blocks, *([_said_of_diverged(diverged)] if diverged else [])],
    )


def interventions(known: Overview, looks: dict[str, Look]) -> Section:
    """What each intervention does to accuracy, paired by seed."""
    several = len(known.settings) > 1
    cells = []
    means = {key: found for key, values in known.differences.items() if (found := mean(values)) is not None}
    for setting, called in known.settings.items():
        for altered in known.interventions:
            rows = [
                _point(known, method, sparsity, found)
                for method in known.methods
                for sparsity in known.sparsities
                if (found := means.get((setting, altered, method, sparsity))) is not None
            ]
            if rows:
                cells.append(Cell(f"{altered} ({called})" if several else altered, columns_of(rows)))
    lead = sentence(
        "Accuracy with the intervention minus accuracy of the same trial without it, in points: mean and 95 % "
        "interval over paired seeds. Where an interval does not reach zero, what was altered matters there; an "
        "interval that does reach it shows nothing until it is narrow. ",
        _largest(means),
    )
    drawn = study_charts.against_sparsity(
        looks, known.sparsities, what="difference in points", written="points"
    )
    return Section(
        "What each intervention changes",
        [lead],
        [
            legend_that_filters(looks),
            SmallMultiples(drawn, cells, "Difference of accuracy", size="large"),
        ],
    )


def _points(known: Overview, setting: Setting, column: str) -> list[Point]:
    rows = []
    for method in known.methods:
        for sparsity in known.sparsities:
            records = known.plain_points.get((setting, method, sparsity), [])
            found = mean(r.accuracy if column == "accuracy" else r.loss for r in records)
            if found is not None:
                rows.append(_point(known, method, sparsity, found))
    return rows


def _point(known: Overview, method: str, sparsity: float, found: Mean) -> Point:
    aside_by = apart(known.sparsities, known.methods.index(method), len(known.methods))
    return {
        "name": method, "kind": "line", "x": kept_one_in(sparsity) * aside_by, "y": found.value,
        "low": found.low, "high": found.high, "sparsity": percent(sparsity, most=4), "seeds": found.seeds,
    }  # fmt: skip


def _dense(known: Overview, setting: Setting, column: str) -> list[Point]:
    found = mean(r.accuracy if column == "accuracy" else r.loss for r in known.dense.get(setting, []))
    if found is None:
        return []
    return [{"kind": "dense", "y": found.value, "low": found.low, "high": found.high, "seeds": found.seeds}]


def _best(known: Overview, *, most: int = 3) -> list[Html]:
    """What was found, in the first few settings, at the highest sparsity that two methods or more were run at."""
    said = []
    for setting, called in known.settings.items():
        for sparsity in reversed(known.sparsities):
            found = {
                method: value
                for method in known.methods
                if (value := accuracies(known.plain_points.get((setting, method, sparsity), []))) is not None
            }
            if len(found) > 1:
                said.append(_ranking(called, sparsity, found, accuracies(known.dense.get(setting, []))))
                break
    return said[:most]


def _ranking(called: str, sparsity: float, found: dict[str, Mean], dense: Mean | None) -> Html:
    order = sorted(found, key=lambda method: -found[method].value)
    best, worst = found[order[0]], found[order[-1]]
    to_dense = (
        ""
        if dense is None
        else f", {_below(dense.value - best.value)} the dense network's {percent(dense.value)}"
    )
    return sentence(
        name(called), f" at {percent(sparsity, most=4)} sparsity: ", name(order[0]),
        f" is most accurate, {percent(best.value)} over {counted(best.seeds, 'seed')}{to_dense}; ",
        name(order[-1]), f" is least, {percent(worst.value)}.",
    )  # fmt: skip


def _below(points: float) -> str:
    if abs(points) < 5e-5:
        return "as"
    return f"{abs(100 * points):.2g} points {'below' if points > 0 else 'above'}"


def _largest(means: dict[tuple[Setting, str, str, float], Mean]) -> Html:
    """How many differences keep off zero, and the one that is largest."""
    bounds = {key: (m.low, m.high) for key, m in means.items() if m.low is not None and m.high is not None}
    if not bounds:
        return sentence("One seed does not tell how far seeds differ, so that no interval can be given here.")
    sure = {key: means[key] for key, (low, high) in bounds.items() if low * high > 0}
    if not sure:
        return sentence(f"Here none of {counted(len(bounds), 'interval')} keeps off zero.")
    (_, altered, method, sparsity), most = max(sure.items(), key=lambda item: abs(item[1].value))
    points = f"{100 * most.value:+.{max(1, 1 - math.floor(math.log10(abs(100 * most.value))))}f}".replace(
        "-", "\u2212"
    )
    return joined([
        f"Here {len(sure):,} of {counted(len(bounds), 'interval')} keep off zero, the farthest that of ",
        name(altered), " on ", name(method), f" at {percent(sparsity, most=4)}: {points} points.",
    ])  # fmt: skip


def _said_of_diverged(count: int) -> Html:
    return aside(
        f"{counted(count, 'run')} diverged. In the means of accuracy they count with that of guessing; their "
        "cross-entropy is infinite, and where one is among the seeds no mean of it is drawn."
    )
