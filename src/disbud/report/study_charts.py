"""The charts of a study's page, as Altair draws them: each is a template over the numbers of its cells.

Methods keep their colour and shape in all of them; the legend's buttons set the parameter `methods` (`states` where the
names are states of weights) to those that are shown. Axes reach over all rows of a cell, whatever is chosen in the
legend, so that what is chosen stays where it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Literal

import altair as alt

from disbud.report.charts import CELL
from disbud.report.drawing import FAINT, PERCENT, TRACK, inline, layered
from disbud.report.looks import Look
from disbud.report.study_numbers import apart, kept_one_in

_HEIGHT, _SMALL = 260, 120
_CHOSEN = "length(methods) === 0 || indexof(methods, datum.name) >= 0"
_CHOSEN_STATE = _CHOSEN.replace("methods", "states")
_SPARSITY = "format(100 * (1 - 1 / datum.value), '.7~f') + '\u00a0%'"

# How the numbers of an axis are written: as they are, as percentages, or as points above and below zero.
Written = Literal["plain", "share", "points"]
_LABELS = {"share": PERCENT, "points": "datum.value ? format(100 * datum.value, '+.9~f') : '0'"}
_FORMATS = {"share": ".2%", "points": "+.2%", "plain": ".4~g"}
_AROUND = ("* 0.95 - 1e-9", "* 1.05 + 1e-9")
_MEAN = ("y", "low", "high")


def against_sparsity(
    known: Mapping[str, Look], sparsities: Sequence[float], *, what: str, written: Written
) -> alt.LayerChart:
    """A line a method over 1 / density, with intervals; the dense network as a band.

    Columns are name, kind ("line" or "dense"), x, y, low, high, and for the pointer sparsity and seeds.
    """
    ones = [kept_one_in(sparsity) for sparsity in sparsities]
    outer = [apart(sparsities, place, len(known)) for place in (0, len(known) - 1)]
    scale = _log([ones[0] * outer[0], ones[-1] * outer[1]])
    x = alt.X("x:Q", title="sparsity", scale=scale, axis=_axis(values=ones, labelExpr=_SPARSITY))
    shown = [alt.Tooltip("sparsity:N"), *_mean_tooltips(what, written)]
    lines = _lines(known, x, _y(what, written), shown)
    return layered(
        [_zero(), *lines] if written == "points" else [*_dense_band(what, written), *lines], _HEIGHT
    )


def against_cost(known: Mapping[str, Look], xs: Sequence[float], *, what: str) -> alt.LayerChart:
    """A line a method over a cost on a logarithmic axis; columns as in `against_sparsity`, and cost for the pointer."""
    accuracy = "test accuracy"
    x = alt.X("x:Q", title=what, scale=_log(xs), axis=_axis(format="~s"))
    shown = [
        alt.Tooltip("sparsity:N"),
        alt.Tooltip("cost:Q", title=what, format=",.4~g"),
        *_mean_tooltips(accuracy, "share"),
    ]
    lines = _lines(known, x, _y(accuracy, "share"), shown)
    return layered([*_dense_band(accuracy, "share"), *lines], _HEIGHT)


def over_layers(known: Mapping[str, Look]) -> alt.LayerChart:
    """Density of each layer, from the first to the last, a line a method.

    Columns are name, kind "line", x (the layer's place from 1), layer, and y, on a logarithmic axis.
    """
    kept = "weights kept"
    axis = alt.Axis(labelExpr=PERCENT, domain=False, ticks=False, labelOverlap="greedy", tickCount=6)
    y = alt.Y("y:Q", title=kept, scale=_reaching("y", type="log", padding=8), axis=axis)
    x = _whole("layer, from input to output")
    shown = [alt.Tooltip("layer:N"), alt.Tooltip("y:Q", title=kept, format=".4~%")]
    return layered(_lines(known, x, y, shown), _HEIGHT)


def over_epochs(known: Mapping[str, Look], *, written: Written) -> alt.LayerChart:
    """A line a method over the epochs, and one of the dense network.

    Columns are name, kind, x (the epoch), y, seeds, and dot: 1 where the line has a mark, by which its shape is seen.
    """
    y = _y("", written, "y")
    dense = (
        alt.Chart(alt.NamedData(CELL))
        .transform_filter("datum.kind === 'dense'")
        .mark_line(color=FAINT, strokeDash=[4, 3], strokeWidth=1.5)
        .encode(x=_whole("epoch"), y=y)
    )
    shown = [
        alt.Tooltip("x:Q", title="epoch"),
        alt.Tooltip("y:Q", title="mean", format=_FORMATS[written]),
        alt.Tooltip("seeds:Q"),
    ]
    return layered([dense, *_lines(known, _whole("epoch"), y, shown)], _HEIGHT)


def plane(known: Mapping[str, Look]) -> alt.LayerChart:
    """A mark a trial at its effective nodes and paths, coloured by accuracy, shaped by method.

    Columns are name, x, y, accuracy, trial.
    """
    paths, nodes = "effective paths, log\u2081\u2080", "effective nodes"
    y = alt.Y("y:Q", title=paths, scale=_reaching("y", padding=10), axis=alt.Axis(domain=False, ticks=False))
    x = alt.X("x:Q", title=nodes, scale=_reaching("x", padding=10), axis=_axis(tickCount=5, format=",d"))
    colour = alt.Color(
        "accuracy:Q", title="test accuracy", scale=_reaching("accuracy", scheme="viridis", nice=True),
        legend=alt.Legend(
            orient="bottom", format=".2~%", gradientLength=160, gradientThickness=9, tickCount=3,
            labelOverlap="greedy", labelSeparation=6,
        ),
    )  # fmt: skip
    shown = [
        alt.Tooltip("trial:N"),
        alt.Tooltip("accuracy:Q", title="test accuracy", format=".2%"),
        alt.Tooltip("x:Q", title=nodes, format=","),
        alt.Tooltip("y:Q", title=paths, format=".2f"),
    ]
    points = (
        alt.Chart(alt.NamedData(CELL))
        .add_params(_only("methods"))
        .transform_filter(_CHOSEN)
        .mark_point(filled=True, size=60, opacity=0.9, stroke=FAINT, strokeWidth=0.4)
        .encode(x=x, y=y, color=colour, shape=_shape(known), tooltip=shown)
    )
    return layered([points], _HEIGHT + 20)


def distributions(states: Sequence[str], known: Mapping[str, Look]) -> alt.LayerChart:
    """How kept weights are distributed: upwards after training, downwards before, a line a state.

    Columns are x, and for each state by its place `a0`, `b0`, ...: heights after and before, of 99 at the highest.
    """
    names = json.dumps(list(states))
    x = alt.X("x:Q", title=None, scale=_reaching("x"), axis=_axis(tickCount=4, format="~g", labelFontSize=10))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[-104, 104], nice=False))
    middle = alt.Chart(inline([{"y": 0}])).mark_rule(color=TRACK).encode(y=y)
    lines = (
        alt.Chart(alt.NamedData(CELL))
        .add_params(_only("states"))
        .transform_fold([f"{side}{i}" for side in "ab" for i in range(len(states))], as_=["column", "height"])
        .transform_calculate(
            name=f"{names}[toNumber(slice(datum.column, 1))]",
            when="datum.column[0] === 'a' ? 'after training' : 'before training'",
            y="datum.column[0] === 'a' ? datum.height : -datum.height",
        )
        .transform_filter(f"isValid(datum.height) && ({_CHOSEN_STATE})")
        .mark_line(strokeWidth=1.7)
        .encode(
            x=x, y=y, color=_colour(known), strokeDash=_dash(known), detail="when:N",
            tooltip=[alt.Tooltip("name:N", title="weights"), alt.Tooltip("when:N")],
        )
    )  # fmt: skip
    return layered([middle, lines], _SMALL)


def _lines(known: Mapping[str, Look], x: alt.X, y: alt.Y, shown: Sequence[alt.Tooltip]) -> list[alt.Chart]:
    """Intervals, lines and points of those that are chosen."""
    lines = (
        alt.Chart(alt.NamedData(CELL))
        .add_params(_only("methods"))
        .transform_filter(f"datum.kind === 'line' && ({_CHOSEN})")
        .encode(x=x, y=y, color=_colour(known))
    )
    intervals = lines.transform_filter("isValid(datum.low)").encode(y=_like(y, "low"), y2="high:Q")
    points = lines.transform_filter("datum.dot !== 0 && isValid(datum.y)")
    return [
        intervals.mark_rule(strokeWidth=1.3, opacity=0.75),
        lines.mark_line(strokeWidth=1.7, opacity=0.85),
        points.mark_point(filled=True, size=48, opacity=1).encode(
            shape=_shape(known), tooltip=[alt.Tooltip("name:N", title="method"), *shown]
        ),
    ]


def _dense_band(what: str, written: Written) -> list[alt.Chart]:
    """The dense network's mean as a line across, and its interval behind it."""
    y = _y(what, written)
    dense = alt.Chart(alt.NamedData(CELL)).transform_filter("datum.kind === 'dense'")
    dense = dense.encode(x=alt.value(0), x2=alt.value("width"))
    return [
        dense.transform_filter("isValid(datum.low)")
        .mark_rect(color=TRACK, opacity=0.6)
        .encode(y=_like(y, "low"), y2="high:Q"),
        dense.mark_rule(color=FAINT, strokeDash=[4, 3]).encode(y=y),
    ]


def _zero() -> alt.Chart:
    rule: alt.Chart = alt.Chart(inline([{"y": 0}])).mark_rule(color=FAINT).encode(y="y:Q")
    return rule


def _y(what: str, written: Written, *fields: str) -> alt.Y:
    axis = alt.Axis(domain=False, ticks=False, tickCount=6, labelExpr=_LABELS.get(written, alt.Undefined))
    scale = _reaching(*(fields or _MEAN), nice=True, also=(0.0,) if written == "points" else ())
    return alt.Y("y:Q", title=what or None, scale=scale, axis=axis)


def _whole(title: str) -> alt.X:
    """An axis of whole numbers."""
    axis = _axis(labelExpr="datum.value % 1 ? '' : datum.label", format=",d")
    return alt.X("x:Q", title=title, scale=_reaching("x", padding=8), axis=axis)


def _like(y: alt.Y, field: str) -> alt.Y:
    """The same axis for another column."""
    other: alt.Y = y.copy()
    other.shorthand = f"{field}:Q"
    return other


def _reaching(*fields: str, also: Sequence[float] = (), nice: bool = False, **looks: str | int) -> alt.Scale:
    """From the least to the most of these columns over all rows; Vega itself would warn where none is left to draw."""
    plucked = [f"extent(pluck(data('{CELL}'), '{field}'))[{end}]" for field in fields for end in (0, 1)]
    reached = f"extent([{', '.join([*plucked, *map(str, also)])}])"
    # One value alone has no extent: an axis is made around it.
    ends = [
        {"expr": f"span({reached}) ? {reached}[{end}] : {reached}[{end}] {by}"}
        for end, by in enumerate(_AROUND)
    ]
    if not {"scheme", "type"} & looks.keys():
        looks["zero"] = False
    looks["nice"] = nice
    return alt.Scale.from_dict({"domain": ends, **looks}, validate=False)


def _log(values: Sequence[float]) -> alt.Scale:
    """From a little below the least to a little above the most, which may be the same."""
    return alt.Scale(type="log", domain=[min(values) / 1.08, max(values) * 1.08], nice=False)


def _axis(
    *,
    values: Sequence[float] | None = None,
    labelExpr: str | None = None,
    format: str | None = None,
    tickCount: int | None = None,
    labelFontSize: float | None = None,
) -> alt.Axis:
    """An axis without grid, whose labels keep apart from each other."""
    asked = {
        "values": values, "labelExpr": labelExpr, "format": format, "tickCount": tickCount,
        "labelFontSize": labelFontSize, "grid": False, "labelOverlap": "greedy", "labelSeparation": 6,
        "labelFlush": False,
    }  # fmt: skip
    return alt.Axis.from_dict({key: value for key, value in asked.items() if value is not None})


def _mean_tooltips(what: str, written: Written) -> list[alt.Tooltip]:
    form = _FORMATS[written]
    return [
        alt.Tooltip("y:Q", title=what, format=form),
        alt.Tooltip("low:Q", title="95 % interval from", format=form),
        alt.Tooltip("high:Q", title="to", format=form),
        alt.Tooltip("seeds:Q"),
    ]


def _only(names: str) -> alt.Parameter:
    return alt.param(name=names, value=[])


def _colour(known: Mapping[str, Look]) -> alt.Color:
    scale = alt.Scale(domain=list(known), range=[look.colour for look in known.values()])
    return alt.Color("name:N", scale=scale, legend=None)


def _shape(known: Mapping[str, Look]) -> alt.Shape:
    scale = alt.Scale(domain=list(known), range=[look.path for look in known.values()])
    return alt.Shape("name:N", scale=scale, legend=None)


def _dash(known: Mapping[str, Look]) -> alt.StrokeDash:
    scale = alt.Scale(domain=list(known), range=[list(look.dash) for look in known.values()])
    return alt.StrokeDash("name:N", scale=scale, legend=None)
