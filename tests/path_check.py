"""Random tickets, and the comparison of disbud.measures.paths with the explicit graph of path_oracle."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import disbud
from disbud import Ticket
from disbud.graph import effective
from disbud.measures import paths
from disbud.seeds import generator
from path_walk import answer, as_tensors

COLUMNS = (
    "layer", "weights", "kept", "effective", "kernels", "inputs", "dead_inputs", "outputs", "dead_outputs",
)  # fmt: skip
DENSITIES = [(1.0, 0), (0.5, 0), (0.5, 1), (0.2, 0), (0.2, 1), (0.2, 2), (0.08, 0), (0.08, 1)]
Example = Tensor | tuple[Tensor, ...]


def at_random(model: nn.Module, density: float, seed: int, *, empty: int | None = None) -> Ticket:
    """Each weight kept with that probability, none in the layer at that position."""
    masks = {}
    for i, layer in enumerate(disbud.prunable(model)):
        stream = generator(seed, "a random ticket", layer.name, density)
        masks[layer.name] = (torch.rand(layer.shape, generator=stream) < density) & (i != empty)
    return Ticket.from_masks(masks)


def row_of(model: nn.Module, layer: disbud.Layer, kept: Tensor, effective: Tensor) -> dict[str, object]:
    """The row of a layer, from its effective weights: units are read and fed as the layer's documentation says."""
    groups = 1
    for module in model.modules():
        if getattr(module, "weight", None) is dict(model.named_parameters())[layer.name]:
            groups = getattr(module, "groups", 1)
    kernels = effective.reshape(*effective.shape[:2], -1).any(2)
    first, second = kernels.shape
    pairs = set()
    for a, b in kernels.nonzero().tolist():
        group = a // (first // groups)
        pairs.add((a, group * second + b) if layer.kind == "transposed-conv" else (group * second + b, a))
    inputs, outputs = second * groups, first
    if layer.kind == "transposed-conv":
        inputs, outputs = first, second * groups
    return {
        "layer": layer.name,
        "weights": kept.numel(),
        "kept": int(kept.sum()),
        "effective": int(effective.sum()),
        "kernels": len(pairs),
        "inputs": inputs,
        "dead_inputs": inputs - len({i for i, _ in pairs}),
        "outputs": outputs,
        "dead_outputs": outputs - len({o for _, o in pairs}),
    }


def check(model: nn.Module, ticket: Ticket | None, example: Example) -> None:
    """The product and the oracle agree on every weight, every column, P and N."""
    expected = answer(model, ticket, example)
    found = effective(model, ticket, example=example)
    masks = as_tensors(expected.effective)
    covered = masks if ticket is None else ticket.masks
    assert found.masks.keys() == covered.keys()
    for name, mask in found.masks.items():
        wrong = (mask != masks[name]).nonzero().tolist()
        assert not wrong, f"{name}: {[(at, bool(mask[tuple(at)])) for at in wrong[:5]]}"
    table = paths(model, ticket, example=example)
    assert tuple(table.columns) == COLUMNS
    rows = []
    for layer in disbud.prunable(model, example=example):
        kept = torch.ones(layer.shape, dtype=torch.bool)
        kept = kept if ticket is None else ticket.masks.get(layer.name, kept)
        rows.append(row_of(model, layer, kept, masks[layer.name]))
    assert list(table) == rows, f"{list(table)}, but expected {rows}"
    over = [row for row in rows if row["layer"] in covered]
    weights, kept_sum, effective_sum = (
        sum(int(str(row[key])) for row in over) for key in ("weights", "kept", "effective")
    )
    summary: dict[str, float] = {
        "log10_paths": math.log10(expected.paths) if expected.paths else -math.inf,
        "nodes": expected.nodes,
        "sparsity": 1 - kept_sum / weights,
        "effective_sparsity": 1 - effective_sum / weights,
        "empty_layers": sum(row["kept"] == 0 for row in over),
    }
    if covered.keys() == masks.keys():
        summary["effective_parameters"] = effective_sum
        summary["effective_kernels"] = sum(int(str(row["kernels"])) for row in rows)
    got = {key: table.summary[key] for key in summary}
    assert got == pytest.approx(summary, rel=1e-12, abs=1e-12), f"{got}, but expected {summary}"
    for key, value in table.summary.items():
        assert getattr(table, key) == value


def check_tickets(model: nn.Module, example: Example) -> None:
    """`check` with no ticket, with random ones, and with each layer empty in turn."""
    check(model, None, example)
    for density, seed in DENSITIES[1:5]:
        check(model, at_random(model, density, seed), example)
    for empty in range(len(disbud.prunable(model))):
        check(model, at_random(model, 0.8, 1, empty=empty), example)
