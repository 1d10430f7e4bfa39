"""How evidence is shown by its unit, on the page as on paper: figures in words, the axis, where an interval is open."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from disbud.claims.words import decimals, number
from disbud.report.forest import Axis, ForestRow
from disbud.report.words import percent

if TYPE_CHECKING:
    from disbud.study.findings import Cell


@dataclass(frozen=True)
class _Unit:
    """What is drawn is `factor` times the cell's numbers; `written` puts such a number, to so many digits, in words.

    `upwards` and `downwards` are said of an interval with one end, `unbounded` of one with none. `tested` means that a
    bound which is not there is one beyond what was tested, so that no interval is without both.
    """

    axis: Axis
    factor: float
    written: Callable[[float, int], str]
    upwards: str = "{} or more"
    downwards: str = "{} or less"
    unbounded: str = "no bounds"
    tested: bool = False


def _plain(value: float, digits: int) -> str:
    return number(value, "plain", digits).replace("-", "\u2212")


def _share(value: float, digits: int) -> str:
    return percent(value / 100, most=digits)


_UNITS = {
    "points": _Unit(Axis("difference (points)"), 100.0, _plain),
    "plain": _Unit(Axis("difference"), 1.0, _plain),
    "correlation": _Unit(Axis("rank correlation"), 1.0, _plain),
    "correlations": _Unit(Axis("difference of two rank correlations"), 1.0, _plain),
    "sparsity": _Unit(
        Axis("sparsity (%)", zero=False, within=(0.0, 100.0)), 100.0, _share,
        upwards="{} to beyond what was tested", downwards="below what was tested to {}",
        unbounded="no bounds in what was tested", tested=True,
    ),
}  # fmt: skip


def by_axis(cells: Iterable[Cell]) -> dict[Axis, list[ForestRow]]:
    """The cells as rows, those together that share an axis; a cell without an estimate stands with the first of them.

    >>> from disbud.claims import Verdict
    >>> from disbud.study import Cell
    >>> crossing = Cell("snip", Verdict.SUPPORTED, "", 0.9646, 0.9617, None, unit="sparsity")
    >>> [(axis.title, rows[0].high) for axis, rows in by_axis([crossing]).items()]
    [('sparsity (%)', inf)]
    """
    units = [(cell, _UNITS.get(cell.unit, _UNITS["plain"])) for cell in cells]
    rows = [(unit.axis, _row(cell, unit)) for cell, unit in units]
    first = next((axis for axis, row in rows if row.estimate is not None), Axis(""))
    found: dict[Axis, list[ForestRow]] = {}
    for axis, row in rows:
        found.setdefault(axis if row.estimate is not None else first, []).append(row)
    return found


def _row(cell: Cell, unit: _Unit) -> ForestRow:
    estimate, low, high, margin = (
        None if value is None else unit.factor * value
        for value in (cell.estimate, cell.low, cell.high, cell.margin)
    )
    kind = cell.verdict.value
    if estimate is None or not math.isfinite(estimate):
        return ForestRow(cell.name, kind, kind, None, None, None, None)
    if unit.tested or low is not None or high is not None:
        low, high = _end(low, -math.inf), _end(high, math.inf)
    words = _figures(estimate, low, high, unit)
    return ForestRow(cell.name, kind, words, estimate, low, high, margin if unit.axis.zero else None)


def _end(bound: float | None, beyond: float) -> float:
    return bound if bound is not None and math.isfinite(bound) else beyond


def _figures(estimate: float, low: float | None, high: float | None, unit: _Unit) -> str:
    """The estimate and its interval, to as many digits as what is known of its width gives sense to."""
    ends = [end for end in (low, high) if end is not None and math.isfinite(end)]
    known = [estimate, *ends]
    digits = decimals("plain", max(known) - min(known))
    shown = unit.written(estimate, digits)
    if unit.axis.zero and estimate > 0 and shown != unit.written(0.0, digits):
        shown = f"+{shown}"
    if low is None or high is None:
        return shown
    form = "{} to {}" if len(ends) == 2 else unit.unbounded
    if len(ends) == 1:
        form = unit.upwards if math.isfinite(low) else unit.downwards
    return f"{shown} ({form.format(*(unit.written(end, digits) for end in ends))})"
