"""The charts of a ticket's page, as Altair draws them; colours are the names that the page's style sheet gives."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import altair as alt

from disbud.report.charts import CELL, Chart
from disbud.report.drawing import BAD, FAINT, ONE, PERCENT, TRACK, TWO, Row, inline, layered
from disbud.report.words import percent

_BESIDE = 24  # characters of a name that leave a phone's window room for the marks beside it
_ABOVE = 48  # characters on a line over the marks
_LINE = 15  # pixels
_CELL_HEIGHT = 84
_LOOKS = (("this", ONE, "circle"), ("other", TWO, "diamond"), ("nothing", BAD, "cross"))
# Of many powers of ten a narrow window has room for every second, from 100 % down.
_POWERS = f"width > 400 || round(log(datum.value) / LN10) % 2 == 0 ? {PERCENT} : ''"


@dataclass(frozen=True)
class _Rows:
    """One row a layer: its name beside the marks where all names are short, else in lines over them.

    Every row is cut into slots, one for each mark, after as many empty ones as the longest name has lines.
    """

    texts: Mapping[str, str]
    slots: Sequence[str]
    slot_height: int
    lines: int

    @staticmethod
    def of(labels: Sequence[str], slots: Sequence[str], *, slot_height: int) -> _Rows:
        if max(map(_extent, labels)) <= _BESIDE:
            return _Rows({label: label for label in labels}, slots, slot_height, 0)
        wrapped = {label: _wrapped(label) for label in labels}
        lines = max(map(len, wrapped.values()))
        empty = [f" {i}" for i in range(lines)]
        texts = {label: "\n".join(parts) for label, parts in wrapped.items()}
        return _Rows(texts, [*empty, *slots], max(slot_height, _LINE), lines)

    @property
    def height(self) -> int:
        return len(self.texts) * len(self.slots) * self.slot_height

    def y(self) -> alt.Y:
        axis = alt.Axis(
            title=None, domain=False, ticks=False, labelLimit=0, labelOverlap=False, labelPadding=8, zindex=1
        )
        if self.lines:
            axis.labelExpr = "split(datum.label, '\\n')"
            axis.labelAlign, axis.labelBaseline, axis.labelPadding = "left", "top", 0
            axis.labelOffset = -len(self.slots) * self.slot_height / 2 + 3
        scale = alt.Scale(domain=list(self.texts.values()), paddingInner=0.2, paddingOuter=0.1)
        return alt.Y("label:N", sort=None, scale=scale, axis=axis)

    def offset(self) -> alt.YOffset:
        return alt.YOffset("slot:N", scale=alt.Scale(type="band", domain=list(self.slots), paddingInner=0.1))


def densities(rows: Sequence[Row], *, asked: float | None, against: str | None) -> Chart:
    """A dot a layer at its density, on a logarithmic axis; where it is compared, a second one and a line between them.

    `rows` hold label, layer, density, kept and, where compared, against.
    """
    lanes = _Rows.of([str(row["label"]) for row in rows], ["dot"], slot_height=18)
    known = [float(row[key] or 0) for row in rows for key in ("density", "against") if key in row]
    low = _floor([*known, asked] if asked else known)
    x = alt.X(
        "x:Q",
        title="weights kept",
        scale=alt.Scale(type="log", domain=[low, 1], nice=False),
        axis=_axis_over(_ticks(low, known), labels=PERCENT if low > 1e-4 else _POWERS),
    )
    dots = [
        _dot(row, key, whose, low, lanes.texts)
        for row in rows
        for key, whose in (("against", against or ""), ("density", "this ticket"))
        if key in row
    ]
    base = alt.Chart(inline(dots)).encode(y=lanes.y(), yOffset=lanes.offset(), x=x)
    kinds, colours, shapes = zip(*_LOOKS, strict=True)
    points = base.mark_point(filled=True, size=70, opacity=1).encode(
        color=alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=colours), legend=None),
        shape=alt.Shape("kind:N", scale=alt.Scale(domain=kinds, range=shapes), legend=None),
        tooltip=[alt.Tooltip(f"{key}:N") for key in ("layer", "of", "density", "kept")],
    )
    parts: list[alt.Chart] = []
    if asked:
        line = alt.Chart(inline([{"x": asked}])).mark_rule(color=FAINT, strokeDash=[4, 3], strokeWidth=1.2)
        parts.append(line.encode(x=x))
    if against:
        ends = base.transform_aggregate(x="min(x)", x2="max(x)", groupby=["label", "slot"])
        parts.append(ends.mark_rule(color=FAINT, strokeWidth=1.2).encode(x2="x2:Q"))
    words = f"Density of {len(rows)} layers, from {percent(min(known))} to {percent(max(known))}"
    return Chart(layered([*parts, points], lanes.height), words)


def units_alive(rows: Sequence[Row]) -> Chart:
    """Two bars a layer: the share of its input and of its output units that is alive.

    `rows` hold label, layer, slot ("inputs" or "outputs"), share (a fraction) and alive (the same in words).
    """
    labels = list(dict.fromkeys(str(row["label"]) for row in rows))
    lanes = _Rows.of(labels, ["inputs", "outputs"], slot_height=10)
    values = [dict(row) | {"label": lanes.texts[str(row["label"])], "all": 1} for row in rows]
    scale = alt.Scale(domain=[0, 1], nice=False)
    x = alt.X("all:Q", title="channels alive", scale=scale, axis=_axis_over([0, 0.25, 0.5, 0.75, 1]))
    base = alt.Chart(inline(values)).encode(y=lanes.y(), yOffset=lanes.offset(), x=x)
    tooltip = [alt.Tooltip("layer:N"), alt.Tooltip("slot:N", title="side"), alt.Tooltip("alive:N")]
    colours = alt.Scale(domain=["inputs", "outputs"], range=[TWO, ONE])
    track = base.mark_bar(color=TRACK).encode(tooltip=tooltip)
    alive = base.mark_bar().encode(
        x=alt.X("share:Q"), color=alt.Color("slot:N", scale=colours, legend=None), tooltip=tooltip
    )
    return Chart(
        layered([track, alive], lanes.height), f"Input and output channels alive in {len(labels)} layers"
    )


def weight_histogram(before: str, after: str | None, *, zeros: str) -> alt.LayerChart:
    """The template of a layer's histogram: bars for the weights as they are, a line for those after an intervention.

    Columns are low, high, before and, where there is an intervention, after.
    """
    scale = alt.Scale(type="sqrt" if zeros == "in" else "linear")
    y = alt.Y("before:Q", axis=None, scale=scale)
    x = alt.X("low:Q", title=None, axis=_axis_under(whole=False), scale=alt.Scale(nice=False, zero=False))
    base = alt.Chart(alt.NamedData(CELL)).encode(x=x)
    shown = [
        alt.Tooltip("low:Q", title="from", format=".3~g"),
        alt.Tooltip("high:Q", title="to", format=".3~g"),
        alt.Tooltip("before:Q", title=before, format=","),
        *([alt.Tooltip("after:Q", title=after, format=",")] if after else []),
    ]
    bars = base.mark_rect(color=ONE, opacity=0.7 if after else 1).encode(x2="high:Q", y=y, y2=alt.Y2Datum(0))
    parts: list[alt.Chart] = [bars]
    if after:
        line = base.mark_line(interpolate="step-after", color=TWO, strokeWidth=1.8, strokeJoin="round")
        parts.append(line.encode(y=alt.Y("after:Q", axis=None, scale=scale)))
    parts.append(_hit(base).encode(tooltip=shown))
    return layered(parts, _CELL_HEIGHT)


def degree_histogram(read: str, fed: str) -> alt.LayerChart:
    """The template of a layer's degrees: the in-degrees of its outputs upwards, the out-degrees of its inputs down.

    Columns are low, high, degree (in words), up and down (shares of the units; down is negative), and both in words.
    """
    y = alt.Y("up:Q", axis=None)
    x = alt.X("low:Q", title=None, axis=_axis_under(whole=True), scale=alt.Scale(nice=False, zero=False))
    base = alt.Chart(alt.NamedData(CELL)).encode(x=x)
    shown = [
        alt.Tooltip("degree:N", title="kept weights"),
        alt.Tooltip("outputs:N", title=read),
        alt.Tooltip("inputs:N", title=fed),
    ]
    up = base.mark_rect(color=ONE).encode(x2="high:Q", y=y, y2=alt.Y2Datum(0))
    down = base.mark_rect(color=TWO).encode(x2="high:Q", y=alt.Y("down:Q", axis=None), y2=alt.Y2Datum(0))
    middle = alt.Chart(inline([{"middle": 0}])).mark_rule(color=TRACK)
    middle = middle.encode(y=alt.Y("middle:Q", axis=None))
    return layered([middle, up, down, _hit(base).encode(tooltip=shown)], _CELL_HEIGHT)


def _wrapped(label: str) -> list[str]:
    """The name in lines, cut where its parts meet as far as that is possible."""
    lines = [""]
    for part in re.split(r"(?<=[._/ -])", label):
        if lines[-1] and _extent(lines[-1] + part) > _ABOVE:
            lines.append("")
        for character in part:
            if _extent(lines[-1] + character) > _ABOVE:
                lines.append("")
            lines[-1] += character
    return lines


def _extent(text: str) -> float:
    """About how wide a text is, in small letters."""
    return sum(2 if c > "\u024f" else 1.7 if c in "mwMW@%" else 1.2 if c.isupper() else 1 for c in text)


def _axis_over(values: Sequence[float], *, labels: str = PERCENT) -> alt.Axis:
    """A scale of percentages above the rows, where it is in sight from the first of them on."""
    return alt.Axis(
        orient="top",
        values=list(values),
        labelExpr=labels,
        domain=False,
        ticks=False,
        labelFlush=False,
        labelOverlap="greedy",
        labelSeparation=5,
    )


def _axis_under(*, whole: bool) -> alt.Axis:
    """The few labels under a small chart; of counts only whole ones."""
    return alt.Axis(
        tickCount=3,
        labelExpr="datum.value % 1 ? '' : datum.label" if whole else alt.Undefined,
        grid=False,
        labelFontSize=10,
        tickSize=3,
        labelPadding=2,
        labelOverlap=True,
    )


def _hit(base: alt.Chart) -> alt.Chart:
    """Bars as high as the cell that cannot be seen, so that the pointer need not meet a small mark."""
    top, bottom = alt.value(0), alt.value(_CELL_HEIGHT)
    hit: alt.Chart = base.mark_rect(opacity=0).encode(x2="high:Q", y=top, y2=bottom)
    return hit


def _dot(row: Row, key: str, whose: str, low: float, texts: Mapping[str, str]) -> Row:
    density = float(row[key] or 0)
    return {
        "label": texts[str(row["label"])],
        "slot": "dot",
        "layer": row["layer"],
        "of": whose,
        "kind": "nothing" if not density else "this" if key == "density" else "other",
        "x": max(density, low),
        "density": percent(density),
        "kept": row["kept"] if key == "density" else "",
    }


def _floor(known: Sequence[float]) -> float:
    """Where the axis begins: a power of ten below all densities, with room for those that are 0."""
    above = [density for density in known if density]
    exponent = min(-1, math.floor(math.log10(min(above)) + 1e-9)) if above else -1
    return float(10.0 ** (exponent - (0 in known)))


def _ticks(low: float, known: Sequence[float]) -> list[float]:
    exponents = range(round(math.log10(low)) + (0 in known), 1)
    steps = (1, 2, 5) if len(exponents) <= 3 else (1,)
    return [step * 10.0**e for e in exponents for step in steps if step * 10.0**e <= 1 + 1e-9]
