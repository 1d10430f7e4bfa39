"""Claim: a training step of VGG-11-BN with sparse kernels is 4.4, 6.5, 10 and 12 times faster than the dense one.

Sparsity 90, 95, 98 and 99 %, uniform masks on every convolution but the first; 3x32x32, batch 64, one thread. The
dense step is torch's in float32, in the better of its two memory formats. Every sparse step is timed between two dense
ones, and a ratio is the median of such pairs: on a shared machine their times move together.

What limits it: `--parts` sets the time of each part beside what its multiply-adds take at the pace of a dense matrix
product, and its bytes at the pace of a copy, both measured here. `--memory` compares the peaks of resident memory, in
processes of their own. `--threads 2` does all of it with two threads, and wants two free cores;
`--bfloat16` stores activations in that type.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from disbud.kernels import Pattern, Statistics, batch_norm, library, pack, sparse_layer, unpack_features

WIDTHS = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")
TARGETS = {0.90: 4.4, 0.95: 6.5, 0.98: 10.0, 0.99: 12.0}
Step = Callable[[], Tensor]


def vgg() -> nn.Sequential:
    layers: list[nn.Module] = []
    inputs = 3
    for width in WIDTHS:
        if width == "pool":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [
                nn.Conv2d(inputs, int(width), 3, padding=1, bias=False),
                nn.BatchNorm2d(int(width)),
                nn.ReLU(),
            ]
            inputs = int(width)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs, 10))


def masks(model: nn.Module, sparsity: float) -> list[Tensor]:
    """One mask a convolution: the first whole, the others uniformly random."""
    g = torch.Generator().manual_seed(1)
    found = []
    for weight in (layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d)):
        mask = torch.ones(weight.numel(), dtype=torch.bool)
        if found:
            mask[torch.randperm(weight.numel(), generator=g)[: round(sparsity * weight.numel())]] = False
        found.append(mask.view(weight.shape))
    return found


class SparseVgg(nn.Module):
    """The network on blocked activations; its parameters are the kept weights."""

    def __init__(self, model: nn.Sequential, masks: list[Tensor], *, stored: torch.dtype) -> None:
        super().__init__()
        self.stored = stored
        self.patterns = [Pattern.of_convolution(mask, padding=1) for mask in masks]
        layers = list(model)
        convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
        self.values = nn.ParameterList(
            pattern.gather(layer.weight.detach())
            for pattern, layer in zip(self.patterns, convolutions, strict=True)
        )
        self.norms = nn.ModuleList(layer for layer in layers if isinstance(layer, nn.BatchNorm2d))
        self.pools = [
            2 if isinstance(after, nn.MaxPool2d) else 1
            for layer, after in itertools.pairwise(layers)
            if isinstance(layer, nn.ReLU)
        ]
        self.head = layers[-1]

    def forward(self, images: Tensor) -> Tensor:
        """Logits; everything between packing and the head stays in the blocked layout."""
        x = pack(images, halo=1, stored=self.stored)
        for values, pattern, norm, pool in zip(
            self.values, self.patterns, self.norms, self.pools, strict=True
        ):
            x = sparse_layer(x, values, pattern)
            running = Statistics(norm.running_mean, norm.running_var)
            halo = 1 if x.layout.width // pool > 1 else 0
            x = batch_norm(x, norm.weight, norm.bias, statistics=running, slope=0.0, pool=pool, halo=halo)
        logits: Tensor = self.head(unpack_features(x))
        return logits


def step_of(model: nn.Module, x: Tensor, y: Tensor, dtype: torch.dtype = torch.float32) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = model(x)
        loss = functional.cross_entropy(logits.float(), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def seconds(step: Callable[[], object]) -> float:
    begun = time.perf_counter()
    step()
    return time.perf_counter() - begun


def dense_steps(model: nn.Module, x: Tensor, y: Tensor, dtype: torch.dtype) -> dict[str, Step]:
    formats = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
    return {
        name: step_of(copy.deepcopy(model).to(memory_format=layout), x.to(memory_format=layout), y, dtype)
        for name, layout in formats.items()
    }


def better(steps: dict[str, Step]) -> tuple[str, Step]:
    """The memory format that is faster here, by alternating medians."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(4):
        for name, step in steps.items():
            times[name].append(seconds(step))
    name = min(times, key=lambda name: statistics.median(times[name][1:]))
    return name, steps[name]


def compare(rounds: int, stored: torch.dtype) -> bool:
    """The table of ratios; whether each is at its target."""
    model, x, y = problem()
    named = {
        str(dtype).removeprefix("torch."): better(dense_steps(model, x, y, dtype))
        for dtype in (torch.float32, torch.bfloat16)
    }
    dense = {name: step for name, (_, step) in named.items()}
    print("dense: " + ", ".join(f"{name} in {layout}" for name, (layout, _) in named.items()))
    good = True
    for sparsity, target in TARGETS.items():
        step = step_of(SparseVgg(copy.deepcopy(model), masks(model, sparsity), stored=stored), x, y)
        step()
        ratios: dict[str, list[float]] = {name: [] for name in dense}
        times = []
        for _ in range(rounds):
            for name, other in dense.items():
                before, ours, after = seconds(other), seconds(step), seconds(other)
                ratios[name].append((before + after) / 2 / ours)
                times.append(ours)
        middle = {name: statistics.median(found) for name, found in ratios.items()}
        good &= middle["float32"] >= target
        print(
            f"{sparsity:.0%} sparse: {statistics.median(times) * 1e3:6.1f} ms, "
            f"{middle['float32']:5.2f}x dense float32 (claimed {target}), {middle['bfloat16']:5.2f}x dense bfloat16"
        )
    return good


def problem() -> tuple[nn.Sequential, Tensor, Tensor]:
    torch.manual_seed(0)
    return vgg(), torch.randn(64, 3, 32, 32), torch.randint(0, 10, (64,))


def paces() -> tuple[float, float]:
    """Multiply-adds a second of a dense matrix product, and bytes a second of a copy that no cache holds."""
    a, far = torch.randn(1024, 1024), torch.randn(1 << 25)
    to = torch.empty_like(far)
    product = min(seconds(lambda: a @ a) for _ in range(15))
    copied = min(seconds(lambda: to.copy_(far)) for _ in range(5))
    return 1024**3 / product, 2 * 4 * len(far) / copied


class Clocked:
    """The kernels' functions, adding up their times and what they work on."""

    def __init__(self, functions: object) -> None:
        self.functions, self.spent = functions, dict[str, float]()

    def __getattr__(self, name: str) -> Callable[..., object]:
        function = getattr(self.functions, name)

        def timed(*arguments: object) -> None:
            begun = time.perf_counter()
            function(*arguments)
            self.spent[name] = self.spent.get(name, 0.0) + time.perf_counter() - begun

        return timed


def work(masks: list[Tensor], itemsize: int) -> dict[str, tuple[float, float]]:
    """Multiply-adds and bytes of each part of a step, the bytes read once and written once."""
    sizes = (32, 16, 8, 8, 4, 4, 2, 2)
    pooled = [a != b for a, b in itertools.pairwise((*sizes, 1))]
    taken = made = normal = normal_back = macs = first = 0.0
    for number, (mask, size, pool) in enumerate(zip(masks, sizes, pooled, strict=True)):
        # A 3x3 window loses one row of taps in three at the top and at the bottom.
        count = int(mask.sum()) * 64 * size**2 * (1 - 2 / (3 * size))
        before, after = (itemsize * 64.0 * size**2 * mask.shape[i] for i in (1, 0))
        result = after / (4 if pool else 1)
        macs, taken, made = macs + count, taken + before, made + after
        normal, normal_back = normal + after + result, normal_back + 2 * after + result
        if number == 0:
            first, edge = count, before + after
    return {
        "disbud_gather": (2 * macs - first, 2 * (taken + made) - edge),
        "disbud_weight_gradient": (macs, taken + made),
        "disbud_normalise": (0, normal),
        "disbud_normalise_backward": (0, normal_back),
    }


def show_parts(rounds: int, stored: torch.dtype) -> None:
    """Where a step's time goes, and how far each part is from what arithmetic and memory allow."""
    kernels = library(stored)
    assert kernels is not None, "there is no compiler here"
    arithmetic, memory = paces()
    print(f"paces: {arithmetic / 1e9:.0f} G multiply-adds a second, {memory / 1e9:.0f} GB a second")
    model, x, y = problem()
    for sparsity in TARGETS:
        found = masks(model, sparsity)
        step = step_of(SparseVgg(copy.deepcopy(model), found, stored=stored), x, y)
        step()
        clocked, functions = Clocked(kernels._c), kernels._c
        kernels._c = clocked  # type: ignore[assignment]
        try:
            whole = sum(seconds(step) for _ in range(rounds)) / rounds
        finally:
            kernels._c = functions
        spent = {name: time / rounds for name, time in clocked.spent.items()}
        spent["the rest: torch, Python"] = whole - sum(spent.values())
        print(f"{sparsity:.0%} sparse: {whole * 1e3:.1f} ms a step")
        limits = work(found, stored.itemsize)
        for name, time_spent in sorted(spent.items(), key=lambda item: -item[1]):
            macs, moved = limits.get(name, (0, 0))
            print(
                f"  {name:28s} {time_spent * 1e3:6.2f} ms {time_spent / whole:4.0%}"
                + (f"  arithmetic alone {macs / arithmetic * 1e3:5.2f} ms" if macs else "")
                + (f"  memory alone {moved / memory * 1e3:5.2f} ms" if moved else "")
            )


def show_memory(stored: torch.dtype) -> None:
    """Peaks of resident memory above the start of training, each in a process of its own."""
    for what in ("dense", *map(str, TARGETS)):
        code = [sys.executable, __file__, "--peak-of", what, "--threads", str(torch.get_num_threads())]
        code += ["--bfloat16"] if stored == torch.bfloat16 else []
        print(subprocess.run(code, capture_output=True, text=True, check=True).stdout.strip())


def show_peak(what: str, stored: torch.dtype) -> None:
    model, x, y = problem()
    if what == "dense":
        step = dense_steps(model, x, y, torch.float32)["channels_last"]
    else:
        step = step_of(SparseVgg(model, masks(model, float(what)), stored=stored), x, y)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = resident_peak()
    for _ in range(4):
        step()
    print(f"{what}: training takes {resident_peak() - before:.0f} MB at its peak")


def resident_peak() -> float:
    """Megabytes, as Linux tells them."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--bfloat16", action="store_true", help="activations of the sparse network")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    stored = torch.bfloat16 if asked.bfloat16 else torch.float32
    if asked.peak_of:
        show_peak(asked.peak_of, stored)
        return 0
    kernels = library()
    instructions = kernels.instructions if kernels else "no kernels"
    print(
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {instructions}, ", end=""
    )
    print(f"{asked.threads} threads")
    if asked.parts:
        show_parts(asked.rounds, stored)
    if asked.memory:
        show_memory(stored)
    return 0 if asked.parts or asked.memory or compare(asked.rounds, stored) else 1


if __name__ == "__main__":
    raise SystemExit(main())
