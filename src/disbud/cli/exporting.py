"""`disbud export`: a pruned network as C, as ONNX, or as a file of its kept weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from rich.console import RenderableType

from disbud.cli import show
from disbud.cli.options import (
    COMMON,
    Classes,
    Common,
    Data,
    InputShape,
    Model,
    WorkFailed,
    check_writable,
    shape_of,
)
from disbud.errors import DisbudError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from disbud.export import SizeReport
    from disbud.ticket import Ticket

_ENDINGS = {"c": "c", "onnx": "onnx", "safetensors": "small.safetensors"}


def export(
    model: Model,
    ticket: Annotated[Path, Parameter(help="The file of a ticket.")],
    /,
    *,
    to: Annotated[
        Literal["c", "onnx", "safetensors"],
        Parameter(
            help="c: one C99 file with weights and loops. onnx: the network without its dead channels. "
            "safetensors: the kept weights and where they lie."
        ),
    ],
    out: Annotated[
        Path | None, Parameter(name=("--out", "-o"), help="Where it goes; else MODEL.c and the like.")
    ] = None,
    weights: Annotated[
        Path | None,
        Parameter(help="Weights (safetensors), as trained; else the ticket's start, or the seed's."),
    ] = None,
    seed: Annotated[
        int | None, Parameter(help="Draws the model's weights; else the seed the ticket was made with.")
    ] = None,
    data: Data = None,
    classes: Classes = None,
    input_shape: InputShape = None,
    values: Annotated[
        Literal["fp32", "fp16"], Parameter(help="How weights are stored; not in ONNX.")
    ] = "fp32",
    name: Annotated[str, Parameter(help="What the names in the C file begin with.")] = "net",
    details: Annotated[bool, Parameter(show_default=False, help="Show the sizes layer by layer.")] = False,
    common: Common = COMMON,
) -> int:
    """Write a pruned network for a small device or another runtime, and say what it takes."""
    from disbud.cli.networks import load_data, network, use_threads
    from disbud.ticket import Ticket

    use_threads(common.threads)
    if to == "onnx" and values != "fp32":
        raise DisbudError(
            f"--values {values}: ONNX is written in the network's own type; leave the option out"
        )
    out = out or Path(f"{re.sub(r'[^A-Za-z0-9._-]+', '-', model)}.{_ENDINGS[to]}")
    check_writable("--out", out)
    loaded = Ticket.load(ticket)
    shape = shape_of(input_shape)
    net = network(model, dataset=load_data(data) if data else None, classes=classes, input_shape=shape)
    built = net.build_for(loaded, seed=seed, weights=weights)
    report = _written(built, loaded, out, example=net.example(), to=to, values=values, name=name)
    sizes = _sizes(out, built)
    if common.json:
        named = {"model": model, "ticket": str(ticket), "wrote": str(out)}
        show.write_json(named | sizes | (_json(report) if report else {}))
        return 0
    table: list[RenderableType] = [_table(report), ""] if report and details else []
    show.write(*table, *_told(sizes, report), f"wrote {out}")
    return 0


def _written(
    model: nn.Module,
    ticket: Ticket,
    out: Path,
    *,
    example: Tensor | None,
    to: str,
    values: Literal["fp32", "fp16"],
    name: str,
) -> SizeReport | None:
    """Write the file; what it takes layer by layer, where that is known."""
    from disbud.export import to_c, to_onnx, to_safetensors

    if to == "safetensors":
        return to_safetensors(model, ticket, out, values=values)
    if example is None:
        raise DisbudError(f"--to {to}: an input is sent through the model: give --input-shape, as in 3x32x32")
    if to == "c":
        found = to_c(model, ticket, example=example, name=name, values=values)
        found.save(out)
        return found.report
    try:
        to_onnx(model, ticket, out, example=example)
    except OSError as error:
        raise WorkFailed(f"{out}: the network cannot be written: {error.strerror or error}") from error
    return None


def _sizes(out: Path, model: nn.Module) -> dict[str, int]:
    dense = 4 * sum(parameter.numel() for parameter in model.parameters())
    return {"file_bytes": out.stat().st_size, "dense_bytes": dense}


def _told(sizes: dict[str, int], report: SizeReport | None) -> list[str]:
    """The sizes in words: of C that of its tables, since the file is text."""
    dense = sizes["dense_bytes"]
    if report is None or not report.multiply_adds:
        held = sizes["file_bytes"]
        return [f"file {held:,} bytes, {held / dense:.1%} of the dense fp32 parameters ({dense:,})"]
    held = report.table_bytes
    lines = [
        f"tables {held:,} bytes of flash, {held / dense:.1%} of the dense fp32 parameters ({dense:,})",
        f"RAM {report.ram_bytes:,} bytes; multiply-adds {report.multiply_adds:,}; the code comes on top",
    ]
    return lines + ([report.note] if report.note else [])


def _table(report: SizeReport) -> RenderableType:
    heads = ("kept", "values", "indices", "other", "multiply-adds")
    table = show.table("layer", "form", *heads, right=heads)
    for row in report.layers:
        if row.name or row.table_bytes:
            numbers = (row.kept, row.value_bytes, row.index_bytes, row.other_bytes, row.multiply_adds)
            table.add_row(row.name or row.kind, row.form, *(f"{number:,}" for number in numbers))
    return table


def _json(report: SizeReport) -> dict[str, object]:
    layers = [
        {
            "layer": row.name,
            "kind": row.kind,
            "form": row.form,
            "kept": row.kept,
            "value_bytes": row.value_bytes,
            "index_bytes": row.index_bytes,
            "other_bytes": row.other_bytes,
            "multiply_adds": row.multiply_adds,
        }
        for row in report.layers
    ]
    return {
        "table_bytes": report.table_bytes,
        "ram_bytes": report.ram_bytes,
        "multiply_adds": report.multiply_adds,
        "note": report.note,
        "layers": layers,
    }
