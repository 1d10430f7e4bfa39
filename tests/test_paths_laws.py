"""Laws of effective paths, chains longer than floating point reaches, models left alone, and what is refused."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import numpy
import pytest
import torch
from torch import nn

from disbud import DisbudError, Ticket, TicketError
from disbud.graph import effective
from disbud.measures import Table, paths
from networks import IMAGE, NETWORKS, ROW
from path_check import DENSITIES, at_random
from test_untouched import lived_in, snapshot, streams


def _chain(widths: list[int]) -> nn.Sequential:
    layers = [nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*(x for layer in layers for x in (layer, nn.Sigmoid())))


def _matrix_paths(ticket: Ticket) -> int:
    product: numpy.ndarray | None = None
    for mask in ticket.masks.values():
        matrix = mask.int().numpy().astype(object)
        product = matrix if product is None else matrix.dot(product)
    assert product is not None
    return int(product.sum())


@pytest.mark.parametrize("density", [0.9, 0.4, 0.2])
def test_chains_are_matrix_products(density: float) -> None:
    model = _chain([30, 40, 20, 50, 30, 10])
    for seed in range(3):
        ticket = at_random(model, density, seed)
        expected = _matrix_paths(ticket)
        assert expected > 0
        table = paths(model, ticket, example=torch.zeros(1, 30))
        assert table.summary["log10_paths"] == pytest.approx(math.log10(expected), rel=1e-12)


def test_numbers_beyond_floating_point() -> None:
    deep = _chain([10] * 501)
    table = paths(deep, None, example=torch.zeros(1, 10))
    assert table.summary["log10_paths"] == pytest.approx(501, rel=1e-12)
    assert table.summary["nodes"] == 10 * 501
    ticket = at_random(deep, 0.4, 0)
    expected = _matrix_paths(ticket)
    assert expected > 10**290
    table = paths(deep, ticket, example=torch.zeros(1, 10))
    assert table.summary["log10_paths"] == pytest.approx(math.log10(expected), rel=1e-12)
    wide = _chain([100] * 301)
    assert paths(wide, None, example=torch.zeros(1, 100)).summary["log10_paths"] == pytest.approx(
        602, rel=1e-12
    )


def test_thin_chains_beside_wide_ones_are_not_lost() -> None:
    # One route has 10^400 paths, the other a single one: rescaled counts would lose its weights.
    layers = [nn.Linear(101, 101, bias=False) for _ in range(200)]
    mask = torch.block_diag(torch.ones(100, 100), torch.ones(1, 1)).bool()
    model = nn.Sequential(*layers)
    ticket = Ticket.from_masks({f"{i}.weight": mask for i in range(200)})
    assert effective(model, ticket, example=torch.zeros(1, 101)) == ticket
    found = paths(model, ticket, example=torch.zeros(1, 101)).summary["log10_paths"]
    assert found == pytest.approx(math.log10(100**201 + 1), rel=1e-12)


# Laws


@pytest.mark.parametrize("name", NETWORKS)
def test_laws_of_effective_weights(name: str) -> None:
    network = NETWORKS[name]
    model = network.build()
    for density, seed in DENSITIES[1:]:
        ticket = at_random(model, density, seed)
        found = effective(model, ticket, example=network.example)
        assert (found & ticket) == found
        assert effective(model, found, example=network.example) == found
        before, after = (paths(model, t, example=network.example) for t in (ticket, found))
        for key in (
            "log10_paths",
            "nodes",
            "effective_parameters",
            "effective_kernels",
            "effective_sparsity",
        ):
            assert before.summary[key] == after.summary[key]
        more = effective(model, ticket | at_random(model, 0.2, seed + 100), example=network.example)
        assert (found & more) == found


def _values(kind: str, model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if kind == "zero":
                parameter.zero_()
            elif kind == "negative":
                parameter.copy_(-parameter.abs() - 1)
            elif kind == "zero gammas" and "norm" in name:
                parameter.zero_()
            elif kind == "large biases" and parameter.dim() == 1:
                parameter.fill_(1e6)
    return model


CHANGES: dict[str, Callable[[nn.Module], nn.Module]] = {
    **{kind: lambda m, k=kind: _values(k, m) for kind in ("zero", "negative", "zero gammas", "large biases")},  # type: ignore[misc]
    "half": lambda m: m.half(),
    "bfloat16": lambda m: m.bfloat16(),
    "float64": lambda m: m.double(),
    "channels last": lambda m: m.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
    "frozen": lambda m: m.requires_grad_(False),
    "eval": lambda m: m.eval(),
    "data parallel": lambda m: nn.DataParallel(m),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["conv", "residual", "transformer", "tied", "untraceable"])
def test_values_precision_and_layout_change_nothing(name: str, change: str) -> None:
    network = NETWORKS[name]
    model = network.build()
    ticket = at_random(model, 0.3, 0)
    plain = paths(model, ticket, example=network.example)
    masks = effective(model, ticket, example=network.example)
    example = network.example
    changed = CHANGES[change](copy.deepcopy(model))
    dtype = next(changed.parameters()).dtype
    example = example.to(dtype) if example.is_floating_point() else example
    if change == "channels last" and example.dim() == 4:
        example = example.to(memory_format=torch.channels_last)
    assert paths(changed, ticket, example=example) == plain
    assert effective(changed, ticket, example=example) == masks
    if example.is_floating_point():  # neither the values of the example nor its precision count
        assert paths(model, ticket, example=network.example - 3) == plain


@pytest.mark.parametrize("name", ["batch-norm", "dropout", "tied", "transformer", "untraceable"])
def test_the_model_is_left_as_it_was(name: str) -> None:
    network = NETWORKS[name]
    model = lived_in(network)
    ticket = at_random(model, 0.5, 0)
    before, running = snapshot(model), streams()
    for _ in range(2):
        paths(model, ticket, example=network.example)
        effective(model, ticket, example=network.example)
    assert snapshot(model) == before
    assert streams() == running
    copy.deepcopy(model)


# What cannot be done


def test_a_ticket_that_does_not_fit() -> None:
    model = NETWORKS["linear"].build()
    for masks in ({"nowhere": torch.ones(2, 2)}, {"0.weight": torch.ones(2, 2)}):
        for function in (paths, effective):
            with pytest.raises(TicketError, match="does not fit the model"):
                function(model, Ticket.from_masks(masks), example=ROW)


def test_what_is_not_there() -> None:
    model = NETWORKS["linear"].build()
    for function in (paths, effective):
        with pytest.raises(DisbudError, match="example"):
            function(model, None, example=None)
        with pytest.raises(DisbudError, match="example"):
            function(model, None, example="an image")
        with pytest.raises(DisbudError, match="meta"):
            function(copy.deepcopy(model).to("meta"), None, example=ROW)
        with pytest.raises(DisbudError, match="not a int"):
            function(3, None, example=ROW)
        with pytest.raises(DisbudError, match="nothing to prune"):
            function(nn.ReLU(), None, example=ROW)


def test_a_person_can_read_it() -> None:
    model = NETWORKS["conv"].build()
    table = paths(model, at_random(model, 0.2, 0), example=IMAGE)
    assert isinstance(table, Table)
    assert "log10_paths: " in str(table)
    assert paths(model, None, example=IMAGE) != table
