"""The recursions layer by layer, held to real pruned networks, and the reading of models."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import disbud
from disbud import DisbudError, measures, models, robust, theory
from disbud.theory import ChainLayer


def test_with_equal_layers_it_is_the_recursion_of_the_first_half() -> None:
    widths = [30, 50, 20, 40]
    chain = [ChainLayer(a, b, sigma_w=1.4, sigma_b=0.3) for a, b in pairwise(widths)]
    found = theory.propagate("tanh", chain, input_moment=0.7, input_correlation=0.2)
    settings = {"depth": 3, "sigma_w": 1.4, "sigma_b": 0.3, "input_moment": 0.7}
    forward = theory.forward("tanh", **settings, input_correlation=0.2)
    backward = theory.backward("tanh", **settings, widths=widths)
    assert found.q == pytest.approx(forward.q)
    assert found.correlations == pytest.approx(forward.correlations)
    assert found.gradients == pytest.approx(backward.gradients)
    relative = np.array(found.sensitivities) / found.sensitivities[-1]
    assert relative == pytest.approx(np.array(backward.sensitivities))
    assert found.log_decay == pytest.approx(sum(map(math.log, backward.chi)))


def test_pruned_nets_follow_the_recursion() -> None:
    """A tanh net of unlike layers, pruned by magnitude: variances, correlations, gradients, the tangent kernel."""
    width, depth = 400, 6
    found = []
    for seed in range(4):
        model = models.build(
            f"mlp:hidden={'+'.join([str(width)] * depth)},activation=tanh", input_shape=(width,), seed=seed
        )
        theory.initialize_(model, activation="tanh", sigma_b=0.2, seed=seed)
        ticket = disbud.prune(model, "magnitude", sparsity=0.7, densities="uniform")
        x = torch.randn(30, width, generator=torch.Generator().manual_seed(seed))
        chain = theory.chain_of(model, ticket)
        said = theory.propagate("tanh", chain, input_moment=float(x.square().mean()), input_correlation=0.0)
        measured = measures.signal(model, x, ticket)
        kernel = measures.tangent_kernel(model, x[:5], ticket)
        found.append(
            (
                np.array(measured["activation_moment"]) / said.q,
                np.array(measured["correlation"][2:-1]) / np.array(said.correlations[2:-1]),
                kernel.trace / 10 / sum(said.kernel),
            )
        )
    moments, correlations, kernel = (np.mean([row[i] for row in found], axis=0) for i in range(3))
    # The last layer has ten outputs, so its moment is that of few units.
    assert moments[:-1] == pytest.approx(np.ones(depth), rel=0.1)
    assert correlations == pytest.approx(np.ones(depth - 2), rel=0.1)
    assert kernel == pytest.approx(1, rel=0.15)


@pytest.mark.parametrize("density", [0.5, 0.2])
def test_random_pruning_takes_the_tangent_kernel_to_the_power_of_the_depth_and_rescaling_leaves_one(
    density: float,
) -> None:
    depth, width, ratios = 4, 300, []
    for seed in range(4):
        layers: list[nn.Module] = []
        for _ in range(depth - 1):
            layers += [nn.Linear(width, width, bias=False), nn.ReLU()]
        model = nn.Sequential(*layers, nn.Linear(width, 10, bias=False))
        theory.initialize_(model, activation="relu", seed=seed)
        x = torch.randn(10, width, generator=torch.Generator().manual_seed(seed))
        dense = measures.tangent_kernel(model, x).trace
        ticket = disbud.prune(model, "random-uniform", sparsity=1 - density, seed=seed)
        pruned = measures.tangent_kernel(model, x, ticket).trace
        theory.rescale_(model, ticket)
        ratios.append((pruned / dense, measures.tangent_kernel(model, x, ticket).trace / dense))
    pruned, rescaled = np.mean(ratios, axis=0)
    assert pruned == pytest.approx(density**depth, rel=0.2)
    assert rescaled == pytest.approx(density, rel=0.2)


def test_a_chain_is_read_off_a_model_with_and_without_its_ticket() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 1, bias=False))
    model[1].weight.data = torch.tensor([[1.0, 1.0, 1.0, 3.0], [0.0, 2.0, 0.0, 0.0]])
    model[1].bias.data = torch.tensor([3.0, 4.0])
    ticket = disbud.Ticket.from_masks({"1.weight": torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0]])})
    first, last = theory.chain_of(model, ticket)
    assert (first.name, first.n_in, first.n_out, first.kept) == ("1.weight", 4, 2, 2)
    assert first.sigma_w == pytest.approx(math.sqrt(4 * 10 / 8))
    assert first.sigma_b == pytest.approx(math.sqrt(12.5))
    assert (last.sigma_b, last.kept) == (0.0, 2)
    assert theory.chain_of(model)[0].sigma_w == pytest.approx(math.sqrt(4 * 16 / 8))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (nn.ReLU(), "relu"),
        (nn.ELU(0.5), "elu:alpha=0.5"),
        (nn.ELU(1 / 3), "elu:alpha=0.3333333333333333"),
        (nn.LeakyReLU(0.123456789), "leaky-relu:slope=0.123456789"),
        (nn.LeakyReLU(1e-5), "leaky-relu:slope=1e-05"),
        (nn.Hardtanh(), "hard-tanh"),
        (nn.SiLU(), "silu"),
        (nn.Identity(), "linear"),
    ],
)
def test_activations_are_read_off_modules(module: nn.Module, name: str) -> None:
    found = theory.activation_of(nn.Sequential(nn.Linear(2, 2), module))
    assert found == name
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)
    assert theory.activation(found).function(x.numpy()) == pytest.approx(module(x).numpy(), rel=1e-12)


def test_the_approximate_gelu_is_read_as_the_exact_one_with_a_word_on_how_far_off_that_is() -> None:
    approximate = nn.GELU(approximate="tanh")
    with pytest.warns(UserWarning, match=r"approximate='tanh'.* differs by 0\.0005 at most"):
        assert theory.activation_of(nn.Sequential(nn.Linear(2, 2), approximate)) == "gelu"
    x = torch.linspace(-10, 10, 100_001, dtype=torch.float64)
    assert 0.0004 < float((approximate(x) - nn.GELU()(x)).abs().max()) < 0.0005


class Calls(nn.Module):
    """Its activations are functions, so no module says which."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 30), nn.Linear(30, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x.flatten(1))))


def test_a_model_of_several_layers_without_an_activation_module_is_not_taken_for_linear() -> None:
    says = r"no activation module found.*name it, activation='relu' \(or 'linear'\)"
    x, y = torch.randn(6, 64), torch.arange(6)
    for call in (
        lambda: theory.activation_of(Calls()),
        lambda: robust.forecast(Calls(), x),
        lambda: robust.mbp(Calls(), sparsity=0.5),
        lambda: robust.sbp(Calls(), sparsity=0.5, batches=[(x, y)]),
    ):
        with pytest.raises(DisbudError, match=says):
            call()
    assert "no activation module found" in str(robust.sensitivities(Calls(), (x, y)).no_prediction)
    named = robust.mbp(Calls(), sparsity=0.5, activation="relu").origin.settings
    assert (named["activation"], named["sigma_w"]) == ("relu", pytest.approx(math.sqrt(2)))
    assert theory.activation_of(nn.Sequential(nn.Flatten(), nn.Linear(4, 2))) == "linear"


def test_what_the_recursions_cannot_follow_is_refused() -> None:
    for spec, says in {
        "resnet20": "normalises",
        "conv-2": "no plain linear layer",
        "vgg11": "no plain linear layer",
    }.items():
        with pytest.raises(DisbudError, match=says):
            theory.chain_of(models.build(spec))
    with pytest.raises(DisbudError, match="several activations"):
        theory.activation_of(nn.Sequential(nn.ReLU(), nn.Tanh()))
    with pytest.raises(DisbudError, match="layer 1 gives 3 signals and layer 2 reads 4"):
        theory.propagate("relu", [ChainLayer(2, 3, 1.0), ChainLayer(4, 1, 1.0)])
    with pytest.raises(DisbudError, match="at least one layer"):
        theory.propagate("relu", [])
    with pytest.raises(DisbudError, match="have grown"):
        theory.propagate("linear", [ChainLayer(2, 2, 1e60)] * 2)


def test_signals_that_all_but_vanish_keep_their_digits() -> None:
    # A tenth a layer over 300 layers: far below what floats square to.
    chain = [ChainLayer(5, 5, sigma_w=math.sqrt(0.2))] * 300
    found = theory.propagate("relu", chain, input_correlation=0.3)
    assert found.log_decay == pytest.approx(299 * math.log(0.1))
    dense = theory.propagate("relu", [ChainLayer(5, 5, sigma_w=math.sqrt(2))] * 300, input_correlation=0.3)
    assert found.correlations == pytest.approx(dense.correlations, abs=1e-9)


def test_hard_tanh_and_the_other_closed_forms_agree_with_quadrature() -> None:
    import dataclasses

    from disbud.theory import moments

    for name in ("hard-tanh", "relu", "leaky-relu:slope=0.3", "erf"):
        closed = theory.activation(name)
        plain = dataclasses.replace(closed, closed=None)
        for q in (0.003, 0.4, 7.0, 300.0):
            at = np.array([q])
            assert moments.second_moment(closed, at) == pytest.approx(
                moments.second_moment(plain, at), rel=1e-11
            )
            assert moments.slope_moment(closed, at) == pytest.approx(
                moments.slope_moment(plain, at), rel=1e-11
            )
            for gap in (1e-9, 1e-4, 0.1, 0.8, 1.3, 1.9999):
                for of in (moments.half_difference, moments.slope_product):
                    assert of(closed, q, gap) == pytest.approx(of(plain, q, gap), rel=1e-9, abs=1e-14)
