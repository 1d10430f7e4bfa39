"""PHEW: exact counts, weights on paths, and walks whose steps have the probabilities that their definition gives."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import disbud
from disbud.errors import DisbudError
from disbud.graph import prunable, reach
from disbud.graph.links import links
from disbud.measures import paths
from disbud.methods.walks import Walks
from disbud.models import build
from disbud.parameters import parameters
from disbud.selection import kept_count
from networks import NETWORKS, Network

IMAGE = torch.zeros(1, 3, 32, 32)


def walks_of(model: nn.Module, example: Tensor) -> tuple[Walks, list[disbud.Layer]]:
    layers = prunable(model, example=example)
    names = [layer.name for layer in layers]
    owned = {name: parameters(model)[name].detach() for name in names}
    usable = reach(model, None, example=example).effective
    return Walks(links(model, names, example=example), layers, owned, usable), layers


def counts_by_layer(taken: np.ndarray, layers: list[disbud.Layer]) -> dict[str, Tensor]:
    ids = taken[taken >= 0]
    all_counts = torch.from_numpy(np.bincount(ids, minlength=sum(layer.size for layer in layers)))
    parts = all_counts.split([layer.size for layer in layers])
    return {layer.name: part.view(layer.shape) for layer, part in zip(layers, parts, strict=True)}


@pytest.mark.parametrize("sparsity", [0.0001, 0.5, 0.77, 0.9])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore:sparsity=0.0001 removes")
def test_the_count_is_exact_and_what_walks_keep_is_on_a_path(name: str, sparsity: float) -> None:
    network = NETWORKS[name]
    model = network.build()
    ticket = disbud.prune(model, "phew", sparsity=sparsity, example=network.example)
    assert ticket.kept == kept_count(sparsity, ticket.total)
    assert ticket == disbud.prune(model, "phew", sparsity=sparsity, example=network.example)
    table = paths(model, ticket, example=network.example)
    assert table.log10_paths > -math.inf
    if sparsity > 0.5:  # at most the last walk is cut short, by less than its length
        assert ticket.kept - table.effective_parameters < len(ticket.masks)  # type: ignore[operator]


def expected_forward(model: nn.Sequential, inputs: int) -> list[Tensor]:
    """The chance that a walk takes each weight, layer by layer, of a chain of linear layers."""
    at = torch.full((inputs,), 1 / inputs, dtype=torch.float64)
    chances = []
    for layer in model:
        if isinstance(layer, nn.Linear):
            size = layer.weight.detach().abs().double()
            chance = at * size / size.sum(0)
            chances.append(chance)
            at = chance.sum(1)
    return chances


def test_steps_are_as_likely_as_weights_are_large() -> None:
    network = NETWORKS["without-biases"]
    model = network.build()
    assert isinstance(model, nn.Sequential)
    walks, layers = walks_of(model, network.example)
    n = 200_000
    rng = np.random.default_rng(0)
    forward = counts_by_layer(walks.forward(n, rng), layers)
    for layer, chance in zip(layers, expected_forward(model, 6), strict=True):
        assert forward[layer.name].numpy() == pytest.approx((n * chance).numpy(), abs=5 * math.sqrt(n / 4))
        error = (forward[layer.name] - n * chance) / (n * chance * (1 - chance)).sqrt()
        assert float(error.abs().max()) < 5
        assert float((error**2).mean()) == pytest.approx(1, abs=0.6)
    # Backwards, the same on the transposed network.
    turned = nn.Sequential(
        *(nn.Linear(m.out_features, m.in_features) for m in reversed(model) if isinstance(m, nn.Linear))
    )
    for own, other in zip(turned, (m for m in reversed(model) if isinstance(m, nn.Linear)), strict=True):
        own.weight.data = other.weight.detach().t()
    backward = counts_by_layer(walks.backward(n, rng), layers)
    for layer, chance in zip(reversed(layers), expected_forward(turned, 3), strict=True):
        error = (backward[layer.name].t() - n * chance) / (n * chance * (1 - chance)).sqrt()
        assert float(error.abs().max()) < 5


def test_kernels_are_taken_by_their_l1_norm() -> None:
    network = NETWORKS["conv"]
    model = network.build()
    walks, layers = walks_of(model, network.example)
    n = 100_000
    found = counts_by_layer(walks.forward(n, np.random.default_rng(0)), layers)["0.weight"]
    norms = parameters(model)["0.weight"].detach().abs().double().sum((2, 3))
    chance = norms / norms.sum(0) / 3
    error = (found.sum((2, 3)) - n * chance) / (n * chance * (1 - chance)).sqrt()
    assert float(error.abs().max()) < 5


def test_past_an_addition_a_walk_takes_readers_by_their_l1_norm() -> None:
    network = NETWORKS["residual"]
    model = network.build()
    walks, layers = walks_of(model, network.example)
    n = 200_000
    taken = walks.forward(n, np.random.default_rng(0))
    found = counts_by_layer(taken, layers)
    branch, shortcut = (
        parameters(model)[name].detach().abs().double().flatten(2).sum((0, 2))
        for name in ("branch.0.weight", "shortcut.weight")
    )
    reached = found["stem.weight"].sum((1, 2, 3))
    by_shortcut = found["shortcut.weight"].sum((0, 2, 3))
    assert torch.equal(by_shortcut + found["branch.0.weight"].sum((0, 2, 3)), reached)
    chance = shortcut / (shortcut + branch)
    error = (by_shortcut - reached * chance) / (reached * chance * (1 - chance)).sqrt()
    assert float(error.abs().max()) < 5
    assert (taken >= 0).sum(1).min() == 3  # stem, shortcut, head
    assert (taken >= 0).sum(1).max() == 4


def leads_from_input_to_output(network: Network, backward: bool) -> None:
    """Every walk by itself is a ticket of which all weights are on a path."""
    model = network.build()
    walks, layers = walks_of(model, network.example)
    rng = np.random.default_rng(0)
    taken = walks.backward(20, rng) if backward else walks.forward(20, rng)
    for walk in taken:
        masks = {name: count > 0 for name, count in counts_by_layer(walk, layers).items()}
        ticket = disbud.Ticket.from_masks(masks)
        assert paths(model, ticket, example=network.example).effective_parameters == ticket.kept > 0


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
    "name", ["linear", "conv1d", "grouped", "residual", "densely-connected", "transposed", "unused-branch"]
)
def test_walks_lead_from_input_to_output(name: str, backward: bool) -> None:
    # Maps here are small, yet no two taps of one walk can miss each other: each layer's map is read whole further on.
    if name in ("conv1d", "residual", "grouped", "densely-connected", "transposed"):
        leads_from_input_to_output(wide(name), backward)
    else:
        leads_from_input_to_output(NETWORKS[name], backward)


def wide(name: str) -> Network:
    """The network on inputs so large that every tap of one layer meets every tap of the next somewhere."""
    network = NETWORKS[name]
    shape = (*network.example.shape[:2], *(12,) * (network.example.dim() - 2))
    return network._replace(example=torch.zeros(shape))


def test_weights_of_zero_are_walked_last_and_large_ones_first() -> None:
    model = NETWORKS["linear"].build()
    first = parameters(model)["0.weight"]
    with torch.no_grad():
        first[:4] = 0
        first[4:, :3] *= 100
    ticket = disbud.prune(model, "phew", sparsity=0.8, example=torch.zeros(1, 6))
    assert not ticket.masks["0.weight"][:4].any()
    sizes = {name: parameters(model)[name].detach().abs() for name in ticket.masks}
    dense = disbud.prune(model, "phew", sparsity=0.6, example=torch.zeros(1, 6))
    for name, mask in dense.masks.items():
        assert sizes[name][mask].mean() > sizes[name].mean()


def test_other_seeds_walk_other_ways() -> None:
    model = build("resnet20")
    tickets = [disbud.prune(model, "phew", sparsity=0.98, example=IMAGE, seed=seed) for seed in (0, 1)]
    assert tickets[0] != tickets[1]
    table = paths(model, tickets[0], example=IMAGE)
    assert table.effective_parameters == tickets[0].kept == 5418


def test_wrong_requests() -> None:
    network = NETWORKS["conv"]
    model = network.build()
    with pytest.raises(DisbudError, match="share the budget among the layers themselves"):
        disbud.prune(model, "phew", sparsity=0.5, densities="erk", example=network.example)
    with pytest.raises(DisbudError, match=r"give example=\.\.\."):
        disbud.prune(model, "phew", sparsity=0.5)
    with pytest.raises(DisbudError, match="gives no scores"):
        disbud.scores(model, "phew", example=network.example)


def test_fewer_weights_than_a_path_needs() -> None:
    model = NETWORKS["without-biases"].build()
    with pytest.warns(UserWarning, match=r"no path leads .* 2 weights are fewer than a path needs"):
        ticket = disbud.prune(model, "phew", sparsity=1 - 2 / 136, example=torch.zeros(1, 6))
    assert ticket.kept == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ticket = disbud.prune(model, "phew", sparsity=1 - 3 / 136, example=torch.zeros(1, 6))
    assert paths(model, ticket, example=torch.zeros(1, 6)).effective_parameters == 3


def test_weights_of_zero_throughout_are_said_to_be_the_reason() -> None:
    model = NETWORKS["without-biases"].build()
    last = list(parameters(model))[-1]
    with torch.no_grad():
        parameters(model)[last].zero_()
    with pytest.warns(
        UserWarning, match=rf"walks take no weight of zero, and those of {last} are all zero"
    ) as caught:
        ticket = disbud.prune(model, "phew", sparsity=0.3, example=torch.zeros(1, 6))
    assert "fewer than a path needs" not in str(caught[0].message)
    assert ticket.kept == kept_count(0.3, ticket.total)


class Packed(nn.Module):
    """Three linear layers held in one weight, each read by its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.packed, self.last = nn.Linear(6, 8), nn.Linear(8, 24, bias=False), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        q, k, v = (torch.nn.functional.linear(h, self.packed.weight[8 * i : 8 * i + 8]) for i in range(3))
        return self.last(torch.relu(q) + torch.relu(k) + torch.relu(v))  # type: ignore[no-any-return]


class Apart(Packed):
    """The same, each in a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        parts = self.packed.weight.detach().split(8)
        self.parts = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in parts)
        for layer, weight in zip(self.parts, parts, strict=True):
            layer.weight = nn.Parameter(weight.clone())
        del self.packed

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.last(sum(torch.relu(part(h)) for part in self.parts))  # type: ignore[no-any-return]


@pytest.mark.parametrize("backward", [False, True])
def test_walks_through_rows_of_a_weight_are_those_through_layers_of_their_own(backward: bool) -> None:
    taken = []
    for kind in (Packed, Apart):
        torch.manual_seed(0)
        walks, layers = walks_of(kind(), torch.zeros(1, 6))
        rng = np.random.default_rng(0)
        found = counts_by_layer((walks.backward if backward else walks.forward)(4000, rng), layers)
        taken.append(
            [found["first.weight"], torch.cat([found[n] for n in found if "pa" in n]), found["last.weight"]]
        )
    assert all(torch.equal(one, other) for one, other in zip(*taken, strict=True))
    torch.manual_seed(0)
    ticket = disbud.prune(Packed(), "phew", sparsity=0.6, example=torch.zeros(1, 6))
    assert ticket.kept == kept_count(0.6, ticket.total)


def test_a_reading_that_walks_cannot_tell_is_an_error() -> None:
    class Upwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.up = nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.conv_transpose2d(self.first(x)[:, :4], self.up.weight[:4])

    with pytest.raises(DisbudError, match=r"up.weight"):
        disbud.prune(Upwards(), "phew", sparsity=0.5, example=torch.zeros(1, 3, 4, 4))
