"""The picture of balance: tickets in the plane of nodes and paths, each between random masks and SynFlow."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from disbud.errors import DisbudError
from disbud.files import write_atomically
from disbud.report.looks import Look, looks
from disbud.report.plotted import picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from disbud.measures import Table

_Spot = tuple[float, float]
_KINDS = ("png", "svg", "pdf")
_ACROSS, _WIDTH, _HEIGHT, _LINE = 3, 4.2, 3.8, 0.2
_END = "#1d2125"  # of ends that several tickets share; no method has this colour
_ENDS = {"random": ("o", "random masks"), "synflow": ("v", "SynFlow")}


def picture_kind(path: str | os.PathLike[str]) -> str:
    """The kind of picture that a file's name asks for."""
    kind = os.path.splitext(os.fspath(path))[1].removeprefix(".").lower()
    if kind not in _KINDS:
        raise DisbudError(f"{os.fspath(path)}: a picture's name ends in .png, .svg or .pdf")
    return kind


def draw_balance(panels: Mapping[str, Sequence[tuple[str, Table]]], path: str | os.PathLike[str]) -> None:
    """Write the picture as PNG, SVG or PDF, by the name: under each title the balances given, by the tickets' names.

    Each ticket is a mark; a thin line joins its ends, small hollow marks: random masks and SynFlow with as many weights
    in each layer. The dotted line is where nodes saturate, at those of the dense network.

    >>> import disbud, pathlib, tempfile, torch
    >>> from disbud.diagnosis import balance
    >>> from disbud.report.balance_picture import draw_balance
    >>> model = disbud.models.build("mlp:hidden=40+40", classes=5, input_shape=(20,))
    >>> ticket = disbud.prune(model, "synflow", sparsity=0.9, example=torch.zeros(1, 20))
    >>> found = balance(model, ticket, example=torch.zeros(1, 20), draws=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw_balance({"a small network": [("synflow", found)]}, pathlib.Path(folder) / "plane.svg")
    ...     (pathlib.Path(folder) / "plane.svg").stat().st_size > 1000
    True
    """
    kind = picture_kind(path)
    measured = {
        title: [(name, table) for name, table in found if len(table)] for title, found in panels.items()
    }
    names = list(dict.fromkeys(name for found in measured.values() for name, _ in found))
    if not names:
        raise DisbudError("no ticket has a balance to draw; give at least one that was measured")
    write_atomically(path, picture(lambda: _figure(measured, looks(names)), kind))


def _figure(panels: Mapping[str, Sequence[tuple[str, Table]]], found: Mapping[str, Look]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(_ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    lines = len(found) + len(_ENDS) + 1
    longest = max(len(name) for name in found)
    size = (_WIDTH * across + 0.6 + 0.075 * max(longest, 14), max(_HEIGHT * down, 0.4 + _LINE * lines))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    for number, (title, tickets) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(down, across, number)
        _panel(axes, tickets, found)
        _label(axes, title, tickets)
    _legend(figure, panels, found)
    return figure


def _panel(axes: Axes, tickets: Sequence[tuple[str, Table]], found: Mapping[str, Look]) -> None:
    """The ends first, those of several tickets once, then the tickets above them."""
    shared: dict[tuple[_Spot, _Spot], set[str]] = {}
    for name, table in tickets:
        shared.setdefault((_spot(table, "random"), _spot(table, "synflow")), set()).add(name)
    for (random, synflow), names in shared.items():
        ink = found[min(names)].ink if len(names) == 1 else _END
        if _is_placed(random) and _is_placed(synflow):
            axes.plot(*zip(random, synflow, strict=True), color=ink, linewidth=0.7, alpha=0.7, zorder=1)
        for spot, (marker, _) in zip((random, synflow), _ENDS.values(), strict=True):
            if _is_placed(spot):
                axes.plot(
                    *spot,
                    marker,
                    color=ink,
                    markersize=4,
                    markerfacecolor="white",
                    markeredgewidth=0.8,
                    zorder=2,
                )
    for name, table in tickets:
        spot = _spot(table, "ticket")
        if _is_placed(spot):
            look = found[name]
            axes.plot(
                *spot,
                look.marker,
                color=look.ink,
                markersize=8,
                markeredgecolor="white",
                markeredgewidth=0.6,
                zorder=3,
            )


def _label(axes: Axes, title: str, tickets: Sequence[tuple[str, Table]]) -> None:
    """The title, what is known of the dense network, and which tickets have no place."""
    said = [title]
    if tickets:
        nodes, paths = _spot(tickets[0][1], "dense")
        said.append(f"dense: {nodes:,.0f} nodes, log10 paths {paths:.1f}")
        axes.axvline(nodes, color=_END, linewidth=0.8, linestyle=":", zorder=0)
    axes.set_title("\n".join(said), fontsize=9)
    cut = list(dict.fromkeys(name for name, table in tickets if not _is_placed(_spot(table, "ticket"))))
    none = f"\nno path is left by {', '.join(cut)}" if cut else ""
    axes.set_xlabel(f"effective nodes{none}", fontsize=9, wrap=True)
    axes.set_ylabel("effective paths (log10)", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.margins(0.08)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(
    figure: Figure, panels: Mapping[str, Sequence[tuple[str, Table]]], found: Mapping[str, Look]
) -> None:
    """Names beside the panels, from those with the most paths down, as the marks are met."""
    from matplotlib.lines import Line2D

    heights: dict[str, float] = {}
    for tickets in panels.values():
        for name, table in tickets:
            heights[name] = max(heights.get(name, -math.inf), _spot(table, "ticket")[1])
    handles = [
        Line2D(
            [], [], linestyle="", markersize=7, marker=found[name].marker, color=found[name].ink, label=name
        )
        for name in sorted(heights, key=lambda name: -heights[name])
    ]
    handles += [
        Line2D(
            [],
            [],
            marker=marker,
            color=_END,
            linewidth=0.7,
            markersize=4,
            markerfacecolor="white",
            label=called,
        )
        for marker, called in _ENDS.values()
    ]
    handles.append(Line2D([], [], color=_END, linewidth=0.8, linestyle=":", label="dense nodes"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8)


def _spot(table: Table, place: str) -> _Spot:
    row = next(row for row in table if row["place"] == place)
    return float(str(row["nodes"])), float(str(row["log10_paths"]))


def _is_placed(spot: _Spot) -> bool:
    return math.isfinite(spot[1])
