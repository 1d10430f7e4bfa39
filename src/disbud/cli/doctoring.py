"""`disbud doctor`: which methods leave a network that can be trained, told before any training."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import RenderableType
from rich.text import Text

from disbud.cli import show
from disbud.cli.balancing import NO_BALANCE, Balancing, show_balance
from disbud.cli.options import COMMON, Classes, Common, Data, InputShape, Model, Weights, WorkFailed, shape_of
from disbud.cli.progress import Progress
from disbud.errors import DisbudError

if TYPE_CHECKING:
    from disbud.diagnosis import Diagnosis
    from disbud.diagnosis.doctor import Case
    from disbud.diagnosis.signs import Signs

_STYLES = {"green": "green", "yellow": "yellow", "red": show.BAD, "failed": show.BAD}
SIGNS = ("effective", "empty", "dead units", "log10 paths", "nodes", "multiply-adds")


def doctor(
    model: Model,
    /,
    *,
    sparsity: Annotated[
        float | None, Parameter(help="Fraction of the weights that each method removes, as in 0.98.")
    ] = None,
    methods: Annotated[
        list[str] | None,
        Parameter(
            help="A method, with settings as in synflow:rounds=10; may be given several times. Else all."
        ),
    ] = None,
    data: Data = None,
    seed: Annotated[int, Parameter(help="Draws the model's weights, the examples, and the tickets.")] = 0,
    weights: Weights = None,
    classes: Classes = None,
    input_shape: InputShape = None,
    balancing: Balancing = NO_BALANCE,
    common: Common = COMMON,
) -> int:
    """Forecast, without training, which methods leave a network that can be trained at this sparsity, and why."""
    if sparsity is None:
        raise DisbudError("give --sparsity, the fraction of the weights to remove, as in --sparsity 0.98")
    balancing.check()
    from disbud.cli.networks import load_data, network, use_threads
    from disbud.diagnosis import doctor as examine

    use_threads(common.threads)
    dataset = load_data(data) if data else None
    net = network(model, dataset=dataset, classes=classes, input_shape=shape_of(input_shape))
    example = net.example()
    if example is None:
        raise DisbudError(
            "the doctor sends signals through the model: give --input-shape, as in 3x32x32, or --data"
        )
    asked = [name for text in methods or [] for name in ([text] if ":" in text else text.split(","))]
    with Progress() as progress:
        found = examine(
            net.build(seed, weights),
            sparsity=sparsity,
            methods="all" if asked in ([], ["all"]) else asked,
            example=example,
            batches=None if dataset is None else dataset.batches(seed=seed),
            seed=seed,
            balance=balancing.wanted,
            tell=lambda done, of, name: progress.update(done / of, name),
        )
    if common.json:
        show.write_json(_json(found, model))
    else:
        _show(found, model, seed, data)
    if all(case.failure for case in found.cases):
        raise WorkFailed("no method made a ticket")
    balanced = [(case.method, case.balance) for case in found.cases if case.balance is not None]
    balancing.draw({f"{model}, sparsity {found.sparsity:g}": balanced})
    return 0


def _show(found: Diagnosis, model: str, seed: int, data: str | None) -> None:
    on = f" on {data}" if data else ""
    show.write(
        Text(f"{model}{on} at sparsity {found.sparsity:g}, seed {seed}; nothing is trained", style="bold"), ""
    )
    table = show.table(
        "method", "forecast", *SIGNS, "gradient", "seconds", right=[*SIGNS, "gradient", "seconds"], folding=["method"]
    )  # fmt: skip
    table.add_row(Text("dense", style=show.FAINT), "", *sign_cells([found.dense]), "1", "")
    for case in found.cases:
        table.add_row(
            case.method, Text(case.verdict, style=_STYLES[case.verdict]), *_cells(case, found.dense)
        )
    show.write(table, "")
    for remark in found.remarks:
        show.write(Text.assemble((f"{remark.method}: ", _STYLES[remark.level]), remark.words))
    balanced = [(case.method, [case.balance]) for case in found.cases if case.ticket and case.balance]
    if balanced:
        show_balance(balanced)
    show.write(Text(f"look safe: {', '.join(found.safe) or 'none'}", style="bold"))
    if data is None:
        show.write(Text("methods that look at data need --data, as in --data digits", style=show.FAINT))


def sign_cells(read: Sequence[Signs]) -> list[RenderableType]:
    """Under the heads of `SIGNS`, what was read off one ticket or, on average, off several."""

    def mean(of: Callable[[Signs], float]) -> float:
        return statistics.fmean(map(of, read))

    empty, dead = mean(lambda one: len(one.empty_layers)), mean(lambda one: one.dead_units)
    paths = mean(lambda one: one.log10_paths)
    return [
        f"{mean(lambda one: one.effective_sparsity):.2%}",
        Text(f"{empty:g}" if empty else "", style=show.BAD),
        f"{dead:.0%}" if dead else "",
        "none" if paths == -math.inf else f"{paths:.1f}",
        f"{mean(lambda one: one.nodes):,.0f}",
        f"{mean(lambda one: one.multiply_adds):.0%}",
    ]


def _cells(case: Case, dense: Signs) -> list[RenderableType]:
    if case.signs is None:
        return [*[Text("")] * (len(SIGNS) + 1), f"{case.seconds:.1f}"]
    gradient = case.signs.gradient / dense.gradient if dense.gradient else 0.0
    return [*sign_cells([case.signs]), f"{gradient:.2g}", f"{case.seconds:.1f}"]


def _json(found: Diagnosis, model: str) -> dict[str, object]:
    return {
        "model": model,
        "sparsity": found.sparsity,
        "safe": list(found.safe),
        "methods": [
            {
                **row,
                "failure": case.failure,
                **({} if case.balance is None else {"plane": case.balance.to_json()}),
                "findings": [{"level": finding.level, "words": finding.words} for finding in case.findings],
            }
            for row, case in zip(found.table, found.cases, strict=True)
        ],
    }
