"""What compaction takes off multiply-adds and the time of a forward pass and of a training step.

Dense against compact: one thread, channels_last on both sides, the two in turn; medians of the ratios. Times are
seconds of the processor, to which other programs on a busy machine add little. Images of 32 pixels; the data of SNIP
are random.

    python benchmarks/compact_speed.py                     all cases
    python benchmarks/compact_speed.py vgg16-bn synflow    those of one network or method
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

import disbud
from disbud.compaction import compact
from disbud.measures import cost
from disbud.models import build
from disbud.seeds import generator

CASES = [
    *[("vgg16-bn", "synflow", sparsity) for sparsity in (0.9, 0.98, 0.99, 0.999)],
    *[("vgg16", "synflow", sparsity) for sparsity in (0.9, 0.98, 0.99, 0.999)],
    *[("resnet20", method, s) for method in ("synflow", "snip", "npb", "precrop") for s in (0.9, 0.98)],
    *[("resnet18", method, s) for method in ("synflow", "snip", "npb", "precrop") for s in (0.9, 0.98)],
]
EXAMPLE = torch.zeros(1, 3, 32, 32)
Timed = Callable[[], float]


def main() -> None:
    """Measure and print."""
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reader.add_argument("only", nargs="*", help="networks or methods")
    reader.add_argument("--pairs", type=int, default=7, help="how often each side runs")
    reader.add_argument("--batch", type=int, default=32)
    asked = reader.parse_args()
    torch.set_num_threads(1)
    print(
        f"torch {torch.__version__}, {platform.machine()}, one thread of {os.cpu_count()}, batch {asked.batch}"
    )
    print(f"load when it began: {os.getloadavg()[0]:.2f}\n")
    print(
        "network   method   sparsity  compacted in  parameters  multiply-adds  live   forward  step    dense ms"
    )
    for network, method, sparsity in CASES:
        if all(word in (network, method) for word in asked.only):
            print(case(network, method, sparsity, asked.pairs, asked.batch), flush=True)
    print(f"\nload when it ended: {os.getloadavg()[0]:.2f}")


def case(network: str, method: str, sparsity: float, pairs: int, batch: int) -> str:
    model = build(network)
    data = [(torch.randn(100, 3, 32, 32, generator=generator(0, "data")), torch.arange(100) % 10)]
    given = {"batches": data} if method == "snip" else {"example": EXAMPLE}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ticket = disbud.prune(model, method, sparsity=sparsity, **given)  # type: ignore[arg-type]
    began = time.process_time()
    found = compact(model, ticket, example=EXAMPLE)
    took = time.process_time() - began
    live = cost(model, ticket, example=EXAMPLE)
    before, after = found.account.multiply_adds
    full, small = found.account.parameters
    ticket.apply_(model)
    forwards = ratio(*(forward(net, batch) for net in (model, found.model)), pairs)
    steps = ratio(*(step(net, batch) for net in (model, found.model)), pairs)
    return (
        f"{network:9} {method:8} {sparsity:8.1%} {took:11.1f} s {full / small:10.1f}x {before / after:13.2f}x "
        f"{live.multiply_adds / max(1, live.multiply_adds_live):5.2f}x {forwards[0]:7.2f}x {steps[0]:5.2f}x "
        f"{forwards[1] * 1e3:7.0f} and {steps[1] * 1e3:.0f}"
    )


def ratio(dense: Timed, small: Timed, pairs: int) -> tuple[float, float]:
    """The median ratio of the two, run in turn, and the median seconds of the dense one."""
    dense(), small()  # warm-up
    times = []
    for pair in range(pairs):
        first, second = (dense, small) if pair % 2 else (small, dense)
        a, b = first(), second()
        times.append((a, b) if pair % 2 else (b, a))
    return statistics.median(a / b for a, b in times), statistics.median(a for a, _ in times)


def inputs(batch: int) -> torch.Tensor:
    drawn = torch.randn(batch, 3, 32, 32, generator=generator(0, "benchmark"))
    return drawn.contiguous(memory_format=torch.channels_last)


def forward(model: nn.Module, batch: int) -> Timed:
    """The seconds of one forward pass in evaluation."""
    model, x = last(model).eval(), inputs(batch)

    def timed() -> float:
        began = time.process_time()
        with torch.inference_mode():
            model(x)
        return time.process_time() - began

    return timed


def step(model: nn.Module, batch: int) -> Timed:
    """The seconds of one training step."""
    model, x, labels = last(model).train(), inputs(batch), torch.arange(batch) % 10
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def timed() -> float:
        began = time.process_time()
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
        return time.process_time() - began

    return timed


def last(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


if __name__ == "__main__":
    main()
