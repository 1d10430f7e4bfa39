"""Claims: SNIP costs at most 1.1 passes (forward and backward) of the same batch, GraSP 3.5 on VGG-11-BN and 4 on
ResNet-20, and one-shot pruning at most 3 times the model's own size in memory beyond one pass.

One thread. Times are of the processor: `disbud.scores` and the pass alternate in one process, pair by pair; printed are
both medians, and the median and range of the pairs' ratios (n pairs). Memory is the peak resident size of a process of
its own, over that of one pass.
"""

from __future__ import annotations

import argparse
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

import disbud
from disbud.models import build

torch.set_num_threads(1)

BATCH = 100
CLAIMS = [
    ("vgg11-bn", "snip", 1.1),
    ("vgg11-bn", "grasp", 3.5),
    ("resnet20", "snip", 1.1),
    ("resnet20", "grasp", 4.0),
]
LARGE = "mlp:hidden=4000+4000+4000"
MEMORY_CLAIM = 3.0


def batch(*, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, 3, 32, 32, generator=g), torch.arange(BATCH) % 10


def one_pass(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """What scoring is measured against: the gradients of all parameters, nothing else."""
    torch.autograd.grad(functional.cross_entropy(model(x), y), list(model.parameters()))


def seconds(function: Callable[[], object]) -> float:
    began = time.process_time()  # of one thread; what else runs on the machine is left out
    function()
    return time.process_time() - began


def compare(spec: str, method: str, claim: float, pairs: int) -> bool:
    """Print one row; whether the claim holds."""
    model = build(spec).train()
    x, y = batch()

    def score() -> object:
        return disbud.scores(model, method, batches=[(x, y)], examples_per_class=None)

    def dense() -> None:
        one_pass(model, x, y)

    score()
    dense()
    timed = [(seconds(score), seconds(dense)) for _ in range(pairs)]
    ratios = sorted(ours / theirs for ours, theirs in timed)
    ratio = statistics.median(ratios)
    ours, theirs = (statistics.median(column) for column in zip(*timed, strict=True))
    print(
        f"{spec:<12}{method:<8}{ours * 1e3:>10.1f} ms{theirs * 1e3:>10.1f} ms{ratio:>9.2f}  "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f}, n={pairs}){claim:>8.1f}  {'holds' if ratio <= claim else 'FAILS'}",
        flush=True,
    )
    return ratio <= claim


def peak(what: str) -> int:
    """Bytes at the peak of a process that builds the large model and does one thing."""
    command = [sys.executable, __file__, "--peak-of", what]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def do(what: str) -> None:
    model, (x, y) = build(LARGE), batch()
    if what == "pass":
        one_pass(model, x, y)
    else:
        disbud.prune(model, what, sparsity=0.98, batches=[(x, y)], examples_per_class=None)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(
        int(status["VmHWM"].split()[0]) * 1024
    )  # getrusage would count the parent's size, which survives exec


def compare_memory(methods: list[str]) -> bool:
    """Print one row a method; whether the claim holds for all."""
    with torch.device("meta"):
        size = sum(p.numel() * p.element_size() for p in build(LARGE).parameters())
    print(f"\n{LARGE}, {size / 2**20:.0f} MiB: peak over one pass, in sizes of the model")
    dense, held = peak("pass"), True
    for method in methods:
        extra = (peak(method) - dense) / size
        held &= extra <= MEMORY_CLAIM
        print(
            f"{method:<20}{extra:>8.2f}{MEMORY_CLAIM:>8.1f}  {'holds' if extra <= MEMORY_CLAIM else 'FAILS'}",
            flush=True,
        )
    return held


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak_of:
        do(given.peak_of)
        return 0
    print(
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread, batch {BATCH}x3x32x32"
    )
    print(f"{'model':<12}{'method':<8}{'scores':>13}{'one pass':>13}{'ratio':>9}{'':>26}{'claim':>8}")
    held = [compare(*claim, given.pairs) for claim in CLAIMS]
    held.append(compare_memory(["random", "magnitude", "magnitude-erk", "snip", "grasp"]))
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
