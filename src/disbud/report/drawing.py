"""What the charts of every page share: the style sheet's colours, percentages on an axis, layers over each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt

ONE, TWO, BAD, FAINT, TRACK = "var(--one)", "var(--two)", "var(--bad)", "var(--faint)", "var(--line)"
PERCENT = "format(100 * datum.value, '.9~f') + '\u00a0%'"
Row = Mapping[str, str | float | int | None]


def layered(parts: Sequence[alt.Chart], height: int) -> alt.LayerChart:
    """The parts over each other, as wide as the place the page gives them."""
    return alt.LayerChart(
        layer=list(parts),
        width="container",
        height=height,
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
    )


def inline(rows: Sequence[Row]) -> alt.InlineData:
    """The rows as data of one chart's own."""
    return alt.InlineData(values=[dict(row) for row in rows])
