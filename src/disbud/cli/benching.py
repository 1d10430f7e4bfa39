"""`disbud bench`: which way a pruned network runs fastest on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import RenderableType
from rich.text import Text

from disbud.cli import show
from disbud.cli.options import COMMON, Classes, Common, InputShape, Model, check_count, shape_of
from disbud.cli.progress import Progress
from disbud.errors import DisbudError

if TYPE_CHECKING:
    from disbud.acceleration import Bench, Timing
    from disbud.ticket import Ticket


def bench(
    model: Model,
    ticket: Annotated[Path, Parameter(help="The file of a ticket.")],
    /,
    *,
    batch: Annotated[int, Parameter(help="Inputs of a batch.")] = 64,
    rounds: Annotated[int, Parameter(help="How often each way is timed.")] = 7,
    classes: Classes = None,
    input_shape: InputShape = None,
    common: Common = COMMON,
) -> int:
    """Time a pruned network dense, compacted and by sparse kernels, and say which way is fastest here."""
    check_count("--batch", batch)
    check_count("--rounds", rounds)
    from disbud.cli.networks import network, use_threads
    from disbud.ticket import Ticket

    use_threads(common.threads)
    import torch

    from disbud.acceleration import bench as timed

    loaded = Ticket.load(ticket)
    net = network(model, classes=classes, input_shape=shape_of(input_shape))
    if net.shape is None:
        raise DisbudError("a benchmark sends inputs through the model: give --input-shape, as in 3x32x32")
    built = net.build_for(loaded, seed=None, weights=None)
    with Progress() as progress:
        found = timed(
            built, loaded, example=torch.zeros(batch, *net.shape), rounds=rounds, progress=progress.update
        )
    if common.json:
        show.write_json({"model": model, "ticket": str(ticket), **found.to_json()})
        return 0
    show.write(*_tell(model, loaded, found, net.shape))
    return 0


def _tell(model: str, ticket: Ticket, found: Bench, shape: tuple[int, ...]) -> list[RenderableType]:
    left = found.multiply_adds_left
    share = "" if left is None else f", {left:.1%} of the multiply-adds left"
    head = (
        f"{model}, {ticket.sparsity:.2%} of {ticket.total:,} weights removed by {ticket.origin.method}{share}"
    )
    threads = f"{found.threads} thread" + ("" if found.threads == 1 else "s")
    size = f"batches of {found.batch} x {'x'.join(map(str, shape))}, {threads}; medians, ratios within rounds"
    numbers = ("step ms", "x float32", "x bfloat16", "forward ms", "x float32 ", "x bfloat16 ")
    table = show.table("route", *numbers, "", right=numbers, folding=[""])
    best = {what: found.best(what).name for what in ("step", "forward") if found.is_timed(what)}
    for route in found.routes:
        cells = [
            *_cells(route.step, is_best=route.name == best.get("step")),
            *_cells(route.forward, is_best=route.name == best.get("forward")),
        ]
        table.add_row(route.name, *cells, Text(route.refused or "", style=show.FAINT))
    return [head, size, "", table, "", found.recommendation("step"), found.recommendation("forward")]


def _cells(timing: Timing | None, *, is_best: bool) -> list[Text]:
    if timing is None:
        return [Text("")] * 3
    style = show.BEST if is_best else ""
    ratios = (timing.against_dense, timing.against_bfloat16)
    return [
        Text(f"{timing.seconds * 1e3:.2f}", style=style),
        *(Text(f"{ratio:.2f}", style=style) for ratio in ratios),
    ]
