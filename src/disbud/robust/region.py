"""The trainable region over depth and sparsity: ordered, on the edge of chaos, and on it with rescaling.

The picture of Hayou et al. 2021 (figure 1): how deep and how sparse a plain network may be and still be trained, by how
it is initialised. Cells are trained one by one, in processes; each is written down as soon as it is done, so that a run
that was killed goes on where it was.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from disbud.errors import DisbudError, unknown_name
from disbud.files import write_atomically

if TYPE_CHECKING:
    from disbud.origin import Json

# What each panel does to the weights: the phase they are drawn in, and whether they are rescaled.
PANELS: Mapping[str, tuple[str, bool]] = {
    "ordered": ("ordered", False),
    "edge": ("edge-of-chaos", False),
    "rescaled": ("edge-of-chaos", True),
}
DEPTHS = (5, 10, 20, 30, 45, 60, 80)
SPARSITIES = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Setting:
    """What all cells of a region share; a file of cells is of one setting.

    `method` is "sbp", "mbp" or "random" (uniform), `rescale` one of the ways of `theory.rescale_`. Depth counts the
    hidden layers, each of `width` units.

    >>> from disbud.robust.region import Setting
    >>> Setting(width=50).to_json()["width"]
    50
    """

    data: str = "digits"
    width: int = 100
    activation: str = "tanh"
    sigma_b: float = 0.2
    method: str = "sbp"
    rescale: str = "activations"
    recipe: str = "digits:epochs=10,lr=0.01"

    def __post_init__(self) -> None:
        from disbud.theory.rescale import HOW

        if self.method not in ("sbp", "mbp", "random"):
            raise unknown_name("way to prune for a region", self.method, ("sbp", "mbp", "random"))
        if self.rescale not in HOW:
            raise unknown_name("way to rescale", self.rescale, HOW)
        if isinstance(self.width, bool) or not isinstance(self.width, int) or self.width < 1:
            raise DisbudError(f"width is the number of units of each hidden layer, not {self.width!r}")

    def to_json(self) -> dict[str, Json]:
        """The settings as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Cell:
    """One trained network: where it lies, its test accuracy (None where it diverged), and its empty layers.

    >>> from disbud.robust import Cell
    >>> Cell("edge", depth=30, sparsity=0.9, seed=0, accuracy=0.97, empty=0).accuracy
    0.97
    """

    panel: str
    depth: int
    sparsity: float
    seed: int
    accuracy: float | None = field(compare=False, default=None)
    empty: int = field(compare=False, default=0)


@dataclass(frozen=True)
class Region:
    """The cells of a region, and the setting they were trained in.

    >>> from disbud.robust import Cell, Region
    >>> from disbud.robust.region import Setting
    >>> region = Region(Setting(), (Cell("edge", 5, 0.5, 0, 0.9), Cell("edge", 5, 0.5, 1, 0.8)))
    >>> round(region.mean("edge", 5, 0.5), 3)
    0.85
    """

    setting: Setting
    cells: tuple[Cell, ...]

    def mean(self, panel: str, depth: int, sparsity: float) -> float | None:
        """The mean accuracy over seeds, a run that diverged counting as 0; None where nothing was trained yet."""
        found = [
            cell.accuracy or 0.0
            for cell in self.cells
            if (cell.panel, cell.depth, cell.sparsity) == (panel, depth, sparsity)
        ]
        return statistics.fmean(found) if found else None

    def panels(self) -> list[str]:
        """The panels that have cells, in the order of the picture."""
        return [name for name in PANELS if any(cell.panel == name for cell in self.cells)]

    def depths(self) -> list[int]:
        """The depths trained, ascending."""
        return sorted({cell.depth for cell in self.cells})

    def sparsities(self) -> list[float]:
        """The sparsities trained, ascending."""
        return sorted({cell.sparsity for cell in self.cells})

    def trained(self, panel: str, *, above: float = 0.5) -> int:
        """In how many cells of a panel the mean accuracy is above this."""
        return sum(
            (self.mean(panel, depth, sparsity) or 0.0) > above
            for depth in self.depths()
            for sparsity in self.sparsities()
        )

    def __str__(self) -> str:
        total = len(self.depths()) * len(self.sparsities())
        counts = ", ".join(f"{panel} {self.trained(panel)} of {total}" for panel in self.panels())
        return f"accuracy above 50 % in {counts} cells ({self.setting.method}, {self.setting.activation})"


def trainable_region(
    path: str | os.PathLike[str],
    *,
    setting: Setting | None = None,
    depths: Sequence[int] = DEPTHS,
    sparsities: Sequence[float] = SPARSITIES,
    panels: Iterable[str] = tuple(PANELS),
    seeds: Sequence[int] = (0,),
    workers: int = 1,
    progress: Callable[[int, int, Cell], None] | None = None,
) -> Region:
    """Train every cell that the file at `path` does not hold yet, and return all that were asked for.

    The file is JSON, rewritten whole after each cell, so a run can be stopped at any time and started again; one with
    cells of another setting is refused. A seed draws the weights, the examples SBP looks at, and the order of training.

    >>> import tempfile, pathlib
    >>> from disbud import robust
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     region = robust.trainable_region(
    ...         pathlib.Path(folder) / "region.json", depths=[1], sparsities=[0.5], panels=["edge"],
    ...         setting=robust.region.Setting(recipe="digits:epochs=1", width=20),
    ...     )
    >>> len(region.cells)
    1
    """
    setting, target = setting or Setting(), Path(path)
    wanted = [
        Cell(panel, depth, sparsity, seed)
        for seed in seeds
        for depth in depths
        for sparsity in sparsities
        for panel in panels
    ]
    _check(wanted, workers)
    done = _read(target, setting)
    missing = [cell for cell in wanted if cell not in done]
    for cell in _trained(setting, missing, workers):
        done[cell] = cell
        _write(target, setting, done.values())
        if progress is not None:
            progress(sum(one in done for one in wanted), len(wanted), cell)
    return Region(setting, tuple(done[cell] for cell in wanted))


def read_region(path: str | os.PathLike[str]) -> Region:
    """The cells in a file, as many as there are."""
    setting, cells = _parsed(Path(path))
    return Region(setting, tuple(cells))


def _trained(setting: Setting, cells: Sequence[Cell], workers: int) -> Iterator[Cell]:
    if workers == 1 or len(cells) < 2:
        for cell in cells:
            yield train_cell(setting, cell)
        return
    # A fork of a process that has run torch can hang; a fresh one costs a second.
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(cells)), mp_context=fresh, initializer=_one_thread) as pool:
        jobs = [pool.submit(train_cell, setting, cell) for cell in cells]
        try:
            for job in as_completed(jobs):
                yield job.result()
        finally:
            for job in jobs:
                job.cancel()


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def train_cell(setting: Setting, cell: Cell) -> Cell:
    """Initialise, prune and train one network; where pruning empties a layer it is trained all the same."""
    from disbud.data import load
    from disbud.robust.prepared import prepared
    from disbud.training import train

    dataset = load(setting.data)
    with warnings.catch_warnings():
        # A grid starts at small sparsities on purpose.
        warnings.filterwarnings("ignore", "sparsity=.* removes")
        model, ticket = prepared(setting, cell, dataset)
    result = train(model, dataset, ticket=ticket, recipe=setting.recipe, seed=cell.seed)
    accuracy = None if result.diverged else result.accuracy
    return replace(cell, accuracy=accuracy, empty=len(ticket.empty_layers))


def _check(cells: Sequence[Cell], workers: int) -> None:
    for cell in cells:
        if cell.panel not in PANELS:
            raise unknown_name("panel", cell.panel, PANELS)
        if isinstance(cell.depth, bool) or not isinstance(cell.depth, int) or cell.depth < 1:
            raise DisbudError(f"a depth is a whole number of hidden layers, not {cell.depth!r}")
        if not 0 <= cell.sparsity < 1:
            raise DisbudError(f"a sparsity is the fraction removed, from 0 to below 1, not {cell.sparsity!r}")
    if not cells:
        raise DisbudError("a region needs at least one depth, sparsity, panel and seed")
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise DisbudError(f"workers is a number of processes, at least 1, not {workers!r}")


def _read(path: Path, setting: Setting) -> dict[Cell, Cell]:
    if not path.exists():
        return {}
    there, cells = _parsed(path)
    if there != setting:
        theirs, ours = there.to_json(), setting.to_json()
        odd = [f"{key} = {theirs[key]!r}, not {ours[key]!r}" for key in ours if theirs[key] != ours[key]]
        raise DisbudError(f"{path} holds cells of another setting: {'; '.join(odd)}; name another file")
    return {cell: cell for cell in cells}


def _parsed(path: Path) -> tuple[Setting, list[Cell]]:
    try:
        found = json.loads(path.read_text())
        return Setting(**found["setting"]), [Cell(**cell) for cell in found["cells"]]
    except OSError as error:
        raise DisbudError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise DisbudError(f"{path}: this is not a file of cells that disbud wrote ({error})") from error


def _write(path: Path, setting: Setting, cells: Iterable[Cell]) -> None:
    ordered = sorted(
        (asdict(cell) for cell in cells), key=lambda cell: [str(cell["panel"]), *list(cell.values())[1:4]]
    )
    lines = ",\n".join(json.dumps(cell) for cell in ordered)
    document = f'{{"setting": {json.dumps(setting.to_json())},\n"cells": [\n{lines}\n]}}\n'
    write_atomically(path, document.encode())
