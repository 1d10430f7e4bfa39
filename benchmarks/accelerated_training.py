"""Whether training by sparse kernels learns what dense training learns, and the wall-clock of both.

Every ticket is trained twice from the same weights in the same order, by `disbud.train` with accelerate=off and auto,
one after the other on one thread. Differences of test accuracy are paired over seeds and tested for equivalence.

    python benchmarks/accelerated_training.py                 ResNet-20 and VGG-11-BN on shapes, 90 and 98 %, five seeds
    python benchmarks/accelerated_training.py resnet20 0.98   some of it
"""

from __future__ import annotations

import argparse
import os
import statistics

import torch

import disbud
from disbud.claims import Margin, Same, judge, paired
from disbud.models import build
from disbud.training import Result

NETWORKS = ("resnet20", "vgg11-bn")
SPARSITIES = (0.9, 0.98)
MARGIN = Margin(0.02)


def main() -> None:
    reader = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    reader.add_argument("only", nargs="*", help="networks or sparsities")
    reader.add_argument("--seeds", type=int, default=5)
    reader.add_argument("--data", default="shapes:size=16,train=10000")
    reader.add_argument("--recipe", default="shapes:epochs=4")
    asked = reader.parse_args()
    torch.set_num_threads(1)
    print(
        f"{asked.data}, {asked.recipe}, ERK random tickets, {asked.seeds} seeds, load {os.getloadavg()[0]:.1f}"
    )
    for network in NETWORKS:
        for sparsity in SPARSITIES:
            if all(word in (network, str(sparsity)) for word in asked.only):
                show(network, sparsity, asked)
    print(f"load when it ended: {os.getloadavg()[0]:.1f}")


def show(network: str, sparsity: float, asked: argparse.Namespace) -> None:
    found: dict[str, list[Result]] = {"off": [], "auto": []}
    for seed in range(asked.seeds):
        data = disbud.data.load(asked.data)
        for way, results in found.items():
            model = build(network, classes=data.classes, input_shape=data.input_shape, seed=seed)
            ticket = disbud.prune(model, "random", sparsity=sparsity, densities="erk", seed=seed)
            recipe = f"{asked.recipe},accelerate={way}"
            results.append(disbud.train(model, data, ticket=ticket, recipe=recipe, seed=seed))
    off, auto = found["off"], found["auto"]
    assert all(result.by_kernels for result in auto)
    pairs = paired(*(dict(enumerate(r.accuracy for r in results)) for results in (auto, off)), diverged=0.1)
    verdict = judge(Same("by kernels", "dense"), pairs, margin=MARGIN)
    ratios = [theirs.seconds / ours.seconds for theirs, ours in zip(off, auto, strict=True)]
    print(f"\n{network}, {sparsity:.0%}: {verdict}")
    for epoch in range(len(off[0].curve)):
        means = [statistics.fmean(r.curve[epoch].test_accuracy for r in results) for results in (off, auto)]
        losses = [statistics.fmean(r.curve[epoch].train_loss for r in results) for results in (off, auto)]
        print(
            f"  epoch {epoch + 1}: accuracy {means[0]:.2%} dense, {means[1]:.2%} by kernels; "
            f"training loss {losses[0]:.4f}, {losses[1]:.4f}"
        )
    print(
        f"  seconds of the clock a run: {statistics.median(r.seconds for r in off):.1f} dense, "
        f"{statistics.median(r.seconds for r in auto):.1f} by kernels, {statistics.median(ratios):.2f} times as fast",
        flush=True,
    )


if __name__ == "__main__":
    main()
