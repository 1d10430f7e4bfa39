"""The picture of sanity checks: how much worse tickets train when something about them is altered, with intervals."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from disbud.errors import DisbudError
from disbud.files import write_atomically
from disbud.report.balance_picture import picture_kind
from disbud.report.plotted import interval, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from disbud.origin import Json

_INK = {"pass": "#0072b2", "fail": "#c04a00", "undecided": "#8a9097", "uninformative": "#8a9097"}
_MEANING = {
    "fail": "no worse: what is altered is not needed (fail)",
    "pass": "worse: it is needed (pass)",
    "undecided": "undecided",
}
_ACROSS, _WIDTH, _ROW = 4, 2.9, 0.26
_LEAST_SPAN = 2.0  # points
_ROOM, _OPEN = 0.03, 0.12  # of the span: where all intervals end, and where arrows need a place


def draw_checks(
    checks: Sequence[Mapping[str, Json]], path: str | os.PathLike[str], *, titles: Sequence[str] = ()
) -> None:
    """Write the picture as PNG, SVG or PDF, by the name: a panel a check as `SanityCheck.to_json` gives it.

    Dots are mean differences from the ticket as it is, bars their intervals, the band the margin. An interval without
    an end, as where all differences are equal, goes to the edge.

    >>> import pathlib, tempfile
    >>> from disbud.report.sanity_picture import draw_checks
    >>> row = {"check": "random labels", "difference": -0.01, "low": -0.02, "high": 0.0, "outcome": "undecided"}
    >>> document = {"trial": {"method": {"name": "snip"}, "sparsity": 0.9}, "margin": 0.005, "checks": [row]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw_checks([document], pathlib.Path(folder) / "checks.svg")
    ...     (pathlib.Path(folder) / "checks.svg").stat().st_size > 1000
    True
    """
    if not checks:
        raise DisbudError("there is no check to draw; give at least one")
    kind = picture_kind(path)
    write_atomically(path, picture(lambda: _figure(checks, titles), kind))


def _figure(checks: Sequence[Mapping[str, Json]], titles: Sequence[str]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(str(row["check"]) for check in checks for row in _rows(check)))
    across = min(_ACROSS, len(checks))
    down = math.ceil(len(checks) / across)
    size = (1.4 + _WIDTH * across, (1.1 + _ROW * len(names)) * down + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(down, across, sharex=len(checks) > 1, sharey=True, squeeze=False)
    grid[0, 0].set_xlim(*_limits(checks))  # first: intervals without an end are drawn to it
    for axes in grid.flat[len(checks) :]:
        axes.set_visible(False)
    for number, (axes, check) in enumerate(zip(grid.flat, checks, strict=False)):
        _panel(axes, check, names)
        axes.set_title(titles[number] if titles else _title(check), fontsize=10)
    for axes in grid.flat[max(0, len(checks) - across) : len(checks)]:  # those with no panel below
        axes.set_xlabel("difference in accuracy, points", fontsize=9)
        axes.tick_params(axis="x", labelbottom=True)
    handles = [
        figure.axes[0].plot([], [], "o", color=_INK[kind], label=said)[0] for kind, said in _MEANING.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _panel(axes: Axes, check: Mapping[str, Json], names: Sequence[str]) -> None:
    margin = 100 * float(str(check["margin"]))
    axes.axvspan(-margin, margin, color="#e9ecef", zorder=0, linewidth=0)
    axes.axvline(0, color="#5a5f66", linewidth=0.8)
    for row in _rows(check):
        y = names.index(str(row["check"]))
        ink = _INK[str(row["outcome"])]
        interval(axes, y, _ends(row), ink=ink, width=1.6)
        axes.plot(100 * float(str(row["difference"])), y, "o", color=ink, markersize=5)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, pad=6)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _limits(checks: Sequence[Mapping[str, Json]]) -> tuple[float, float]:
    """So wide that every estimate shows, and every interval as far as it has ends."""
    rows = [row for check in checks for row in _rows(check)]
    places = [place for row in rows for place in (*_ends(row), 100 * float(str(row["difference"])))]
    finite = list(filter(math.isfinite, places))
    low, high = min([*finite, -_LEAST_SPAN]), max([*finite, _LEAST_SPAN])
    room = (_ROOM if len(finite) == len(places) else _OPEN) * (high - low)
    return low - room, high + room


def _ends(row: Mapping[str, Json]) -> tuple[float, float]:
    """In points; what the command writes as JSON has null for an infinite end."""
    low, high = row["low"], row["high"]
    return (
        -math.inf if low is None else 100 * float(str(low)),
        math.inf if high is None else 100 * float(str(high)),
    )


def _title(check: Mapping[str, Json]) -> str:
    trial = check["trial"]
    assert isinstance(trial, Mapping)
    method = trial["method"]
    name = method["name"] if isinstance(method, Mapping) else method
    return f"{name}, {100 * float(str(trial['sparsity'])):g} %"


def _rows(check: Mapping[str, Json]) -> list[Mapping[str, Json]]:
    rows = check["checks"]
    assert isinstance(rows, Sequence)
    return [row for row in rows if isinstance(row, Mapping)]
