"""Exported C against torch, one input at a time on one thread: interleaved runs, medians; and the bytes of both.

Times are seconds of the processor, to which other programs on a busy machine add little.

    python benchmarks/export_speed.py
"""

from __future__ import annotations

import ctypes
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch

import disbud
from disbud.compaction import compact
from disbud.export import to_c, to_safetensors
from disbud.models import build

NETWORKS = (
    ("lenet-300-100", (1, 28, 28)),
    ("lenet-5", (1, 28, 28)),
    ("resnet20", (3, 32, 32)),
    ("vgg16-bn", (3, 32, 32)),
)
FLAGS = {"-O2": ("-O2",), "-O3 -march=native": ("-O3", "-march=native")}
ROUNDS, INPUTS = 15, 10


def main() -> None:
    torch.set_num_threads(1)
    for name, shape in NETWORKS:
        for sparsity in (0.95, 0.98):
            measure(name, shape, sparsity)


def measure(name: str, shape: tuple[int, ...], sparsity: float) -> None:
    """Print the sizes and the median times of one network."""
    model, example = build(name, input_shape=shape).eval(), torch.zeros(1, *shape)
    ticket = disbud.prune(model, "synflow", sparsity=sparsity, example=example)
    with tempfile.TemporaryDirectory() as folder:
        single = to_c(model, ticket, example=example)
        half = to_c(model, ticket, example=example, values="fp16")
        files = {
            v: to_safetensors(model, ticket, f"{folder}/s", values=v).table_bytes for v in ("fp32", "fp16")
        }
        ticket.apply_(model)
        small = compact(model, ticket, example=example).model.eval()
        runs = {"torch": model, "torch, compacted": small}
        runs |= {f"C {label}": compiled(single.text, flags, folder) for label, flags in FLAGS.items()}
        inputs = torch.randn(INPUTS, *shape)
        took: dict[str, list[float]] = {label: [] for label in runs}
        for _ in range(ROUNDS):
            for label, run in runs.items():
                took[label].append(seconds(run, inputs))
    dense = single.report.dense_bytes
    print(
        f"{name} at {sparsity:.0%}: C tables {single.report.table_bytes / dense:.3f} (fp16 "
        f"{half.report.table_bytes / dense:.3f}) of {dense:,} bytes, RAM {single.report.ram_bytes:,}, "
        f"multiply-adds {single.report.multiply_adds:,}; safetensors {files['fp32'] / dense:.4f} (fp16 "
        f"{files['fp16'] / dense:.4f})"
    )
    for label, times in took.items():
        print(f"  {label:<20} {1e3 * statistics.median(times):8.3f} ms an input")


def compiled(text: str, flags: tuple[str, ...], folder: str) -> object:
    """The C as a function of this process."""
    source, library = Path(folder) / "net.c", Path(folder) / f"net{len(flags)}.so"
    source.write_text(text, encoding="ascii")
    subprocess.run(
        ["cc", "-std=c99", *flags, "-shared", "-fPIC", str(source), "-o", str(library), "-lm"], check=True
    )
    return ctypes.CDLL(str(library)).net_predict


def seconds(run: object, inputs: torch.Tensor) -> float:
    """The time of one input, over all of them."""
    out = torch.zeros(10)
    with torch.inference_mode():
        began = time.process_time()
        for i in range(len(inputs)):
            if isinstance(run, torch.nn.Module):
                run(inputs[i : i + 1])
            else:
                run(ctypes.c_void_p(inputs[i].data_ptr()), ctypes.c_void_p(out.data_ptr()))  # type: ignore[operator]
    return (time.process_time() - began) / len(inputs)


if __name__ == "__main__":
    main()
