"""A pruned network as one self-contained C99 file."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from torch import nn

from disbud.errors import DisbudError, unknown_name
from disbud.export.emission import Emitter
from disbud.export.folding import folded
from disbud.export.memory import Memory, placed
from disbud.export.operations import Program, View
from disbud.export.pruned import dense_bytes, pruned
from disbud.export.sizes import SizeReport
from disbud.export.source import Source
from disbud.export.storage import VALUES
from disbud.export.tracing import traced
from disbud.files import write_atomically
from disbud.isolation import Example
from disbud.origin import package_version
from disbud.ticket import Ticket

Values: TypeAlias = Literal["fp32", "fp16"]


@dataclass(frozen=True)
class CSource:
    """The file's text, and what it takes.

    >>> import disbud, torch
    >>> from disbud.export import to_c
    >>> model = torch.nn.Linear(2, 1)
    >>> ticket = disbud.Ticket.from_masks({"weight": torch.tensor([[1, 0]])})
    >>> found = to_c(model, ticket, example=torch.zeros(1, 2), name="small")
    >>> "void small_predict(const float *input, float *output)" in found.text
    True
    """

    text: str = field(repr=False)
    report: SizeReport

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file whole or not at all."""
        try:
            write_atomically(path, self.text.encode("ascii"))
        except OSError as error:
            raise DisbudError(f"{path}: the C file cannot be written: {error.strerror or error}") from error


def to_c(
    model: nn.Module, ticket: Ticket, *, example: Example, name: str = "net", values: Values = "fp32"
) -> CSource:
    """The model in evaluation, with its present weights on the ticket, as one C99 file for a single input.

    The file has `void NAME_predict(const float *input, float *output)` and the macros NAME_INPUTS, NAME_OUTPUTS and
    NAME_RAM_BYTES; it needs libm and no heap. Dead channels are removed first where that is exact, BatchNorm is folded
    into the layer before it, and each weight is stored in the form that takes the fewest bytes. values="fp16" halves
    the weights; sums stay in single precision. What cannot be written as C is refused by name. The model is left as
    it is.

    >>> import disbud, torch
    >>> from disbud.export import to_c
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.ReLU())
    >>> mask = torch.eye(3).expand(2, 1, 3, 3)
    >>> ticket, example = disbud.Ticket.from_masks({"0.weight": mask}), torch.zeros(1, 1, 6, 6)
    >>> print(to_c(model, ticket, example=example).report)
    tables 100 bytes (104.2% of the dense fp32), RAM 128 bytes, multiply-adds 96
    layer     form          kept  values  indices  other  multiply-adds
    0.weight  8-bit places     6      24        8     68             96
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise DisbudError(f"name {name!r}: should be a name in C, of letters, digits and _, as in net")
    if values not in VALUES:
        raise unknown_name("type of values called", values, VALUES)
    small, note = pruned(model, ticket, example)
    program = folded(traced(small, example))
    memory = placed(program)
    source = Source(name)
    emitter = Emitter(source, program, lambda view: _place(program, memory, view, name), values)
    layers = tuple(emitter.emit(operation) for operation in program.operations)
    if program.copies:
        source.calls.append(
            "    for (i = 0; i < " + f"{name.upper()}_OUTPUTS; i++)\n        output[i] = input[i];"
        )
    report = SizeReport(layers, dense_bytes(model), 4 * memory.floats, note)
    return CSource(source.text(_head(program, report, name), _body(program, memory, source)), report)


def _place(program: Program, memory: Memory, view: View, name: str) -> str:
    if view.array == program.input.array:
        return "input"
    if view.array == program.output.array:
        return "output"
    offset = memory.offsets[view.array]
    return f"{name}_memory + {offset}" if offset else f"{name}_memory"


def _head(program: Program, report: SizeReport, name: str) -> str:
    shapes = ["x".join(map(str, view.shape)) for view in (program.input, program.output)]
    upper = name.upper()
    prelude = Source(name)
    prelude.function("prelude")
    return f"""\
/* Written by disbud {package_version()}: {shapes[0]} -> {shapes[1]}, C99.
 *
 * void {name}_predict(const float *input, float *output);
 *
 * input and output are rows of {upper}_INPUTS and {upper}_OUTPUTS numbers, axes in torch's order, that do not overlap.
 * What lies between is kept in static arrays, so that two threads may not call it at once. Links with -lm.
 * Tables: {report.table_bytes} bytes. Multiply-adds: {report.multiply_adds}.
 */
#define {upper}_INPUTS {program.input.size}
#define {upper}_OUTPUTS {program.output.size}
#define {upper}_RAM_BYTES {report.ram_bytes}

""" + prelude.text("", []).strip()


def _body(program: Program, memory: Memory, source: Source) -> list[str]:
    name = source.prefix
    return [
        *([f"static float {name}_memory[{memory.floats}];", ""] if memory.floats else []),
        f"void {name}_predict(const float *input, float *output);",
        "",
        f"void {name}_predict(const float *input, float *output)",
        "{",
        *(["    int i;"] if program.copies else []),
        *source.calls,
        "}",
    ]
