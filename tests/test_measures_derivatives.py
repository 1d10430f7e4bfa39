"""Jacobians and tangent kernels of pruned networks: brute-force autograd and closed forms as oracles."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

import disbud
from disbud import DisbudError, Ticket
from disbud.measures import jacobian, signal, tangent_kernel
from networks import NETWORKS
from test_measures_signal import case, convolutions, draw, evaluated, mlp, pruned_copy


@pytest.mark.parametrize("name", NETWORKS)
def test_jacobians_are_those_of_brute_force(name: str) -> None:
    model, ticket, x, _ = case(name)
    plain = evaluated(pruned_copy(model, ticket), "eval")
    if not x.is_floating_point():
        with pytest.raises(DisbudError, match=r"no Jacobian by inputs of torch\.int64"):
            jacobian(model, x, ticket)
        return
    exact = jacobian(model, x, ticket, batch_norm="eval")
    steps = jacobian(model, x, ticket, batch_norm="eval", steps=3)
    assert exact.summary["method"] == "exact"
    assert steps.summary["method"] == "Golub-Kahan, 3 steps"
    for i, row in enumerate(exact):
        matrix = torch.autograd.functional.jacobian(plain, x[i : i + 1]).reshape(3, -1)
        values = torch.linalg.svdvals(matrix)
        assert row["largest"] == pytest.approx(float(values[0]))
        assert row["smallest"] == pytest.approx(float(values[-1]), abs=1e-12)
        # As many steps as outputs find every value.
        assert steps["largest"][i] == pytest.approx(row["largest"])
        assert steps["smallest"][i] == pytest.approx(row["smallest"], abs=1e-9)
    assert exact.summary["largest"] == max(exact["largest"])
    assert exact.summary["smallest"] == min(exact["smallest"])


@pytest.mark.parametrize("name", NETWORKS)
def test_tangent_kernels_are_those_of_brute_force(name: str) -> None:
    model, ticket, x, _ = case(name)
    plain = evaluated(pruned_copy(model, ticket), "eval")
    names = [name for name, _ in plain.named_parameters()]
    expected = dict.fromkeys(names, 0.0)
    for i in range(len(x)):
        for k in range(NETWORKS[name].classes):
            gradients = torch.autograd.grad(
                plain(x[i : i + 1])[0, k], list(plain.parameters()), allow_unused=True
            )
            for one, gradient in zip(names, gradients, strict=True):
                if gradient is not None:
                    kept = gradient[ticket.masks[one]] if one in ticket.masks else gradient
                    expected[one] += float(kept.double().square().sum()) / len(x)
    table = tangent_kernel(model, x, ticket, batch_norm="eval")
    assert table.summary["method"] == "exact"
    assert table.summary["trace"] == pytest.approx(sum(expected.values()), rel=1e-4)
    traces = dict(zip(table["layer"], table["trace"], strict=True))
    others = sum(value for one, value in expected.items() if one not in ticket.masks)
    assert traces.pop("other parameters", 0) == pytest.approx(others, rel=1e-4)
    assert traces == pytest.approx({one: expected[one] for one in traces}, rel=1e-4)
    assert set(traces) == set(ticket.masks)
    assert sum(table["share"]) == pytest.approx(1)


# BatchNorm


def test_the_batchs_statistics_are_held_for_each_example() -> None:
    model, _, x, _ = convolutions()
    whole = torch.autograd.functional.jacobian(evaluated(copy.deepcopy(model)), x)
    # With statistics held, d y_i / d x_j is block diagonal; brute force without the gradient through the statistics.
    frozen = copy.deepcopy(model)
    hidden = frozen[0](x)
    frozen[1].running_mean = hidden.mean((0, 2, 3)).detach()
    frozen[1].running_var = hidden.var((0, 2, 3), correction=0).detach()
    held = torch.autograd.functional.jacobian(evaluated(frozen, "eval"), x)
    assert torch.allclose(evaluated(frozen, "eval")(x), evaluated(model)(x), atol=1e-5)
    assert not torch.allclose(whole, held, atol=1e-4)
    for i, row in enumerate(jacobian(model, x)):
        values = torch.linalg.svdvals(held[i, :, i].reshape(4, -1).double())
        assert row["largest"] == pytest.approx(float(values[0]), rel=1e-4)
    assert jacobian(model, x)["largest"] != jacobian(model, x, batch_norm="eval")["largest"]
    assert tangent_kernel(model, x).summary != tangent_kernel(model, x, batch_norm="eval").summary


def test_a_batchnorm_that_tracks_nothing_is_held_too() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 3))
    x = draw(9, 4)
    tracked = copy.deepcopy(model)
    tracked[1] = nn.BatchNorm1d(6)
    assert jacobian(model, x) == jacobian(tracked, x)
    assert model[1].running_mean is None


# Jacobians and tangent kernels in closed form


@pytest.mark.parametrize("widths", [[12, 9, 7], [7, 9, 12]])
def test_the_jacobian_of_a_linear_net_is_the_product_of_its_masked_matrices(widths: list[int]) -> None:
    model = mlp(widths, nn.Identity, variance=1)
    ticket = disbud.prune(model, "random", sparsity=0.3)
    first, second = (
        model.get_parameter(name).detach().double() * mask for name, mask in ticket.masks.items()
    )
    values = torch.linalg.svdvals(second @ first)
    for steps in (None, 50):
        table = jacobian(model, draw(2, widths[0]), ticket, steps=steps)
        assert table["largest"] == pytest.approx([float(values[0])] * 2, rel=1e-5)
        assert table["smallest"] == pytest.approx([float(values[-1])] * 2, rel=1e-4)
    assert table.summary["method"] == "Golub-Kahan, 7 steps"
    assert (table.summary["inputs"], table.summary["outputs"]) == (widths[0], widths[-1])


def test_products_with_the_jacobian_of_attention() -> None:
    model = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).double()
    x = draw(1, 3, 4).double()
    ticket = disbud.prune(model, "random", sparsity=0.2)
    exact, steps = (jacobian(model, x, ticket, steps=steps) for steps in (None, 12))
    matrix = torch.autograd.functional.jacobian(pruned_copy(model, ticket).eval(), x).reshape(12, 12)
    assert exact["largest"][0] == pytest.approx(float(torch.linalg.svdvals(matrix)[0]))
    assert steps["largest"][0] == pytest.approx(exact["largest"][0])


def test_large_jacobians_are_bounded_from_within_and_say_so() -> None:
    model = mlp([700, 600], nn.Identity, variance=1)
    values = torch.linalg.svdvals(model[0].weight.detach().double())
    table = jacobian(model, draw(1, 700))
    assert table.summary["method"] == "Golub-Kahan, 60 steps"
    assert table["largest"][0] == pytest.approx(float(values[0]), rel=1e-3)
    assert table["largest"][0] <= float(values[0]) * (1 + 1e-6)
    assert table["smallest"][0] >= float(values[-1]) * (1 - 1e-6)


def test_the_trace_of_a_linear_layer_in_closed_form() -> None:
    model = nn.Linear(5, 3)
    x = draw(4, 5)
    ticket = Ticket.from_masks({"weight": torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]])})
    table = tangent_kernel(model, x, ticket)
    expected = float((x.square().sum(1) + x[:, 0].square()).mean())
    assert table["trace"] == (pytest.approx(expected, rel=1e-5), pytest.approx(3))


def test_hutchinson_agrees_within_its_standard_error_and_follows_the_seed() -> None:
    model = mlp([10, 30, 30, 8], nn.ReLU, variance=2)
    ticket = disbud.prune(model, "random", sparsity=0.5)
    x = draw(12, 10)
    exact = tangent_kernel(model, x, ticket)
    estimates = [tangent_kernel(model, x, ticket, probes=40, seed=seed) for seed in range(12)]
    assert exact.summary["standard_error"] is None
    assert estimates[0].summary["method"] == "Hutchinson, 40 probes"
    off = torch.tensor(
        [
            (float(t.summary["trace"]) - float(exact.summary["trace"])) / float(t.summary["standard_error"])
            for t in estimates
        ]
    )
    assert off.mean().abs() < 4 / math.sqrt(12)
    assert 0.4 < off.std() < 2
    for i in range(3):
        mean = sum(t["trace"][i] for t in estimates) / 12
        assert mean == pytest.approx(
            exact["trace"][i], abs=5 * estimates[0]["standard_error"][i] / math.sqrt(12)
        )
    assert tangent_kernel(model, x, ticket, probes=40, seed=3) == estimates[3]
    assert estimates[0] != estimates[1]


def test_large_batches_of_outputs_take_probes() -> None:
    assert tangent_kernel(nn.Linear(3, 501), draw(2, 3)).summary["method"] == "Hutchinson, 64 probes"


def test_random_pruning_multiplies_the_kernel_by_the_density_to_the_power_of_the_depth() -> None:
    # METHODS 6: by c^L in a bias-free ReLU net; weights rescaled in place by 1/sqrt(c) bring it back to c, not 1.
    density = 0.4
    # The first layer stays whole (its few inputs would make the outcome noisy), so L counts the three others.
    model = mlp([30, 300, 300, 300, 5], nn.ReLU, variance=2)
    x = draw(4, 30)
    dense = tangent_kernel(model, x)["trace"]
    rescaled = copy.deepcopy(model)
    for layer in (2, 4, 6):
        rescaled[layer].weight.data /= math.sqrt(density)
    ratios = torch.zeros(8, 2, 3)
    for seed in range(8):
        ticket = disbud.prune(
            model, "random", sparsity=1 - density, seed=seed, exclude="0.*", densities="uniform"
        )
        for i, net in enumerate((model, rescaled)):
            pruned = tangent_kernel(net, x, ticket)["trace"]
            ratios[seed, i] = torch.tensor([a / b for a, b in zip(pruned[1:], dense[1:], strict=True)])
    assert ratios.mean(0)[0].tolist() == pytest.approx([density**3] * 3, rel=0.15)
    assert ratios.mean(0)[1].tolist() == pytest.approx([density] * 3, rel=0.15)


def test_frozen_parameters_are_not_trained() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    whole = tangent_kernel(model, draw(3, 4))
    model[0].requires_grad_(False)
    part = tangent_kernel(model, draw(3, 4))
    assert part["layer"] == ("1.weight", "other parameters")
    assert part["trace"][0] == whole["trace"][1]
    assert signal(model, (draw(3, 4), torch.zeros(3).long()))["sensitivity"][0] > 0
    model.requires_grad_(False)
    with pytest.raises(DisbudError, match="every parameter of the model is frozen"):
        tangent_kernel(model, draw(3, 4))
