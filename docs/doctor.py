"""Is the doctor's forecast right? Prunes and trains the networks behind docs/doctor.md, and writes its table.

    python docs/doctor.py docs/doctor.json     about an hour and a half on one core; goes on where it was stopped

The thresholds of `disbud.diagnosis.findings` were chosen on the first three networks; the others are held out.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch

import disbud
from disbud.catalogue import parse
from disbud.diagnosis import findings, signs
from disbud.diagnosis.findings import verdict
from disbud.files import write_atomically

DATA, RECIPE, CHANCE = "shapes:size=16", "shapes:epochs=3", 0.1
CHOSEN_ON = (("resnet20:width=0.5", 0), ("vgg11:width=0.25", 0), ("vgg11-bn:width=0.25", 0))
HELD_OUT = (("resnet20:width=0.5", 1),)
SPARSITIES = (0.98, 0.9, 0.995, 0.99)
METHODS = (
    "random", "random-uniform", "random-erk", "random-igq", "smart-ratio", "magnitude", "magnitude-uniform", "snip",
    "iterative-snip", "grasp", "synflow", "synflow:rounds=1",
)  # fmt: skip
Trial = tuple[str, str, float, int]


def trials() -> Iterator[Trial]:
    """Every network dense, then by each method at each sparsity."""
    for model, seed in (*CHOSEN_ON, *HELD_OUT):
        yield model, "dense", 0.0, seed
    for model, seed in (*CHOSEN_ON, *HELD_OUT):
        yield from ((model, method, sparsity, seed) for sparsity in SPARSITIES for method in METHODS)


def run(trial: Trial) -> tuple[Trial, dict[str, object]]:
    """Prune, forecast, train."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    name, method, sparsity, seed = trial
    dataset = disbud.data.load(DATA)
    model = disbud.models.build(name, classes=dataset.classes, input_shape=dataset.input_shape, seed=seed)
    found: dict[str, object] = {}
    ticket = None
    if method != "dense":
        spec, example = parse(method), dataset.example()
        ticket = disbud.prune(
            model, spec.name, sparsity=sparsity, batches=dataset.batches(seed=seed), example=example, seed=seed,
            **dict(spec.settings),
        )  # fmt: skip
        read, dense = (signs(model, one, example=example) for one in (ticket, None))
        said = findings(read, dense)
        found = {
            "forecast": verdict(said),
            "effective": read.effective,
            "effective_dense": dense.effective,
            "gradient": read.gradient / dense.gradient,
            "empty_layers": len(read.empty_layers),
            "log10_paths": read.log10_paths if math.isfinite(read.log10_paths) else None,
            "words": [finding.words for finding in said],
        }
    result = disbud.train(model, dataset, ticket=ticket, recipe=RECIPE, seed=seed)
    return trial, found | {"accuracy": CHANCE if result.diverged else result.accuracy}


def table(done: dict[str, dict[str, object]]) -> str:
    """What is left of the dense network's accuracy above chance, by network, sparsity and forecast."""
    cells: dict[tuple[str, int, float], dict[str, list[float]]] = {}
    for key, found in done.items():
        model, method, sparsity, seed = json.loads(key)
        dense = done.get(json.dumps((model, "dense", 0.0, seed)))
        if method != "dense" and dense is not None:
            left = (found["accuracy"] - CHANCE) / (dense["accuracy"] - CHANCE)
            cells.setdefault((model, seed, sparsity), {}).setdefault(found["forecast"], []).append(left)
    lines = ["| network | sparsity | green | yellow | red |", "|---|---|---|---|---|"]
    for (model, seed, sparsity), by in sorted(cells.items(), key=lambda item: (item[0][:2], item[0][2])):
        shown = [
            f"{100 * statistics.fmean(by[level]):.0f} ({len(by[level])})" if level in by else "-"
            for level in ("green", "yellow", "red")
        ]
        lines.append(f"| {model}, seed {seed} | {sparsity:g} | {' | '.join(shown)} |")
    for better, worse in (("green", "red"), ("green", "yellow"), ("yellow", "red")):
        pairs = [(a, b) for by in cells.values() for a in by.get(better, ()) for b in by.get(worse, ())]
        if pairs:
            wins = statistics.fmean((a > b) + 0.5 * (a == b) for a, b in pairs)
            lines.append(f"{better} trains better than {worse} in {wins:.1%} of {len(pairs)} pairs")
    return "\n".join(lines)


def main(path: Path) -> None:
    done = json.loads(path.read_text()) if path.exists() else {}
    missing = [trial for trial in trials() if json.dumps(trial) not in done]
    with ProcessPoolExecutor(int(os.environ.get("WORKERS", "1"))) as pool:
        for trial, found in pool.map(run, missing):
            done[json.dumps(trial)] = found
            write_atomically(path, json.dumps(done, indent=0).encode())
            print(*trial, f"{found.get('forecast', '')} accuracy {found['accuracy']:.4f}", flush=True)
    print(table(done))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/doctor.json"))
