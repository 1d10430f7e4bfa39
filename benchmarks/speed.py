"""What disbud.accelerate takes off a training step and off inference, against torch's own dense code.

One thread. Every run of ours is timed between two of each dense model, each after an untimed one of its own, and a
ratio is the median of such pairs; the dense model is in the faster of its two memory formats. Times are seconds of the
processor, to which other programs on a busy machine add less than to those of the clock; they still share caches and
the memory's pace. Images of 32 pixels.

    python benchmarks/speed.py                    all tables
    python benchmarks/speed.py vgg11 synflow      some: vgg11, resnet18, synflow, inference, threads, memory, parts
    python benchmarks/speed.py --calibrate        the prices of the cost model, fitted on this machine
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy
import torch
from scipy.optimize import nnls
from torch import Tensor, nn
from torch.nn import functional as F

import disbud
from disbud.acceleration import accelerate
from disbud.acceleration.layers import DENSE, SPARSE, Met, layer_of
from disbud.acceleration.measuring import seconds as seconds_of_layer
from disbud.acceleration.planning import work_of
from disbud.acceleration.weights import thin
from disbud.compaction import compact
from disbud.kernels import library
from disbud.measures import cost
from disbud.models import build
from disbud.seeds import generator

SPARSITIES = (0.90, 0.95, 0.98, 0.99)
# The goal of each table, against dense float32 and dense bfloat16.
GOALS = {
    "vgg11": ((4.4, 6.5, 10.0, 12.0), (2.4, 3.6, 5.5, 6.8)),
    "resnet18": ((4.3, 6.0, 9.0, 11.0), None),
    "synflow": ((3.2, 4.6, 7.5, 12.0), (1.7, 2.4, 3.9, 6.2)),
    "inference": ((2.5, 4.5, 8.0, 10.0), None),
}
SPARSE_ROUTES = {"sparse": "float32", "sparse bfloat16": "bfloat16"}
EXAMPLE = torch.zeros(1, 3, 32, 32)
FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
Run = Callable[[], object]


def main() -> None:
    reader = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    reader.add_argument("tables", nargs="*", help=", ".join((*GOALS, "threads", "memory", "parts")))
    reader.add_argument("--pairs", type=int, default=7, help="how often each side runs")
    reader.add_argument("--calibrate", action="store_true")
    reader.add_argument("--peak-of", help=argparse.SUPPRESS)
    asked = reader.parse_args()
    torch.set_num_threads(1)
    if asked.peak_of:
        show_peak(asked.peak_of)
        return
    kernels = library()
    print(
        f"torch {torch.__version__}, {platform.machine()}, kernels {kernels.instructions if kernels else 'none'}, "
        f"one thread of {os.cpu_count()}, {asked.pairs} pairs, load {os.getloadavg()[0]:.1f}"
    )
    if asked.calibrate:
        calibrate()
        return
    for name in asked.tables or (*GOALS, "threads", "memory", "parts"):
        print(f"\n{name}: {TABLES[name].__doc__}", flush=True)
        TABLES[name](asked.pairs)
    print(f"\nload when it ended: {os.getloadavg()[0]:.1f}")


# The tables


def vgg11(pairs: int) -> None:
    """VGG-11-BN, a training step, batch 64, uniform masks, the first convolution and the head whole."""
    training_table("vgg11", "vgg11-bn", pairs)


def resnet18(pairs: int) -> None:
    """ResNet-18 with the CIFAR stem, a training step, batch 64, uniform masks, the first convolution and head whole."""
    training_table("resnet18", "resnet18", pairs)


def training_table(table: str, network: str, pairs: int) -> None:
    model = build(network)
    dense = dense_runs(model, step, 64)
    for place, sparsity in enumerate(SPARSITIES):
        ticket = uniform(model, sparsity)
        routes = {
            name: step(
                accelerate(model, ticket, example=images(64), plan="model", activations=stored), images(64)
            )
            for name, stored in SPARSE_ROUTES.items()
        }
        show(table, place, sparsity, left(model, ticket), dense, routes, pairs)


def synflow(pairs: int) -> None:
    """VGG-11-BN, a training step, batch 64, SynFlow tickets of all layers, by each route."""
    model = build("vgg11-bn")
    dense = dense_runs(model, step, 64)
    for place, sparsity in enumerate(SPARSITIES):
        ticket = disbud.prune(model, "synflow", sparsity=sparsity, example=EXAMPLE)
        small = compact(model, ticket, example=EXAMPLE).model
        routes = {
            "sparse": step(accelerate(model, ticket, example=images(64), plan="model"), images(64)),
            **{
                f"{name}, compact": step(
                    accelerate(
                        model, ticket, example=images(64), plan="model", compact=True, activations=stored
                    ),
                    images(64),
                )
                for name, stored in SPARSE_ROUTES.items()
            },
            **{f"compact {name}": run for name, run in dense_runs(small, step, 64).items()},
        }
        show("synflow", place, sparsity, left(model, ticket), dense, routes, pairs)


def inference(pairs: int) -> None:
    """VGG-11-BN, inference, batch 16, random masks with ERK densities."""
    model = build("vgg11-bn").eval()
    dense = {"float32": dense_runs(model, passing, 16)["float32"]}
    for place, sparsity in enumerate(SPARSITIES):
        ticket = disbud.prune(model, "random", sparsity=sparsity, densities="erk", seed=0)
        fast = accelerate(model, ticket, example=images(16), plan="model", for_training=False)
        show(
            "inference",
            place,
            sparsity,
            left(model, ticket),
            dense,
            {"sparse": passing(fast, images(16))},
            pairs,
        )


def threads(pairs: int) -> None:
    """A training step, batch 64, uniform masks: how many times as fast two threads are by the clock."""
    for network in ("vgg11-bn", "resnet18"):
        model = build(network)
        for sparsity in SPARSITIES:
            fast = accelerate(model, uniform(model, sparsity), example=images(64), plan="model")
            print(f"  {network} {sparsity:.0%}: {scaling(step(fast, images(64)), pairs)}", flush=True)
        x = images(64).to(memory_format=torch.channels_last)
        dense = step(copy.deepcopy(model).to(memory_format=torch.channels_last), x)
        print(f"  {network} dense: {scaling(dense, pairs)}", flush=True)


def scaling(run: Run, pairs: int) -> str:
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(1 + pairs):
        for count, found in times.items():
            torch.set_num_threads(count)
            run()
            begun = time.perf_counter()
            run()
            found.append(time.perf_counter() - begun)
    torch.set_num_threads(1)
    ratio = statistics.median(one / two for one, two in zip(times[1][1:], times[2][1:], strict=True))
    medians = ", ".join(f"{statistics.median(found[1:]) * 1e3:.0f} ms" for found in times.values())
    return f"{ratio:.2f} ({medians})"


def memory(pairs: int) -> None:
    """VGG-11-BN, training, batch 64: megabytes of resident memory at the peak, above model and batch."""
    for what in ("dense", *map(str, SPARSITIES)):
        code = [sys.executable, __file__, "--peak-of", what]
        print(subprocess.run(code, capture_output=True, text=True, check=True).stdout.strip())


def parts(pairs: int) -> None:
    """VGG-11-BN, batch 64, uniform masks, layer by layer: explain(on=batch)."""
    model = build("vgg11-bn")
    for sparsity in SPARSITIES[1:3]:
        fast = accelerate(model, uniform(model, sparsity), example=images(64), plan="model")
        print(f"\n{sparsity:.0%} sparse\n{fast.explain(on=images(64))}")


TABLES: dict[str, Callable[[int], None]] = {
    function.__name__: function for function in (vgg11, resnet18, synflow, inference, threads, memory, parts)
}

# What is compared


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=generator(0, "benchmark"))


def uniform(model: nn.Module, sparsity: float) -> disbud.Ticket:
    """Random masks of one density in every convolution but the first."""
    _, *others = (name for name, m in model.named_modules() if isinstance(m, nn.Conv2d))
    return disbud.prune(
        model,
        "random",
        sparsity=sparsity,
        densities="uniform",
        include=[f"{n}.weight" for n in others],
        seed=0,
    )


def left(model: nn.Module, ticket: disbud.Ticket) -> float:
    """The share of the multiply-adds that the ticket leaves."""
    table = cost(model, ticket, example=EXAMPLE)
    return table.multiply_adds_masked / table.multiply_adds


def step(model: nn.Module, x: Tensor, dtype: torch.dtype = torch.float32) -> Run:
    labels, model = torch.arange(len(x)) % 10, model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def run() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = model(x)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return run


def passing(model: nn.Module, x: Tensor, dtype: torch.dtype = torch.float32) -> Run:
    model = model.eval()

    def run() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            model(x)

    return run


def dense_runs(model: nn.Module, make: Callable[..., Run], batch: int) -> dict[str, Run]:
    """The dense model in float32 and bfloat16, each in the memory format that is faster here."""
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        runs = {
            name: make(
                copy.deepcopy(model).to(memory_format=form), images(batch).to(memory_format=form), dtype
            )
            for name, form in FORMATS.items()
        }
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(3):
            for name, run in runs.items():
                times[name].append(seconds(run))
        best = min(times, key=lambda name: statistics.median(times[name]))
        found[str(dtype).removeprefix("torch.")] = runs[best]
        print(f"  dense {dtype}: {best}, {statistics.median(times[best]) * 1e3:.0f} ms", flush=True)
    return found


def show(
    table: str,
    place: int,
    sparsity: float,
    share: float,
    dense: dict[str, Run],
    routes: dict[str, Run],
    pairs: int,
) -> None:
    """One line of a table: the ratios of each route, and the goal of the best."""
    asked = dict(zip(("float32", "bfloat16"), GOALS[table], strict=True))
    cells = []
    for route, run in routes.items():
        run()
        times: list[float] = []
        ratios: dict[str, list[float]] = {name: [] for name in dense}
        for _ in range(pairs):
            for name, other in dense.items():
                before, ours, after = seconds(other), seconds(run), seconds(other)
                ratios[name].append((before + after) / 2 / ours)
                times.append(ours)
        said = ", ".join(f"{statistics.median(found):.1f}x {name}" for name, found in ratios.items())
        cells.append(f"{route} {statistics.median(times) * 1e3:.0f} ms {said}")
    wanted = ", ".join(f"{goals[place]}x {name}" for name, goals in asked.items() if goals is not None)
    print(
        f"  {sparsity:.0%} ({share:.1%} of the multiply-adds): {'; '.join(cells)} (asked {wanted})",
        flush=True,
    )


def seconds(run: Run) -> float:
    """Of a run that comes after one of its own, as in a loop: what the other side left in the caches is gone."""
    run()
    begun = time.process_time()
    run()
    return time.process_time() - begun


def show_peak(what: str) -> None:
    model, x = build("vgg11-bn"), images(64)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = resident("VmRSS")
    if what == "dense":
        run = step(model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last))
    else:
        run = step(accelerate(model, uniform(model, float(what)), example=x, plan="model"), x)
    for _ in range(4):
        run()
    print(f"  {what}: {resident('VmHWM') - before:.0f} MB")


def resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


# The prices of the cost model


def layers() -> Iterable[tuple[nn.Module, float, Met]]:
    """Layers of VGG-11, ResNet-18 and LeNet-300-100 at several densities, and the sizes they meet."""
    windows = ((3, 64, 32, 3, 1), (64, 128, 16, 3, 1), (128, 256, 8, 3, 1), (256, 512, 4, 3, 1), (512, 512, 2, 3, 1),
               (64, 64, 32, 3, 1), (64, 128, 32, 1, 2), (256, 256, 8, 3, 1))  # fmt: skip
    for n_in, n_out, size, kernel, stride in windows:
        for density in (0.005, 0.02, 0.1, 0.4, 1.0):
            for batch in (16, 64):
                layer = nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, bias=False)
                made = (batch, n_out, size // stride, size // stride)
                yield layer, density, Met((batch, n_in, size, size), made, n_in == 3)
    for n_in, n_out in ((784, 300), (300, 100), (512, 10), (4096, 512)):
        for density in (0.01, 0.05, 0.2, 1.0):
            yield nn.Linear(n_in, n_out), density, Met((64, n_in), (64, n_out), n_in == 784)


def calibrate() -> None:
    work: dict[str, list[list[float]]] = {SPARSE: [], DENSE: []}
    took: dict[str, list[float]] = {SPARSE: [], DENSE: []}
    for module, density, met in layers():
        mask = torch.rand(module.weight.shape, generator=generator(0, "calibration")) < density
        thin(module, {"weight": mask})
        layer = layer_of("weight", module, mask)
        for training in (True, False):
            found = seconds_of_layer(layer, met, for_training=training, rounds=3, clock=time.process_time)
            for kernel, done in work_of(layer, met, for_training=training).items():
                work[kernel].append([done.passes * unit for unit in (done.multiply_adds, done.numbers, 1)])
                took[kernel].append(found[kernel] * 1e9)
    for kernel in (SPARSE, DENSE):
        units, times = numpy.array(work[kernel], float), numpy.array(took[kernel])
        prices, _ = nnls(units / times[:, None], numpy.ones(len(times)))
        spread = numpy.quantile(units @ prices / times, [0.05, 0.25, 0.5, 0.75, 0.95])
        print(
            f"{kernel}: nanoseconds {prices.round(4).tolist()}, estimate / time by quantile {spread.round(2)}"
        )


if __name__ == "__main__":
    warnings.simplefilter("ignore", UserWarning)
    main()
