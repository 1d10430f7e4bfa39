"""Compiling exported C as strictly as it has to be, and running it: in this process, or sanitized in one of its own."""

from __future__ import annotations

import copy
import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import disbud
from compaction_oracle import at_random
from disbud.export import CSource, to_c
from disbud.seeds import generator

COMPILER = shutil.which("gcc") or shutil.which("cc")
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O2")
SANITIZED = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1")
STEP = """
    for (i = 0; i < {rows}; i++) {{
        static float input[{upper}_INPUTS], output[{upper}_OUTPUTS];
        if (fread(input, sizeof(float), {upper}_INPUTS, stdin) != {upper}_INPUTS)
            return 1;
        {name}_predict(input, output);
        fwrite(output, sizeof(float), {upper}_OUTPUTS, stdout);
    }}
"""

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler is there")


def run(found: CSource, inputs: Tensor, folder: Path, *, outputs: int) -> Tensor:
    """What the C computes for each row."""
    found.save(folder / "net.c")
    library = folder / f"net_{len(list(folder.iterdir()))}.so"
    compile_(folder / "net.c", library, "-shared", "-fPIC")
    predict = ctypes.CDLL(str(library)).net_predict
    made = torch.full((len(inputs), outputs), float("nan"))
    for row, out in zip(inputs.contiguous(), made, strict=True):
        predict(ctypes.c_void_p(row.data_ptr()), ctypes.c_void_p(out.data_ptr()))
    return made


def run_sanitized(cases: dict[str, tuple[CSource, Tensor]], folder: Path) -> Tensor:
    """All outputs of several networks, by one program that stops where memory or arithmetic is not as C has it."""
    steps = [STEP.format(name=name, upper=name.upper(), rows=len(rows)) for name, (_, rows) in cases.items()]
    body = f"#include <stdio.h>\nint main(void) {{\n    int i;{''.join(steps)}    return 0;\n}}\n"
    texts = [found.text for found, _ in cases.values()]
    (folder / "main.c").write_text("\n".join([*texts, body]), encoding="ascii")
    compile_(folder / "main.c", folder / "main", *SANITIZED)
    given = b"".join(rows.numpy().tobytes() for _, rows in cases.values())
    done = subprocess.run([folder / "main"], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return torch.frombuffer(bytearray(done.stdout), dtype=torch.float32)


def compile_(source: Path, target: Path, *flags: str) -> None:
    assert COMPILER is not None
    done = subprocess.run(
        [COMPILER, *STRICT, *flags, str(source), "-o", str(target), "-lm"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def expected(model: nn.Module, ticket: disbud.Ticket, inputs: Tensor) -> Tensor:
    """What torch computes with the ticket's weights, in the model's type, one input at a time."""
    ticket.apply_(model)
    rows = inputs.to(next(model.parameters()).dtype)
    with torch.no_grad():
        model.eval()
        return torch.stack([model(row.unsqueeze(0)).reshape(-1) for row in rows])


def settle(model: nn.Module, ticket: disbud.Ticket, inputs: Tensor) -> None:
    """Give BatchNorm the statistics that the pruned network has on these inputs, so that signals keep their size."""
    pruned = copy.deepcopy(model).train()
    ticket.apply_(pruned)
    for module in pruned.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        pruned(inputs.to(next(model.parameters()).dtype))
    for (_, buffer), (_, its) in zip(model.named_buffers(), pruned.named_buffers(), strict=True):
        buffer.copy_(its)


def inputs_for(example: Tensor, count: int) -> Tensor:
    return torch.randn(count, *example.shape[1:], generator=generator(0, "test inputs"))


def apart(found: Tensor, want: Tensor) -> float:
    """The largest relative distance of a row."""
    return float(((found.to(want) - want).norm(dim=1) / want.norm(dim=1).clamp_min(1e-6)).max())


def agrees(
    model: nn.Module, example: Tensor, folder: Path, *, density: float = 0.4, count: int = 20
) -> CSource:
    """Export at random density and hold the C to torch; gives the source."""
    ticket = at_random(model, density, 0)
    found = to_c(model, ticket, example=example)
    inputs = inputs_for(example, count)
    want = expected(model, ticket, inputs)
    assert apart(run(found, inputs, folder, outputs=want.shape[1]), want) < 1e-5
    return found
