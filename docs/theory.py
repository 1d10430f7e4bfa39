"""Every number and picture of docs/theory.md.

    python docs/theory.py     about half an hour on two cores; what is in docs/theory/ already is not done again

Networks are drawn from seeds; the trainings are those of `disbud theory region`, whose cells lie in docs/theory/*.json.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from scipy.optimize import brentq
from torch import nn

import disbud
from disbud import measures, robust, theory
from disbud.files import write_atomically
from disbud.robust.prepared import first_batch, prepared
from disbud.robust.region import DEPTHS, PANELS, SPARSITIES, Setting, read_region

FOLDER = Path(__file__).parent / "theory"
WAYS = ("none", "weights", "activations", "differences")
METHODS = ("random-uniform", "magnitude", "snip")
SHAPES = "shapes:size=12,channels=1,classes=4,difficulty=0,train=5000,test=1000"
FEW = ((10, 30, 60), (0.5, 0.8, 0.9))
RELU = {"activation": "relu", "sigma_b": 0.0}
BY_MAGNITUDE = {"method": "mbp", "rescale": "weights"}
SHORT = {"data": SHAPES, "recipe": "digits:epochs=3,lr=0.01"}
GRIDS = {
    "region": (Setting(), tuple(PANELS), (DEPTHS, SPARSITIES)),
    "sbp_weights": (Setting(rescale="weights"), ("rescaled",), FEW),
    "sbp_diff": (Setting(rescale="differences"), ("rescaled",), FEW),
    "mbp": (Setting(**BY_MAGNITUDE), ("edge", "rescaled"), FEW),
    "random": (Setting(method="random", rescale="weights"), ("edge", "rescaled"), FEW),
    "relu_sbp": (Setting(**RELU), ("edge", "rescaled"), FEW),
    "relu_sbp_weights": (Setting(**RELU, rescale="weights"), ("rescaled",), FEW),
    "relu_mbp": (Setting(**RELU, **BY_MAGNITUDE), ("edge", "rescaled"), FEW),
    "shapes_mbp": (Setting(**SHORT, **BY_MAGNITUDE), ("edge", "rescaled"), FEW),
    "shapes_relu_mbp": (Setting(**SHORT, **RELU, **BY_MAGNITUDE), ("edge", "rescaled"), FEW),
}


def chain(depth: int, width: int, kind: type[nn.Module], *, bias: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width, bias=bias), kind()]
    return nn.Sequential(*layers, nn.Linear(width, 10, bias=bias))


def correlations() -> dict[str, dict[str, list[float]]]:
    """Depth 40, width 200, pruned to a tenth: at each layer the correlation, and log10 of E[y^2], means of 5 seeds."""
    found: dict[str, dict[str, list[float]]] = {}
    for kind, sigma_b in ((nn.Tanh, 0.2), (nn.ReLU, 0.0)):
        for method in METHODS:
            for how in ("dense", *WAYS):
                rows = []
                for seed in range(5):
                    model = chain(40, 200, kind)
                    theory.initialize_(model, activation=kind.__name__.lower(), sigma_b=sigma_b, seed=seed)
                    x = torch.randn(64, 200, generator=torch.Generator().manual_seed(seed))
                    ticket = None
                    if how != "dense":
                        batch = (x, torch.arange(64) % 10)
                        ticket = disbud.prune(
                            model, method, sparsity=0.9, batches=[batch], examples_per_class=None, seed=seed
                        )
                    if how not in ("dense", "none"):
                        theory.rescale_(model, ticket, how, inputs=None if how == "weights" else x)
                    table = measures.signal(model, x, ticket)
                    moments = np.log10(np.array(table["activation_moment"], dtype=float))
                    rows.append((np.array(table["correlation"], dtype=float), moments))
                mean = np.mean(rows, axis=0)[:, :40]
                key = f"{kind.__name__.lower()} {method} {how}"
                found[key] = {"correlation": mean[0].tolist(), "log10_moment": mean[1].tolist()}
                print(key, round(mean[0][-1], 3), round(mean[1][-1], 2), flush=True)
    return found


def kernel() -> dict[str, list[float]]:
    """Bias-free ReLU, 4 layers of 300: the tangent kernel's trace over the dense one's, pruned and rescaled."""
    found = {}
    for density in (0.5, 0.2):
        rows = []
        for seed in range(5):
            model = chain(3, 300, nn.ReLU, bias=False)
            theory.initialize_(model, activation="relu", seed=seed)
            x = torch.randn(10, 300, generator=torch.Generator().manual_seed(seed))
            dense = measures.tangent_kernel(model, x).trace
            ticket = disbud.prune(model, "random-uniform", sparsity=1 - density, seed=seed)
            pruned = measures.tangent_kernel(model, x, ticket).trace
            theory.rescale_(model, ticket)
            rows.append((pruned / dense, measures.tangent_kernel(model, x, ticket).trace / dense))
        found[str(density)] = [density**4, density, *np.mean(rows, axis=0).tolist()]
    return found


def emptying() -> dict[str, dict[str, float]]:
    """tanh, 100 layers of 100 units: where a layer empties, by the law of scores and in drawn nets of four seeds."""
    layers = width = 100
    found = {}
    for log_chi in (-0.05, -0.1, -0.2, -0.4, -0.8, 0.05, 0.1, 0.2):
        sigma_w = _sigma_w(log_chi)
        q = theory.phase("tanh", sigma_w=sigma_w, sigma_b=0.3).q
        law = theory.critical_sparsity([width**2] * layers, log_chi=log_chi)
        drawn = [_drawn(sigma_w, (q - 0.09) / sigma_w**2, seed) for seed in range(4)]
        found[f"{log_chi:+g}"] = {
            "law": law.mean,
            "bound": law.bound,
            **{key: statistics.fmean(one[key] for one in drawn) for key in drawn[0]},
        }
        print(log_chi, found[f"{log_chi:+g}"], flush=True)
    return found


def _sigma_w(log_chi: float) -> float:
    edge = theory.edge_of_chaos("tanh", 0.3).sigma_w
    low, high = (0.2 * edge, edge * 1.01) if log_chi < 0 else (edge * 0.99, 6 * edge)
    return brentq(
        lambda w: math.log(theory.phase("tanh", sigma_w=w, sigma_b=0.3).chi) - log_chi, low, high, xtol=1e-4
    )


def _drawn(sigma_w: float, moment: float, seed: int) -> dict[str, float]:
    """The slope of log m_l over l, and where a layer empties: by single examples' gradients, and by SNIP's score."""
    layers, width, examples = 100, 100, 32
    stream = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=stream, dtype=torch.float64)

    weights = [normal(width, width) * sigma_w / width**0.5 for _ in range(layers)]
    read, given = (normal(examples, width) * moment**0.5).requires_grad_(), []
    for weight in weights:
        y = read @ weight.T + 0.3 * normal(width)
        y.retain_grad()
        given.append((read.detach(), y))
        read = y.tanh()
    (given[-1][1] * normal(examples, width)).sum().backward()
    single, batch = [], []
    for (x, y), weight in zip(given, weights, strict=True):
        single.append((weight.square() * (y.grad.square().T @ x.square()) / examples).sqrt())
        batch.append((weight * (y.grad.T @ x)).abs())
    slope = np.polyfit(range(layers), [float(s.square().mean().log()) for s in single], 1)[0]
    return {"slope": float(slope), "single": _first_empty(single), "snip": _first_empty(batch)}


def _first_empty(scores: list[torch.Tensor]) -> float:
    least = min(float(score.max()) for score in scores)
    return sum(int((score <= least).sum()) for score in scores) / sum(score.numel() for score in scores)


def stable() -> dict[str, list[float]]:
    """ReLU, sigma_w = 1, width 100: the mean sensitivity predicted and in 30 drawn nets, plain and stable."""
    found = {}
    for branch in (1, 2):
        for is_stable in (False, True):
            for blocks in (5, 10, 20, 40):
                said = theory.residual(
                    "relu", blocks=blocks, sigma_w=1.0, branch_layers=branch, stable=is_stable
                )
                drawn = [_residual(blocks, branch, seed, is_stable=is_stable) for seed in range(30)]
                by_layer = np.mean(drawn, axis=0)
                key = f"{branch} {'stable' if is_stable else 'plain'} {blocks}"
                found[key] = [
                    said.mean_sensitivity,
                    float(by_layer.mean()),
                    float(by_layer.max() / by_layer.min()),
                ]
                print(key, found[key], flush=True)
    return found


def _residual(blocks: int, branch: int, seed: int, *, is_stable: bool) -> list[float]:
    width, stream = 100, torch.Generator().manual_seed(seed)
    weights = [
        (torch.randn(width, width, generator=stream) / width**0.5).requires_grad_()
        for _ in range(blocks * branch)
    ]
    x = torch.randn(width, generator=stream)
    x = x / x.square().mean().sqrt()
    for block in range(blocks):
        y = x
        for weight in weights[block * branch : (block + 1) * branch]:
            y = weight @ y.relu()
        x = x + y * (blocks**-0.5 if is_stable else 1.0)
    gradients = torch.autograd.grad(x @ torch.randn(width, generator=stream), weights)
    return [float((w.detach() * g).square().sum()) / width for w, g in zip(weights, gradients, strict=True)]


def forecasts() -> dict[str, dict[str, float]]:
    """For each grid of trainings, how often the forecast came true: accuracy above half of the way from chance to 1."""
    found = {}
    for name in GRIDS:
        region = read_region(FOLDER / f"{name}.json")
        dataset = disbud.data.load(region.setting.data)
        batch = first_batch(dataset, 0)
        needed = 0.5 + 0.5 / dataset.classes
        right = {"theory": 0, "measured": 0, "theory to 45": 0}
        shallow = 0
        for cell in region.cells:
            model, ticket = prepared(region.setting, cell, dataset)
            trained = (cell.accuracy or 0.0) > needed
            said = robust.forecast(model, batch[0], ticket).trains == trained
            right["theory"] += said
            right["theory to 45"] += said and cell.depth <= 45
            shallow += cell.depth <= 45
            right["measured"] += robust.forecast(model, batch[0], ticket, labels=batch[1]).trains == trained
        found[name] = {**right, "cells": len(region.cells), "cells to 45": shallow}
        print(name, found[name], flush=True)
    return found


def trained() -> None:
    for name, (setting, panels, (depths, sparsities)) in GRIDS.items():
        region = robust.trainable_region(
            FOLDER / f"{name}.json",
            setting=setting,
            panels=panels,
            depths=depths,
            sparsities=sparsities,
            workers=2,
        )
        print(name, region, flush=True)


def draw_correlations(found: dict[str, dict[str, list[float]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = {
        "dense": "black", "none": "#999999", "weights": "#D55E00", "activations": "#0072B2", "differences": "#009E73",
    }  # fmt: skip
    labels = {"none": "pruned", "weights": "rescaled by weights", "activations": "by activations"}
    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.4), sharey=True, layout="constrained")
    for axis, method in zip(axes, METHODS, strict=True):
        for how, colour in colours.items():
            curve = found[f"tanh {method} {how}"]["correlation"]
            label = labels.get(how, "by differences" if how == "differences" else how)
            style = ":" if how == "dense" else "-"
            axis.plot(
                range(1, 41),
                curve,
                style,
                color=colour,
                lw=1.6,
                label=label,
                zorder=3 if how == "dense" else 2,
            )
        axis.set_title({"snip": "sensitivity", "random-uniform": "random"}.get(method, method), fontsize=10)
        axis.set_xlabel("layer")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("correlation of two inputs")
    axes[0].legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 0.02))
    figure.savefig(path, dpi=160)


def main() -> None:
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / "measured.json"
    done = json.loads(path.read_text()) if path.exists() else {}
    sections: dict[str, Callable[[], object]] = {
        "correlations": correlations, "kernel": kernel, "emptying": emptying, "stable": stable,
    }  # fmt: skip
    for name, section in sections.items():
        if name not in done:
            done[name] = section()
            write_atomically(path, json.dumps(done, indent=1).encode())
    trained()
    if "forecasts" not in done:
        done["forecasts"] = forecasts()
        write_atomically(path, json.dumps(done, indent=1).encode())
    draw_correlations(done["correlations"], FOLDER / "correlations.png")
    robust.draw(read_region(FOLDER / "region.json"), FOLDER / "region.png")


if __name__ == "__main__":
    main()
