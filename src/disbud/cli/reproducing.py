"""`disbud reproduce`: the papers that disbud grew from, each run by one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from disbud.cli import show
from disbud.cli.options import StoreFolder, check_writable
from disbud.cli.reporting import FILES, Files
from disbud.cli.studying import RUNNING, Running, do
from disbud.errors import DisbudError
from disbud.files import write_atomically
from disbud.reproductions.catalogue import CATALOGUE

_NAMES = "; ".join(f"{name}: {entry.summary}" for name, entry in CATALOGUE.items())


def reproduce(
    name: Annotated[str, Parameter(help=f"Which: {_NAMES}.")],
    /,
    *,
    quick: Annotated[bool, Parameter(show_default=False, help="On digits, in minutes.")] = False,
    full: Annotated[
        bool, Parameter(show_default=False, help="As in the paper; days on a processor.")
    ] = False,
    data: Annotated[str | None, Parameter(help="Other data, as `disbud data` lists them.")] = None,
    model: Annotated[str | None, Parameter(help="Another model, as `disbud models` lists them.")] = None,
    recipe: Annotated[str | None, Parameter(help="Another recipe; else that of the data.")] = None,
    seeds: Annotated[int | None, Parameter(help="How many seeds.")] = None,
    write: Annotated[
        Path | None, Parameter(help="Only write the study file, to be changed and run by `disbud study run`.")
    ] = None,
    store: StoreFolder = None,
    files: Files = FILES,
    running: Running = RUNNING,
) -> int:
    """Run a paper's study and decide its claims; without --quick or --full, on drawn shapes, within an hour."""
    from disbud.reproductions import reproduction

    if quick and full:
        raise DisbudError("--quick and --full are two sizes; give one of them, or neither")
    size = "quick" if quick else "full" if full else "default"
    work = reproduction(name, size=size, data=data, model=model, recipe=recipe, seeds=seeds)
    if write is not None:
        check_writable("--write", write)
        write_atomically(write, work.text.encode())
        show.say(f"wrote {write}: {len(work.trials())} trials, {len(work.form.claim)} claims")
        return 0
    return do(work, store=store, files=files, running=running)
