"""How long the measures of a ticket take: paths and nodes of VGG-16 and of ResNet-50 at 224 pixels, and the cost.

Asked: all path measures of VGG-16 in under 2 s, of ResNet-50 in under 10 s, one thread. What bounds them: one pass
forward and backward (reachability, float32) and one more forward (the count, float64), so about four times the
network's multiply-adds; the column `ideal` is the time of these passes at the network's own speed on one image.

    python benchmarks/measures_speed.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import disbud
from disbud.measures import cost, paths

CASES = (
    ("vgg16", (3, 32, 32), 2.0),
    ("resnet20", (3, 32, 32), None),
    ("resnet50:stem=imagenet", (3, 224, 224), 10.0),
)
SPARSITIES = (0.0, 0.9, 0.98)
REPEATS = 5


def seconds(work: Callable[[], object]) -> float:
    """The median over repeats, after one to warm up."""
    work()
    taken = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def ideal(model: nn.Module, example: Tensor) -> float:
    """Forward and backward in float32, and forward in float64."""

    def step() -> None:
        model.zero_grad()
        model(example).sum().backward()

    single = seconds(step)
    with torch.no_grad():
        double = model.double()
        taken = seconds(lambda: double(example.double()))
    model.float()
    return single + taken


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'network':24} {'sparsity':>8} {'paths':>8} {'cost':>8} {'ideal':>8} {'asked':>8}")
    for spec, shape, asked in CASES:
        model = disbud.models.build(spec, input_shape=shape).eval()
        example = torch.zeros(1, *shape)
        bound = ideal(model, example)
        for sparsity in SPARSITIES:
            ticket = disbud.prune(model, "random", sparsity=sparsity)
            found = [seconds(partial(measure, model, ticket, example=example)) for measure in (paths, cost)]
            print(
                f"{spec:24} {sparsity:8g} {found[0]:7.2f}s {found[1]:7.2f}s {bound:7.2f}s "
                f"{f'{asked:.0f} s' if asked else '':>8}"
            )


if __name__ == "__main__":
    main()
