"""Forest plots: one row an estimate with its interval, over the band within which a difference does not matter.

Places are percentages of the row's width, so that one drawing fits a wide window, a telephone and paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from disbud.report.markup import Html, tag

_TICKS = 5  # as many as a narrow window has room for
_ROOM, _OPEN = 0.04, 0.2  # of the width: on a side where all intervals end, and where one goes on
_TIPS = {-math.inf: "M0,0L7,-4.5V4.5Z", math.inf: "M0,0L-7,-4.5V4.5Z"}


@dataclass(frozen=True)
class Axis:
    """What the numbers under the rows are called, whether zero has a line through all rows, and where numbers end."""

    title: str
    zero: bool = True
    within: tuple[float, float] = (-math.inf, math.inf)


@dataclass(frozen=True)
class ForestRow:
    """One estimate: its name, the kind that gives colour and shape, the numbers in words, and where they lie.

    A bound that is infinite is drawn to the edge, with an arrow; without an estimate there are only words.
    """

    name: str
    kind: str
    words: str
    estimate: float | None
    low: float | None
    high: float | None
    margin: float | None


def forest(rows: Sequence[ForestRow], axis: Axis) -> Html:
    """The rows over one axis, and under them its numbers.

    >>> row = ForestRow("98 %", "supported", "+0.1", 0.1, -0.2, 0.4, 0.5)
    >>> forest([row], Axis("difference (points)")).count("<circle")
    1
    """
    drawn = [row for row in rows if row.estimate is not None]
    low, high = reach(drawn, axis)
    items = [
        tag(
            "li",
            tag("span", row.name, class_="what"),
            _row(row, low, high, zero=axis.zero) if drawn else "",
            tag("span", row.words, class_="figures"),
            class_=row.kind,
        )
        for row in rows
    ]
    under = tag(
        "li",
        tag("span", axis.title, class_="what"),
        _axis(low, high),
        tag("span", class_="figures"),
        class_="axis",
    )
    return tag("ul", *items, under if drawn else "", class_="forest")


def reach(rows: Sequence[ForestRow], axis: Axis) -> tuple[float, float]:
    """From where to where the axis goes: over all estimates, their finite bounds, the margins, and zero if it matters.

    >>> reach([ForestRow("snip", "supported", "", 96.0, 95.0, math.inf, None)], Axis("sparsity (%)", zero=False))
    (94.96, 96.2)
    """
    places = [
        v for row in rows for v in (row.estimate, row.low, row.high) if v is not None and math.isfinite(v)
    ]
    if axis.zero or not places:
        places += [0.0, *(side * (row.margin or 0.0) for row in rows for side in (-1, 1))]
    low, high = min(places), max(places)
    width = high - low or 1.0
    left = _OPEN if any(row.low == -math.inf for row in rows) else _ROOM
    right = _OPEN if any(row.high == math.inf for row in rows) else _ROOM
    return max(low - left * width, axis.within[0]), min(high + right * width, axis.within[1])


def _row(row: ForestRow, low: float, high: float, *, zero: bool) -> Html:
    def at(value: float) -> str:
        return f"{100 * min(1.0, max(0.0, (value - low) / (high - low))):.2f}%"

    parts: list[Html] = []
    if row.margin:
        left, right = at(-row.margin), at(row.margin)
        width = f"{float(right[:-1]) - float(left[:-1]):.2f}%"
        parts.append(tag("rect", class_="margin", x=left, width=width, y="0", height="100%"))
    if zero:
        parts.append(tag("line", class_="zero", x1=at(0), x2=at(0), y1="0", y2="100%"))
    if row.estimate is not None:
        if row.low is not None and row.high is not None:
            parts.append(tag("line", class_="interval", x1=at(row.low), x2=at(row.high), y1="50%", y2="50%"))
            parts += [_tip(end, at(end)) for end in (row.low, row.high) if math.isinf(end)]
        parts.append(_mark(row.kind, at(row.estimate)))
    return _svg(parts, f"{row.name}: {row.words}" if row.name else row.words)


def _tip(end: float, x: str) -> Html:
    """The head of an arrow at the edge that an open interval runs to."""
    return tag("svg", tag("path", d=_TIPS[end], class_="open"), x=x, y="50%", overflow="visible")


def _mark(kind: str, x: str) -> Html:
    """A full circle for what is supported, a diamond for what is contradicted, an open circle for all else."""
    if kind == "contradicted":
        return tag(
            "svg", tag("path", d="M0,-6L6,0L0,6L-6,0Z", class_="mark"), x=x, y="50%", overflow="visible"
        )
    return tag("circle", class_="mark", cx=x, cy="50%", r="4.5")


def _axis(low: float, high: float) -> Html:
    ticks = _ticks(low, high)
    texts = []
    for tick in ticks:
        x = f"{100 * (tick - low) / (high - low):.2f}%"
        texts.append(tag("text", f"{tick:.6g}".replace("-", "\u2212"), x=x, y="12"))
    return _svg(texts, "axis")


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high, zero among them."""
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough)
    return [round(i * step, 12) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _svg(parts: Sequence[Html], words: str) -> Html:
    return tag("span", tag("svg", *parts, role="img", aria_label=words), class_="plot")
