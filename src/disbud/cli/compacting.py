"""`disbud compact`: take the dead channels out of a pruned network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import RenderableType
from rich.text import Text

from disbud.cli import show
from disbud.cli.options import (
    COMMON,
    Classes,
    Common,
    InputShape,
    Model,
    WorkFailed,
    check_writable,
    shape_of,
)
from disbud.errors import DisbudError

if TYPE_CHECKING:
    from torch import Tensor

    from disbud.compaction import Account, Compacted

_NAME = "small.safetensors"


def compact(
    model: Model,
    ticket: Annotated[Path, Parameter(help="The file of a ticket.")],
    /,
    *,
    out: Annotated[
        Path,
        Parameter(
            name=("--out", "-o"), help=f"Where the small network goes: a file, or a folder for {_NAME} in it."
        ),
    ],
    weights: Annotated[
        Path | None,
        Parameter(
            help="Weights (safetensors), as of a trained network; else the ticket's start, or the seed's."
        ),
    ] = None,
    seed: Annotated[
        int | None, Parameter(help="Draws the model's weights; else the seed the ticket was made with.")
    ] = None,
    onnx: Annotated[
        Path | None, Parameter(help="Write the small network as ONNX too, for any number of rows.")
    ] = None,
    classes: Classes = None,
    input_shape: InputShape = None,
    common: Common = COMMON,
) -> int:
    """Take out the channels that a ticket leaves dead: a smaller network that computes the same."""
    from disbud.cli.networks import network, use_threads
    from disbud.compaction import compact as compacted
    from disbud.ticket import Ticket

    use_threads(common.threads)
    target = out / _NAME if out.is_dir() else out
    check_writable("--out", target)
    if onnx is not None:
        _check_onnx(onnx, target)
    loaded = Ticket.load(ticket)
    net = network(model, classes=classes, input_shape=shape_of(input_shape))
    example = net.example()
    if example is None:
        raise DisbudError("compaction sends an input through the model: give --input-shape, as in 3x32x32")
    built = net.build_for(loaded, seed=seed, weights=weights)
    found = compacted(built, loaded, example=example)
    found.save(target)
    if onnx is not None:
        _write_onnx(found, example, onnx)
    written = [str(path) for path in (target, onnx) if path is not None]
    if common.json:
        show.write_json({"model": model, "ticket": str(ticket), "wrote": written, **_json(found.account)})
        return 0
    show.write(*_tell(found.account), f"wrote {' and '.join(written)}")
    return 0


def _check_onnx(onnx: Path, target: Path) -> None:
    """Raise before anything is written where the network could not be written as ONNX too."""
    from disbud.compaction.onnx import check_onnx

    check_writable("--onnx", onnx)
    if onnx.resolve() == target.resolve():
        raise DisbudError(
            f"--onnx {onnx}: this is where --out goes as well; name another file, such as {target.with_suffix('.onnx')}"
        )
    check_onnx()


def _write_onnx(found: Compacted, example: Tensor, path: Path) -> None:
    from disbud.compaction import to_onnx

    try:
        to_onnx(found.model, path, example=example)
    except OSError as error:
        raise WorkFailed(f"{path}: the network cannot be written: {error.strerror or error}") from error


def _tell(account: Account) -> list[RenderableType]:
    heads = ("inputs", "outputs", "weights", "multiply-adds")
    table = show.table("layer", *heads, "dead, and kept", right=heads, folding=["dead, and kept"])
    for row in account.layers:
        cells = [_change(pair) for pair in (row.inputs, row.outputs, row.weights, row.multiply_adds)]
        why = "; ".join(f"{count:,}: {reason}" for reason, count in row.dead_but_kept.items())
        table.add_row(row.name, *cells, Text(why, style=show.FAINT))
    before, after = account.multiply_adds
    fewer = f", {before / after:.1f} times fewer" if 0 < after < before else ""
    line = f"parameters {_change(account.parameters)}; multiply-adds {_change(account.multiply_adds)}{fewer}"
    return [table, "", line]


def _change(pair: tuple[int, int]) -> str:
    before, after = pair
    return f"{before:,}" if before == after else f"{before:,} -> {after:,}"


def _json(account: Account) -> dict[str, object]:
    layers = [
        {
            "layer": row.name,
            "inputs": row.inputs,
            "outputs": row.outputs,
            "weights": row.weights,
            "multiply_adds": row.multiply_adds,
            "dead_but_kept": dict(row.dead_but_kept),
        }
        for row in account.layers
    ]
    return {"parameters": account.parameters, "multiply_adds": account.multiply_adds, "layers": layers}
