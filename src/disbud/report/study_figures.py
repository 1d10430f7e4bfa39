"""The main figures of a study for a paper: vector PDF, two columns wide, readable in grey."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from disbud.errors import DisbudError
from disbud.report.forest import reach
from disbud.report.plotted import interval
from disbud.report.study_numbers import (
    Overview,
    accuracies,
    apart,
    kept_one_in,
    mean,
    measured,
    setting_of,
)
from disbud.report.study_units import by_axis

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from disbud.report.forest import Axis, ForestRow
    from disbud.report.looks import Look
    from disbud.report.study_numbers import Mean
    from disbud.study.findings import Findings

_WIDTH = 6.9  # inches: two columns of a page of most journals and conferences
_PANEL = 2.3  # inches a row of panels is high
_ROW = 0.19  # inches a cell of a claim takes
_LONGEST, _LINE = 44, 120  # characters of a name, and of all names on a line
_STYLE: dict[Any, object] = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7.5, "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6,
    "lines.linewidth": 1.0, "lines.markersize": 4, "pdf.fonttype": 42, "legend.frameon": False,
    "font.family": "DejaVu Sans", "text.usetex": False, "text.parse_math": False,
}  # fmt: skip
Line = tuple[float, "Mean"]


def figures(findings: Findings, path: str | os.PathLike[str]) -> None:
    """Write the figures there is data for as the pages of a PDF: accuracy, interventions, claims, paths and nodes.

    Methods differ in marker and dashes as well as in colour, so that they can be told apart in grey.

    >>> import pathlib, tempfile
    >>> from disbud import report
    >>> from disbud.study import Trial
    >>> from disbud.study.findings import Findings
    >>> from disbud.study.record import Record
    >>> trial = Trial("lenet-300-100", "digits", "digits:epochs=2", "snip", 0.9)
    >>> records = (Record(trial, trial.identity, accuracy=0.91, loss=0.3),)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report.figures(Findings("", "", records, (), {}, "", ""), f"{folder}/first.pdf")
    ...     (pathlib.Path(folder) / "first.pdf").read_bytes()[:5]
    b'%PDF-'
    """
    import matplotlib
    from matplotlib.backends.backend_pdf import PdfPages

    from disbud.files import replacing

    with matplotlib.rc_context(_STYLE):
        made = list(_figures(findings))
        if not made:
            raise DisbudError(
                f"{findings.title or 'the study'} has no pruned trial that is done and keeps weights, and no claim "
                "with evidence, so there is nothing to draw; run it first"
            )
        # No date in the file: the same findings give the same bytes.
        with (
            replacing(path) as part,
            PdfPages(part, metadata={"CreationDate": None, "Title": findings.title}) as pdf,
        ):
            for figure in made:
                pdf.savefig(figure)


def _figures(findings: Findings) -> Iterator[Figure]:
    from disbud.report.looks import looks

    known = Overview(findings.records)
    found = looks(known.methods)
    if known.plain:
        yield _accuracy(known, found)
    if known.differences:
        yield _interventions(known, found)
    cells = [replace(c, name=_called(d.name, c.name)) for d in findings.decisions for c in d.cells]
    for axis, rows in by_axis(cells).items():
        drawn = [row for row in rows if row.estimate is not None]
        if drawn:
            yield _claims(drawn, axis)
    if any(measured(r, "paths", "log10_paths") is not None for r in known.plain):
        yield _plane(known, found)


def _accuracy(known: Overview, looks: dict[str, Look]) -> Figure:
    """A panel a setting: mean accuracy and 95 % t interval by method, the dense network as a band."""
    settings = {
        s: called for s, called in known.settings.items() if any(k[0] == s for k in known.plain_points)
    }
    figure, panels = _panels(list(settings.values()))
    for setting, axes in zip(settings, panels, strict=True):
        for place, method in enumerate(looks):
            lines = [
                (kept_one_in(s) * apart(known.sparsities, place, len(looks)), found)
                for s in known.sparsities
                if (found := accuracies(known.plain_points.get((setting, method, s), []))) is not None
            ]
            _draw(axes, lines, method, looks[method])
        dense = accuracies(known.dense.get(setting, []))
        if dense is not None:
            axes.axhline(100 * dense.value, color="0.45", linestyle="--", linewidth=0.8, zorder=0)
            if dense.low is not None and dense.high is not None:
                axes.axhspan(100 * dense.low, 100 * dense.high, color="0.9", zorder=-1)
        _sparsity_axis(axes, known)
    panels[0].set_ylabel("test accuracy (%)")
    _legend(figure, panels)
    return figure


def _interventions(known: Overview, looks: dict[str, Look]) -> Figure:
    """A panel an intervention and setting: accuracy with it minus without it, paired by seed."""
    pairs = list(dict.fromkeys((setting, altered) for setting, altered, _, _ in known.differences))
    several = len(known.settings) > 1
    figure, panels = _panels([f"{a}\n{known.settings[s]}" if several else a for s, a in pairs])
    for (setting, altered), axes in zip(pairs, panels, strict=True):
        for place, method in enumerate(looks):
            lines = [
                (kept_one_in(s) * apart(known.sparsities, place, len(looks)), found)
                for s in known.sparsities
                if (found := mean(known.differences.get((setting, altered, method, s), []))) is not None
            ]
            _draw(axes, lines, method, looks[method])
        axes.axhline(0, color="0.3", linewidth=0.6, zorder=0)
        _sparsity_axis(axes, known)
    panels[0].set_ylabel("difference (points)")
    _legend(figure, panels)
    return figure


def _claims(rows: Sequence[ForestRow], axis: Axis) -> Figure:
    """A row a cell of the evidence: its estimate, interval and margin."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, 0.6 + _ROW * len(rows)), layout="constrained")
    axes = figure.add_subplot(xlim=reach(rows, axis))
    if axis.zero:
        axes.axvline(0, color="0.3", linewidth=0.6)
    for place, row in enumerate(rows):
        if row.margin:
            axes.barh(place, 2 * row.margin, left=-row.margin, height=1, color="0.9", zorder=0)
        if row.low is not None and row.high is not None:
            interval(axes, place, (row.low, row.high), ink="0.1", width=1.1)
        assert row.estimate is not None  # the others have only words
        marker = "D" if row.kind == "contradicted" else "o"
        face = "0.1" if row.kind in ("supported", "contradicted") else "1"
        axes.plot(row.estimate, place, marker, color="0.1", markerfacecolor=face)
    axes.set_yticks(range(len(rows)), [_cut(row.name, _LONGEST) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, pad=6)
    axes.set_xlabel(axis.title)
    return figure


def _plane(known: Overview, looks: dict[str, Look]) -> Figure:
    """A panel a setting: each trial without intervention at its nodes and paths, the darker the more accurate."""
    from matplotlib import colormaps

    settings = {
        s: c for s, c in known.settings.items() if any(setting_of(r) == s and _placed(r) for r in known.plain)
    }
    figure, panels = _panels(list(settings.values()))
    greys = colormaps["Greys"].resampled(32)  # the bar of a finer one would be a picture in the file
    for setting, axes in zip(settings, panels, strict=True):
        mine = [r for r in known.plain if setting_of(r) == setting and _placed(r)]
        shades = [100 * (r.accuracy or 0.0) for r in mine]
        for method, look in looks.items():
            dots = [r for r in mine if r.trial.method == method]
            if dots:
                shown = axes.scatter(
                    [measured(r, "paths", "nodes") or 0 for r in dots],
                    [measured(r, "paths", "log10_paths") or 0 for r in dots],
                    c=[100 * (r.accuracy or 0.0) for r in dots], cmap=greys, vmin=2 * min(shades) - max(shades) - 1,
                    vmax=max(shades), marker=look.marker, s=16, edgecolors="0.2", linewidths=0.3, label=method,
                )  # fmt: skip
        bar = figure.colorbar(shown, ax=axes)
        bar.ax.set_ylim(min(shades) - 0.5, max(shades) + 0.01)
        bar.set_label("test accuracy (%)")
        axes.set_xlabel("effective nodes")
    panels[0].set_ylabel("effective paths (log10)")
    _legend(figure, panels)
    return figure


def _placed(record: object) -> bool:
    return all(measured(record, "paths", entry) is not None for entry in ("nodes", "log10_paths"))  # type: ignore[arg-type]


def _called(claim: str, cell: str) -> str:
    """A claim of one cell has no name for it."""
    return f"{claim}: {cell}" if cell else claim


def _panels(titles: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """A figure with a panel a title, three in a row."""
    from matplotlib.figure import Figure

    across = min(3, len(titles))
    down = math.ceil(len(titles) / across)
    figure = Figure(figsize=(_WIDTH, _PANEL * down), layout="constrained")
    panels = [figure.add_subplot(down, across, i) for i in range(1, len(titles) + 1)]
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, wrap=True)
    return figure, panels


def _draw(axes: Axes, lines: Sequence[Line], label: str, look: Look) -> None:
    if not lines:
        return
    xs, means = [x for x, _ in lines], [found for _, found in lines]
    axes.plot(
        xs, [100 * m.value for m in means], label=label, color=look.ink, marker=look.marker,
        linestyle="-" if look.dash == (1, 0) else (0, look.dash), markeredgewidth=0.3, markeredgecolor="0.1",
    )  # fmt: skip
    for x, m in lines:
        if m.low is not None and m.high is not None:
            axes.plot([x, x], [100 * m.low, 100 * m.high], color=look.ink, linewidth=0.7)


def _sparsity_axis(axes: Axes, known: Overview) -> None:
    """Logarithmic in 1 / density, labelled by sparsity."""
    ones = [kept_one_in(s) for s in known.sparsities]
    room = 1.15 / apart(known.sparsities, 0, len(known.methods))
    axes.set_xlim(
        ones[0] / room, ones[-1] * room
    )  # first: a single sparsity has no extent to find limits from
    axes.set_xscale("log")
    axes.set_xticks(ones, [f"{100 * s:.6g}" for s in known.sparsities])
    axes.minorticks_off()
    axes.set_xlabel("sparsity (%)")


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend under all panels, in as many columns as its longest name allows; the figure grows by its lines."""
    found: dict[str, Artist] = {}
    for axes in panels:
        found |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if not found:
        return
    names = [_cut(name, _LONGEST) for name in found]
    across = max(1, min(5, _LINE // (max(map(len, names)) + 8)))
    figure.set_figheight(figure.get_figheight() + 0.17 * math.ceil(len(names) / across))
    figure.legend(list(found.values()), names, loc="outside lower center", ncols=across)


def _cut(name: str, most: int) -> str:
    """The name, without its middle where it is too long for the figure."""
    half = (most - 1) // 2
    name = name.encode("utf-8", "replace").decode(
        "utf-8"
    )  # half of a surrogate pair has no glyph in any font
    return name if len(name) <= most else f"{name[:half]}\u2026{name[-half:]}"
