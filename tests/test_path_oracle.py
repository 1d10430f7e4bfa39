"""The oracle of effective paths against itself: enumeration path by path, calculus, closed forms."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from networks import NETWORKS
from path_calculus import Linearised, sensitive
from path_check import DENSITIES, at_random
from path_models import CUSTOM
from path_walk import answer, as_tensors, solved


@pytest.mark.parametrize("name", NETWORKS)
def test_the_oracle_counts_what_it_enumerates(name: str) -> None:
    network = NETWORKS[name]
    model = network.build()
    counted = 0
    for density, seed in DENSITIES[1:]:
        solution = solved(model, at_random(model, density, seed), network.example)
        if 0 < solution.paths < 20_000:
            walks = list(solution.walks())
            assert len(walks) == solution.paths
            if not solution.graph.scores:  # queries and keys carry no path
                assert solution.used() == set().union(*walks)
            counted += 1
    assert counted


@pytest.mark.parametrize("name", ["linear", "without-biases", "conv", "batch-norm", "strided", "grouped"])
def test_the_oracle_agrees_with_calculus(name: str) -> None:
    network = NETWORKS[name]
    model = network.build()
    for density, seed in DENSITIES:
        ticket = at_random(model, density, seed)
        total, masks = Linearised(model, ticket).counted(network.example)
        expected = answer(model, ticket, network.example)
        assert total == expected.paths
        assert all(torch.equal(masks[key], mask) for key, mask in as_tensors(expected.effective).items())


# Where one entry of several passes (a maximum), the derivative at a point is not what can be.
MAXIMA = {"inception", "shuffle", "joins", "functions"}
SMOOTH = {name: entry for name, entry in CUSTOM.items() if name not in MAXIMA} | {
    name: (network.build, network.example if network.example.is_floating_point() else torch.arange(4)[None])
    for name, network in NETWORKS.items()
    if name not in ("conv", "grouped")
}


@pytest.mark.parametrize("name", SMOOTH)
def test_the_oracle_knows_what_gates_and_scores_can_change(name: str) -> None:
    factory, example = SMOOTH[name]
    model = factory()
    for density, seed in DENSITIES[::2]:
        ticket = at_random(model, density, seed)
        expected = as_tensors(answer(model, ticket, example).effective)
        for layer, mask in sensitive(model, ticket, example).items():
            assert torch.equal(mask, expected[layer]), (layer, density, seed)


def test_the_oracle_knows_closed_forms() -> None:
    # Three 3x3 convolutions without padding on 7x7: every tap meets every output position.
    chain = nn.Sequential(*(nn.Conv2d(a, b, 3) for a, b in itertools.pairwise((2, 3, 4, 5))))
    assert answer(chain, None, torch.zeros(1, 2, 7, 7)).paths == 2 * 3 * 4 * 5 * 9 * 9 * 9
    # One 3x3 convolution with padding: 9 taps at inner positions, 6 at edges, 4 at corners.
    edge = nn.Conv2d(1, 1, 3, padding=1)
    assert answer(edge, None, torch.zeros(1, 1, 5, 5)).paths == 9 * 9 + 12 * 6 + 4 * 4
    assert answer(nn.Linear(3, 5), None, torch.zeros(1, 3)).nodes == 8
