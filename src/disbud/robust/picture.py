"""The pictures of the theory: the three panels of a trainable region, and the phases of an activation."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from disbud.errors import DisbudError
from disbud.robust.region import Region

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from disbud.theory import PhaseDiagram

_TITLES = {
    "ordered": "ordered phase",
    "edge": "edge of chaos",
    "rescaled": "edge of chaos, rescaled",
}


def draw(region: Region, path: str | os.PathLike[str] | Path) -> None:
    """Write the picture as PNG, SVG or PDF, by the name: one panel each, depth across, sparsity up, accuracy as colour.

    A crossed cell has a layer without weights, in every seed.

    >>> import tempfile, pathlib
    >>> from disbud.robust import Cell, Region, draw
    >>> from disbud.robust.region import Setting
    >>> region = Region(Setting(), (Cell("edge", 5, 0.5, 0, 0.9, 0),))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw(region, pathlib.Path(folder) / "region.png")
    ...     (pathlib.Path(folder) / "region.png").exists()
    True
    """
    import matplotlib

    panels, depths, sparsities = region.panels(), region.depths(), region.sparsities()
    if not panels:
        raise DisbudError("the region has no cells yet, so there is nothing to draw")
    figure = _figure(2.2 + 2.9 * len(panels), 3.5)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    colours = matplotlib.colormaps["viridis"].with_extremes(bad="white")
    for axis, panel in zip(axes, panels, strict=True):
        values = [
            [_or_nan(region.mean(panel, depth, sparsity)) for depth in depths] for sparsity in sparsities
        ]
        image = axis.imshow(values, origin="lower", aspect="auto", cmap=colours, vmin=0, vmax=1)
        axis.set_title(_TITLES[panel], fontsize=10)
        axis.set_xticks(range(len(depths)), [str(depth) for depth in depths])
        axis.set_yticks(range(len(sparsities)), [f"{100 * sparsity:g}" for sparsity in sparsities])
        axis.set_xlabel("hidden layers")
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        _cross(axis, region, panel)
    axes[0].set_ylabel("sparsity, %")
    bar = figure.colorbar(image, ax=list(axes), pad=0.02)
    bar.set_label("test accuracy")
    bar.outline.set_visible(False)
    figure.savefig(path, dpi=160)


def draw_phases(diagram: PhaseDiagram, path: str | os.PathLike[str] | Path) -> None:
    """Write the picture of the phases as PNG, SVG or PDF, by the name: chi as colour, the edge of chaos as a line.

    Above the line signals part from each other and gradients grow with depth (chaotic), below it they become alike and
    gradients vanish (ordered). Dotted lines are where gradients change by a factor of e in so many layers.

    >>> import tempfile, pathlib
    >>> from disbud import theory
    >>> from disbud.robust import draw_phases
    >>> diagram = theory.phase_diagram("tanh", sigma_b=[0.0, 0.3], sigma_w=[0.5, 2.0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw_phases(diagram, pathlib.Path(folder) / "phases.png")
    ...     (pathlib.Path(folder) / "phases.png").exists()
    True
    """
    import numpy as np

    if len(diagram.sigma_b) < 2 or len(diagram.sigma_w) < 2:
        raise DisbudError("a picture of phases needs at least two values of sigma_b and of sigma_w")
    logs = np.log(np.maximum(diagram.grid("chi").T, 1e-6))  # sigma_w up, sigma_b across
    figure = _figure(5.2, 3.8)
    axis = figure.subplots()
    bound = max(0.1, float(np.nanquantile(np.abs(logs), 0.95)))
    image = axis.pcolormesh(
        diagram.sigma_b, diagram.sigma_w, logs, cmap="PuOr_r", vmin=-bound, vmax=bound, shading="gouraud"
    )
    lines = axis.contour(
        diagram.sigma_b, diagram.sigma_w, logs, levels=sorted(s / d for d in _SCALES for s in (-1, 1)),
        colors="#444444", linewidths=0.8, linestyles="dotted",
    )  # fmt: skip
    axis.clabel(lines, fmt={level: f"{abs(1 / level):.0f} layers" for level in lines.levels}, fontsize=7)
    if logs.min() < 0 < logs.max():
        edge = axis.contour(
            diagram.sigma_b, diagram.sigma_w, logs, levels=[0], colors="black", linewidths=1.8
        )
        axis.clabel(edge, fmt={0: "edge of chaos"}, fontsize=8)
    axis.set_xlabel("sigma_b, deviation of the biases")
    axis.set_ylabel("sigma_w, of the weights times sqrt(fan-in)")
    axis.set_title(
        f"{diagram.activation}: chaotic above the edge of chaos (black), ordered below", fontsize=9
    )
    bar = figure.colorbar(image, ax=axis, pad=0.02)
    bar.set_label("log chi, by which gradients grow a layer")
    bar.outline.set_visible(False)
    figure.savefig(path, dpi=160)


_SCALES = (10, 5, 2)  # layers in which gradients change by a factor of e


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _cross(axis: object, region: Region, panel: str) -> None:
    for x, depth in enumerate(region.depths()):
        for y, sparsity in enumerate(region.sparsities()):
            cells = [c for c in region.cells if (c.panel, c.depth, c.sparsity) == (panel, depth, sparsity)]
            if cells and all(cell.empty for cell in cells):
                axis.plot(x, y, "x", color="white", markersize=6, markeredgewidth=1.2)  # type: ignore[attr-defined]


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
