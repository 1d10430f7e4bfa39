"""Does `shapes` tell pruning methods apart? Trains the grid behind docs/shapes.md and draws its picture.

    python docs/shapes.py docs/shapes.json     about an hour on one core; goes on where it was stopped

Half-width ResNet-20 on 16x16 images: four methods at sparsities from 0.8 to 0.995, two seeds each, three at 0.98. A
seed stands for initialisation, data order and mask. Accuracy is the last epoch's, on 10,000 test images.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch

import disbud
from disbud.files import write_atomically

MODEL, DATA, RECIPE = "resnet20:width=0.5", "shapes:size=16", "shapes:epochs=6"
SPARSITIES = (0.8, 0.9, 0.95, 0.98, 0.995)
METHODS = ("magnitude", "random-uniform", "random-erk", "synflow")
LABELS = dict(zip(METHODS, ("magnitude", "random, uniform", "random, ERK", "SynFlow"), strict=True))
COLOURS = {"magnitude": "#0072B2", "random-uniform": "#999999", "random-erk": "#E69F00", "synflow": "#009E73"}


def trials() -> list[tuple[str, float, int]]:
    """Those at 0.98 first: they decide whether the data tells methods apart."""
    decisive = [(method, 0.98, seed) for seed in (0, 1, 2) for method in METHODS]
    rest = [(method, sparsity, seed) for seed in (0, 1) for sparsity in SPARSITIES for method in METHODS]
    return list(dict.fromkeys([*decisive, *(("dense", 0.0, seed) for seed in (0, 1)), *rest]))


def accuracy(trial: tuple[str, float, int]) -> tuple[tuple[str, float, int], float, float]:
    """Prune, train, and report the test accuracy and cross-entropy of one trial."""
    torch.set_num_threads(1)
    method, sparsity, seed = trial
    dataset = disbud.data.load(DATA)
    model = disbud.models.build(MODEL, classes=dataset.classes, input_shape=dataset.input_shape, seed=seed)
    ticket = None
    if method != "dense":
        ticket = disbud.prune(model, method, sparsity=sparsity, example=dataset.example(), seed=seed)
    result = disbud.train(model, dataset, ticket=ticket, recipe=RECIPE, seed=seed)
    return trial, result.accuracy, result.loss


def run(path: Path) -> dict[str, list[float]]:
    done = json.loads(path.read_text()) if path.exists() else {}
    missing = [trial for trial in trials() if json.dumps(trial) not in done]
    with ProcessPoolExecutor(int(os.environ.get("WORKERS", "1"))) as pool:
        for trial, *found in pool.map(accuracy, missing):
            done[json.dumps(trial)] = found
            write_atomically(path, json.dumps(done, indent=0).encode())
            print(*trial, f"accuracy {found[0]:.4f}", flush=True)
    return done


def summary(done: dict[str, list[float]]) -> dict[tuple[str, float], tuple[float, float, int]]:
    """Mean, standard deviation and number of seeds of the accuracy of each cell, in per cent."""
    cells: dict[tuple[str, float], list[float]] = {}
    for trial, found in done.items():
        method, sparsity, _ = json.loads(trial)
        cells.setdefault((method, sparsity), []).append(100 * found[0])
    return {
        cell: (statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values))
        for cell, values in cells.items()
    }


def draw(cells: dict[tuple[str, float], tuple[float, float, int]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    dense = cells["dense", 0.0][0]
    axes.axhline(dense, color="black", lw=1, ls=":")
    axes.annotate(f"dense {dense:.1f}", (0.0, dense), xytext=(4, 4), textcoords="offset points", fontsize=9)
    places = range(len(SPARSITIES))
    for method in METHODS:
        points = [cells[method, sparsity] for sparsity in SPARSITIES]
        axes.errorbar(
            places, [p[0] for p in points], [p[1] for p in points],
            color=COLOURS[method], marker="o", ms=4, capsize=3, label=LABELS[method],
        )  # fmt: skip
    axes.set_xticks(list(places), [f"{100 * s:g} %" for s in SPARSITIES])
    axes.set_xlabel("sparsity")
    axes.set_ylabel("test accuracy, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=160)


def table(cells: dict[tuple[str, float], tuple[float, float, int]]) -> str:
    head = "| | " + " | ".join(f"{100 * s:g} %" for s in SPARSITIES) + " |\n|---|" + "---|" * len(SPARSITIES)
    rows = [
        f"| {LABELS[method]} | "
        + " | ".join("{:.1f} ± {:.1f}".format(*cells[method, sparsity]) for sparsity in SPARSITIES)
        + " |"
        for method in METHODS
    ]
    return "\n".join([head, *rows])


def main() -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/shapes.json")
    cells = summary(run(path))
    draw(cells, path.with_suffix(".png"))
    print(table(cells))
    print("dense: {:.1f} ± {:.1f}".format(*cells["dense", 0.0]))


if __name__ == "__main__":
    main()
