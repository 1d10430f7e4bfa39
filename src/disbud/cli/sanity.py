"""`disbud sanity`: what does a pruning method take from its data, its mask, its weights?"""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.text import Text

from disbud.cli import show
from disbud.cli.options import COMMON, Common, StoreFolder, check_count, check_writable
from disbud.cli.progress import Progress
from disbud.cli.training import RECIPE_HELP
from disbud.errors import DisbudError

if TYPE_CHECKING:
    from disbud.claims import Interval
    from disbud.sanity import Row, SanityCheck, Shared

_STYLES = {"pass": "green", "fail": "yellow", "undecided": show.FAINT, "uninformative": show.BAD}


def sanity(
    method: Annotated[
        str,
        Parameter(
            help="A method that `disbud methods` lists, with settings as in synflow:rounds=10, or your own function of "
            "(model, batches) to scores or a ticket, as package.module:function."
        ),
    ],
    /,
    *,
    model: Annotated[str, Parameter(help="The network, as in disbud prune.")] = "lenet-300-100",
    data: Annotated[str, Parameter(help="The data set, as in disbud prune.")] = "digits",
    sparsity: Annotated[
        float | None, Parameter(help="Fraction of the weights to remove, as in 0.98.")
    ] = None,
    recipe: Annotated[str | None, Parameter(help=f"How to train. {RECIPE_HELP}.")] = None,
    seeds: Annotated[
        int, Parameter(help="How many seeds; each draws data, weights, mask and order anew.")
    ] = 5,
    until_decided: Annotated[
        bool, Parameter(help="Add seeds, up to 30, while a check is undecided.", show_default=False)
    ] = False,
    workers: Annotated[int | None, Parameter(help="Processes; as many as cores unless said.")] = None,
    store: StoreFolder = None,
    plot: Annotated[
        Path | None, Parameter(help="Draw differences and intervals into this .png, .svg or .pdf file.")
    ] = None,
    common: Common = COMMON,
) -> int:
    """Check a method's sanity: do its tickets train worse from corrupted data, with rearranged masks, moved values?"""
    if sparsity is None:
        raise DisbudError("give --sparsity, the fraction of the weights to remove, as in --sparsity 0.98")
    check_count("--seeds", seeds)
    check_writable("--plot", plot)
    from disbud.cli.networks import use_threads
    from disbud.sanity import sanity_check

    use_threads(common.threads)
    with Progress() as progress:
        found = sanity_check(
            model, method, data, sparsity=sparsity, recipe=recipe, seeds=seeds, until_decided=until_decided,
            workers=workers, store=store, tell=progress.update,
        )  # fmt: skip
    if common.json:
        show.write_json(found.to_json())
    else:
        _show(found)
    if plot is not None:
        from disbud.report.sanity_picture import draw_checks

        draw_checks([found.to_json()], plot)
    return 0


def _show(found: SanityCheck) -> None:
    trial = found.trial
    head = f"{trial.method} at sparsity {trial.sparsity:g}: {trial.model} on {trial.data}, {trial.recipe}"
    show.write(Text(f"{head}; {found.seeds} seeds, {found.margin}", style="bold"), "")
    numbers = ("accuracy %", "difference", "interval", "overlap", "by chance")
    table = show.table("", *numbers, "check", right=numbers)
    for name in ("dense", "as it is"):
        table.add_row(Text(name if name == "dense" else trial.method), _accuracy(found.accuracies[name]))
    if found.redrawn is not None:
        table.add_row("another true batch", "", "", "", *_overlap(found.redrawn))
    for row in found.rows:
        table.add_row(*_cells(row))
    table.add_row("uniform random", _accuracy(found.accuracies["uniform random"]))
    show.write(table, "", Text(found.words, style="bold"))
    show.write(
        Text("fail: it trains as well when this is altered, so the method does not use it", style=show.FAINT)
    )


def _cells(row: Row) -> list[Text]:
    return [
        Text(row.check),
        Text(_accuracy(row.accuracies)),
        Text(f"{100 * row.judgement.estimate:+.2f}"),
        Text(_bounds(row.judgement.interval)),
        *_overlap(row.shared),
        Text(row.outcome, style=_STYLES[row.outcome]),
    ]


def _bounds(interval: Interval) -> str:
    """Where the difference lies; differences that are all equal, of few seeds, set no bounds to it."""
    if math.isinf(interval.low) and math.isinf(interval.high):
        return "no bounds"
    return f"{100 * interval.low:+.2f} to {100 * interval.high:+.2f}"


def _overlap(shared: Shared | None) -> tuple[Text, Text]:
    """The overlap with the method's own masks, and that by chance."""
    if shared is None:
        return Text(""), Text("")
    return Text(f"{shared.iou:.3f}"), Text(f"{shared.chance:.3f}", style=show.FAINT)


def _accuracy(values: tuple[float, ...]) -> str:
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.2f}{spread}"
