"""`disbud theory region` and `phases`: the pictures of the theory, and the trainable region as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from disbud.cli import show
from disbud.cli.options import Json, check_count, check_writable
from disbud.cli.progress import Progress
from disbud.errors import DisbudError

if TYPE_CHECKING:
    from disbud.robust import Cell, Region


@Parameter(name="*")
@dataclass(frozen=True)
class Settings:
    """What all cells share."""

    data: Annotated[str, Parameter(help="A data set that `disbud data` lists.")] = "digits"
    activation: Annotated[str, Parameter(help="tanh, relu, gelu or silu.")] = "tanh"
    sigma_b: Annotated[float, Parameter(help="Deviation of the biases.")] = 0.2
    width: Annotated[int, Parameter(help="Units of each hidden layer.")] = 100
    method: Annotated[Literal["sbp", "mbp", "random"], Parameter(help="What prunes.")] = "sbp"
    rescale: Annotated[
        Literal["weights", "activations", "differences"], Parameter(help="How the last panel is rescaled.")
    ] = "activations"
    recipe: Annotated[str, Parameter(help="How each cell is trained.")] = "digits:epochs=10,lr=0.01"


_USUAL = Settings()


def region(
    path: Annotated[
        Path, Parameter(help="Where the cells are kept, as JSON; a run that was stopped goes on from it.")
    ],
    /,
    *,
    picture: Annotated[
        Path | None, Parameter(help="Draw the region here (.png, .svg, .pdf); needs matplotlib.")
    ] = None,
    depths: Annotated[str, Parameter(help="Hidden layers, as in 10+30.")] = "5+10+20+30+45+60+80",
    sparsities: Annotated[
        str, Parameter(help="Fractions removed, as in 0.5+0.9.")
    ] = "0.1+0.3+0.5+0.7+0.8+0.9+0.95",
    settings: Settings = _USUAL,
    seeds: Annotated[int, Parameter(help="Networks trained a cell.")] = 1,
    workers: Annotated[int, Parameter(help="Processes, of one thread each.")] = 2,
    json: Json = False,
) -> int:
    """Train a plain net at every depth and sparsity: ordered, on the edge of chaos, and on the edge with rescaling."""
    check_writable("PATH", path)
    check_writable("--picture", picture)
    check_count("--seeds", seeds)
    check_count("--workers", workers)
    layers = [int(value) for value in _numbers("--depths", depths, whole=True)]
    removed = _numbers("--sparsities", sparsities)
    from disbud.robust import draw, trainable_region
    from disbud.robust.region import Setting

    setting = Setting(**asdict(settings))
    with Progress() as progress:

        def tell(done: int, of: int, cell: Cell) -> None:
            progress.update(done / of, f"{cell.panel}, {cell.depth} layers, {cell.sparsity:.0%}")

        found = trainable_region(
            path, setting=setting, depths=layers, sparsities=removed, seeds=range(seeds), workers=workers,
            progress=tell,
        )  # fmt: skip
    if picture is not None:
        draw(found, picture)
    if json:
        show.write_json({"setting": setting.to_json(), "cells": [asdict(cell) for cell in found.cells]})
    else:
        _show(found)
        show.write(*([f"wrote {picture}"] if picture is not None else []))
    return 0


def _show(found: Region) -> None:
    for panel in found.panels():
        names = [f"{depth}" for depth in found.depths()]
        shown = show.table(f"{panel}: sparsity", *names, right=names)
        for sparsity in reversed(found.sparsities()):
            means = [found.mean(panel, depth, sparsity) or 0.0 for depth in found.depths()]
            shown.add_row(f"{sparsity:g}", *(f"{100 * mean:.0f}" for mean in means))
        show.write(shown)
    show.write(str(found))


def _numbers(option: str, text: str, *, whole: bool = False) -> list[float]:
    try:
        found = [float(part) for part in text.replace(",", "+").split("+")]
    except ValueError:
        raise DisbudError(f"{option} {text}: should be numbers joined by +, as in 0.5+0.9") from None
    if whole and not all(value.is_integer() for value in found):
        raise DisbudError(f"{option} {text}: should be whole numbers joined by +, as in 10+30")
    return found


def phases(
    activation: Annotated[str, Parameter(help="As in disbud theory.")],
    /,
    *,
    picture: Annotated[Path, Parameter(help="Where the picture goes (.png, .svg, .pdf).")],
) -> int:
    """Draw the phases of an activation over the deviations of biases and weights, with its edge of chaos."""
    check_writable("--picture", picture)
    import numpy as np

    from disbud.robust import draw_phases
    from disbud.theory import phase_diagram

    diagram = phase_diagram(activation, sigma_b=np.linspace(0, 0.5, 26), sigma_w=np.linspace(0.5, 3, 51))
    draw_phases(diagram, picture)
    show.write(f"wrote {picture}")
    return 0
