"""The three-panel picture of a trainable region."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from disbud.errors import DisbudError
from disbud.robust.region import Region

if TYPE_CHECKING:
    from pathlib import Path

_TITLES = {
    "ordered": "ordered phase",
    "edge": "edge of chaos",
    "rescaled": "edge of chaos, rescaled",
}


def draw(region: Region, path: str | os.PathLike[str] | Path) -> None:
    """Write the picture as PNG, SVG or PDF, by the name: one panel each, depth across, sparsity up, accuracy as colour.

    A crossed cell has a layer without weights, in every seed. It needs matplotlib.

    >>> import tempfile, pathlib
    >>> from disbud.robust import Cell, Region, draw
    >>> from disbud.robust.region import Setting
    >>> region = Region(Setting(), (Cell("edge", 5, 0.5, 0, 0.9, 0),))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw(region, pathlib.Path(folder) / "region.png")
    ...     (pathlib.Path(folder) / "region.png").exists()
    True
    """
    try:
        import matplotlib
    except ImportError as error:
        raise DisbudError("drawing a region needs matplotlib: pip install matplotlib") from error
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels, depths, sparsities = region.panels(), region.depths(), region.sparsities()
    if not panels:
        raise DisbudError("the region has no cells yet, so there is nothing to draw")
    figure = Figure(figsize=(2.2 + 2.9 * len(panels), 3.5), layout="constrained")
    FigureCanvasAgg(figure)
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


def _cross(axis: object, region: Region, panel: str) -> None:
    for x, depth in enumerate(region.depths()):
        for y, sparsity in enumerate(region.sparsities()):
            cells = [c for c in region.cells if (c.panel, c.depth, c.sparsity) == (panel, depth, sparsity)]
            if cells and all(cell.empty for cell in cells):
                axis.plot(x, y, "x", color="white", markersize=6, markeredgewidth=1.2)  # type: ignore[attr-defined]


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
