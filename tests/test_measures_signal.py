"""Signals through pruned networks: linear algebra and mean-field closed forms as oracles; the model stays as it was."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

import disbud
from disbud import DisbudError, Ticket, TicketError
from disbud.measures import Table, jacobian, signal, tangent_kernel
from disbud.seeds import generator
from networks import NETWORKS


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed, "test"))


def pruned_copy(model: nn.Module, ticket: Ticket) -> nn.Module:
    model = copy.deepcopy(model)
    ticket.apply_(model)
    return model


def mlp(
    widths: list[int], activation: Callable[[], nn.Module], *, variance: float, bias: float = 0
) -> nn.Module:
    """Weights N(0, variance / fan_in), biases N(0, bias)."""
    parts: list[nn.Module] = []
    for i, (fan_in, width) in enumerate(pairwise(widths)):
        linear = nn.Linear(fan_in, width, bias=bias > 0)
        linear.weight.data = draw(width, fan_in, seed=i) * math.sqrt(variance / fan_in)
        if bias:
            linear.bias.data = draw(width, seed=100 + i) * math.sqrt(bias)
        parts += [linear, activation()]
    return nn.Sequential(*parts[:-1])


def case(name: str) -> tuple[nn.Module, Ticket, Tensor, Tensor]:
    """A network in float64, a random half of its weights, a batch of six."""
    network = NETWORKS[name]
    model = network.build().double()
    return model, disbud.prune(model, "random", sparsity=0.5), *network.batch(6)


def evaluated(model: nn.Module, batch_norm: str = "train") -> nn.Module:
    for module in model.modules():
        module.training = batch_norm == "train" and isinstance(module, _BatchNorm)
    return model


def convolutions() -> tuple[nn.Sequential, Ticket, Tensor, Tensor]:
    """A convolution behind which a ReLU works in place."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(72, 4)
    )
    for i, parameter in enumerate(model.parameters()):
        parameter.data = draw(*parameter.shape, seed=i) / 3
    return model, disbud.prune(model, "random", sparsity=0.5), draw(6, 3, 8, 8, seed=50), torch.arange(6) % 4


# Every measure on every network


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_and_sensitivities_are_those_of_the_pruned_copy(name: str) -> None:
    model, ticket, x, y = case(name)
    table = signal(model, (x, y), ticket)
    plain = evaluated(pruned_copy(model, ticket))
    loss = F.cross_entropy(plain(x), y)
    loss.backward()
    assert table.summary["loss"] == pytest.approx(loss.item())
    squares = 0.0
    for row in table:
        parameter, mask = plain.get_parameter(str(row["layer"])), ticket.masks[str(row["layer"])]
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        w, g = parameter.detach()[mask], gradient[mask]
        assert row["kept"] == len(w)
        assert row["weight_gradient_moment"] == pytest.approx(float((g**2).mean()))
        assert row["sensitivity"] == pytest.approx(float(((w * g) ** 2).mean()))
        squares += float((g**2).sum())
    assert table.summary["gradient_norm"] == pytest.approx(math.sqrt(squares))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch_norm", ["train", "eval"])
def test_the_model_is_left_as_it_was(name: str, batch_norm: str) -> None:
    model, ticket, x, y = case(name)
    model.train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    objects = [id(one) for one in (*model.parameters(), *model.buffers())]
    stream = torch.random.get_rng_state()

    def run() -> list[Table]:
        found = [
            signal(model, (x, y), ticket, batch_norm=batch_norm),
            tangent_kernel(model, x[:2], ticket, batch_norm=batch_norm),
            tangent_kernel(model, x[:2], ticket, batch_norm=batch_norm, probes=3),
        ]
        if x.is_floating_point():
            found.append(jacobian(model, x[:2], ticket, batch_norm=batch_norm))
        return found

    assert run() == run()
    assert torch.equal(stream, torch.random.get_rng_state())
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [id(one) for one in (*model.parameters(), *model.buffers())] == objects
    assert all(one.grad is None and isinstance(one, nn.Parameter) for one in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


# Forward and backward


def test_moments_and_correlations_are_those_of_the_layers_own_outputs() -> None:
    model, ticket, x, y = convolutions()
    plain = evaluated(pruned_copy(model, ticket))
    hidden = plain[0](x)
    hidden.retain_grad()
    # The in-place ReLU must not hide what the convolution gave.
    read = F.relu(plain[1](hidden)).flatten(1)
    output = plain[4](read)
    output.retain_grad()
    F.cross_entropy(output, y).backward()
    conv, linear = signal(model, (x, y), ticket)
    whole = ((conv, x, hidden, hidden.grad), (linear, read, output, output.grad))
    for row, inputs, outputs, gradient in ((a, b.detach(), c.detach(), d) for a, b, c, d in whole):
        assert row["input_moment"] == pytest.approx(float(inputs.square().mean()), rel=1e-4)
        assert row["activation_moment"] == pytest.approx(float(outputs.square().mean()), rel=1e-4)
        assert row["gradient_moment"] == pytest.approx(float((6 * gradient).square().mean()), rel=1e-4)
        cosines = F.cosine_similarity(outputs.flatten(1)[:, None], outputs.flatten(1)[None], dim=2)
        pairs = cosines[torch.triu(torch.ones(6, 6), 1).bool()]
        assert row["correlation"] == pytest.approx(float(pairs.mean()), abs=1e-5)


def test_a_weight_used_twice_counts_both_uses() -> None:
    model, ticket, x, y = case("tied")
    plain = pruned_copy(model, ticket)
    first = plain.hidden(plain.embed(x).mean(1))
    second = plain.hidden(torch.tanh(first))
    rows = {row["layer"]: row for row in signal(model, (x, y), ticket)}
    row = rows["hidden.weight"]
    both = torch.cat([first, second], 1).detach()
    assert row["activation_moment"] == pytest.approx(float(both.square().mean()), rel=1e-4)
    cosines = F.cosine_similarity(both[:, None], both[None], dim=2)
    assert row["correlation"] == pytest.approx(float((cosines.sum() - 6) / 30), abs=1e-5)


def test_wide_relu_nets_from_kaiming_keep_the_second_moment_and_follow_the_arc_cosine_map() -> None:
    model = mlp([64, 1500, 1500, 1500, 1500, 10], nn.ReLU, variance=2)
    x = draw(16, 64, seed=50)
    table = signal(model, (x, torch.arange(16) % 10))
    moments = list(table["activation_moment"])[:-1]
    assert moments == pytest.approx([2 * float(x.square().mean())] * 4, rel=0.1)
    # Cho & Saul 2009: c' = (sqrt(1 - c^2) + c (pi - arccos c)) / pi.
    for before, after in pairwise(list(table["correlation"])[:-1]):
        mapped = (math.sqrt(1 - before**2) + before * (math.pi - math.acos(before))) / math.pi
        assert after == pytest.approx(mapped, abs=0.05)
    # Backwards, chi = variance / 2 = 1: the gradient's moment too is kept between layers of one width.
    gradients = list(table["gradient_moment"])[:-1]
    assert gradients == pytest.approx([gradients[-1]] * 4, rel=0.25)
    assert table.summary["sensitivity_spread"] < 1e4


@pytest.mark.parametrize(("bias", "deviation", "q"), [(0.05, 1.1225, 0.154), (0.2, 1.3041, 0.512)])
def test_tanh_nets_on_the_edge_of_chaos_keep_moments_and_sensitivity(
    bias: float, deviation: float, q: float
) -> None:
    # METHODS 6's pairs (sigma_b, sigma_w, q); chi = 1, so the sensitivity neither grows nor decays with depth.
    model = mlp([400] * 21, nn.Tanh, variance=deviation**2, bias=bias**2)
    x = draw(8, 400, seed=50) * math.sqrt(q)
    table = signal(model, (x, torch.arange(8)))
    assert table["activation_moment"][-1] == pytest.approx(q, rel=0.25)
    assert abs(table.summary["sensitivity_slope"]) < 0.06


@pytest.mark.parametrize("deviation", [0.7, 2.0])
def test_off_the_edge_the_sensitivity_has_the_slope_of_log_chi(deviation: float) -> None:
    # chi = sw^2 E[phi'(sqrt(q) Z)^2], q the fixed point; m_l / m_L = chi^(L - l), so log m_l falls by log chi a layer.
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    law = torch.exp(-(z**2) / 2) / (torch.exp(-(z**2) / 2)).sum()
    q = 1.0
    for _ in range(500):
        q = 0.01 + deviation**2 * float((law * torch.tanh(math.sqrt(q) * z) ** 2).sum())
    chi = deviation**2 * float((law * (1 - torch.tanh(math.sqrt(q) * z) ** 2) ** 2).sum())
    model = mlp([300] * 16, nn.Tanh, variance=deviation**2, bias=0.01)
    inputs = torch.tanh(draw(32, 300, seed=50) * math.sqrt(q))
    table = signal(model, (inputs, torch.arange(32)))
    assert table.summary["sensitivity_slope"] == pytest.approx(-math.log(chi), rel=0.1)
    assert math.log(table.summary["sensitivity_spread"]) > 10 * abs(math.log(chi))


def test_an_emptied_layer_passes_nothing() -> None:
    model = mlp([6, 5, 4], nn.ReLU, variance=2)
    ticket = Ticket.from_masks({"0.weight": torch.zeros(5, 6), "2.weight": torch.ones(4, 5)})
    table = signal(model, (draw(3, 6), torch.arange(3)), ticket)
    first, last = table
    assert (first["kept"], first["activation_moment"], first["sensitivity"]) == (0, 0, None)
    assert (first["correlation"], last["gradient_moment"] > 0) == (None, True)
    assert table.summary["gradient_norm"] == 0
    assert table.summary["sensitivity_slope"] is None
    (row,) = jacobian(model, draw(1, 6), ticket)
    assert (row["largest"], row["smallest"], row["condition"]) == (0, 0, None)


def test_inputs_alone_give_the_forward_measures() -> None:
    model, ticket, x, y = case("residual")
    full, forward = signal(model, (x, y), ticket), signal(model, x, ticket)
    for column in ("activation_moment", "input_moment", "correlation"):
        assert forward[column] == full[column]
    assert forward["sensitivity"] == forward["gradient_moment"] == (None,) * len(ticket.masks)
    assert (forward.summary["loss"], forward.summary["gradient_norm"]) == (None, None)


def test_a_loss_of_ones_own() -> None:
    model = nn.Linear(4, 2)
    batch = {"x": draw(5, 4), "target": draw(5, 2, seed=1)}
    table = signal(model, batch, loss=lambda m, b: F.mse_loss(m(b["x"]), b["target"]))
    expected = F.mse_loss(model(batch["x"]), batch["target"])
    assert table.summary["loss"] == pytest.approx(float(expected.detach()), rel=1e-5)
    assert table.summary["examples"] == 5


def test_layers_that_are_never_called_are_seen_all_the_same() -> None:
    model, ticket, x, y = case("functional")
    plain = pruned_copy(model, ticket)
    rows = {row["layer"]: row for row in signal(model, (x, y), ticket)}
    first = F.linear(x, plain.first.weight, plain.first.bias)
    assert rows["first.weight"]["activation_moment"] == pytest.approx(first.square().mean().item())


def test_a_branch_that_leads_nowhere_has_a_gradient_of_zero() -> None:
    model, ticket, x, y = case("unused-branch")
    rows = {row["layer"]: row for row in signal(model, (x, y), ticket)}
    idle = rows["idle.weight"]
    assert idle["activation_moment"] > 0
    assert (idle["gradient_moment"], idle["sensitivity"]) == (0, 0)


def test_attention_shows_gradients_but_not_its_projections_outputs() -> None:
    model, ticket, x, y = case("transformer")
    rows = {row["layer"]: row for row in signal(model, (x, y), ticket)}
    inner = rows["block.self_attn.in_proj_weight"]
    assert (inner["activation_moment"], inner["correlation"]) == (None, None)
    assert inner["sensitivity"] > 0
    assert rows["block.linear1.weight"]["activation_moment"] > 0


def test_a_ticket_that_leaves_layers_out_keeps_them_dense() -> None:
    model = mlp([6, 5, 4], nn.ReLU, variance=2)
    ticket = Ticket.from_masks({"2.weight": torch.zeros(4, 5)})
    assert signal(model, draw(3, 6), ticket)["kept"] == (30, 0)


class WritesToItsInput(nn.Module):
    """x - 0.5 and then a ReLU, both in the tensor it is given; with normalisation, which is measured beforehand."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.norm, self.layer = nn.ReLU(inplace=True), nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x -= 0.5
        return self.layer(self.norm(self.relu(x)))


def test_a_model_that_writes_to_its_input_is_measured_like_one_that_does_not() -> None:
    model = WritesToItsInput()
    plain = nn.Sequential(model.norm, model.layer)
    x, y = draw(5, 6), torch.arange(5) % 3
    given = x.clone()
    for measure in (tangent_kernel, jacobian):
        found, expected = measure(model, given), measure(plain, F.relu(x - 0.5))
        if measure is tangent_kernel:
            assert found.trace == pytest.approx(expected.trace, rel=1e-5)
        else:  # the ReLU's slopes are zeros and ones
            assert found.largest <= expected.largest * (1 + 1e-5)
        assert torch.equal(given, x)
    found, expected = signal(model, (given, y)), signal(plain, (F.relu(x - 0.5), y))
    assert torch.equal(given, x)
    assert found["input_moment"] == pytest.approx(expected["input_moment"])
    assert found.loss == pytest.approx(expected.loss)
    assert signal(model, given)["input_moment"] == found["input_moment"]
    assert torch.equal(given, x)


def test_the_jacobian_of_a_model_whose_first_step_is_in_place() -> None:
    layer = nn.Linear(6, 3)
    x = draw(1, 6)
    found = jacobian(nn.Sequential(nn.ReLU(inplace=True), layer), x)
    values = torch.linalg.svdvals(layer.weight.detach().double() * (x > 0))
    assert (found["largest"][0], found["smallest"][0]) == pytest.approx(
        (float(values[0]), float(values[-1])), abs=1e-6
    )


# Errors


def test_what_cannot_be_measured_says_why() -> None:
    model, x = nn.Linear(4, 2), draw(3, 4)
    with pytest.raises(DisbudError, match="not class labels need a loss"):
        signal(model, (x, x))
    with pytest.raises(
        DisbudError, match=r"labels of shape \(3,\) from 1 to 5 do not fit an output of shape \(3, 2\)"
    ):
        signal(model, (x, torch.tensor([1, 5, 1])))
    tokens = torch.arange(8).view(2, 4)
    with pytest.raises(
        DisbudError, match=r"labels of shape \(2, 4\) .* of shape \(2, 4, 9\); .* give loss=lambda"
    ):
        signal(nn.Sequential(nn.Embedding(8, 5), nn.Linear(5, 9)), (tokens, tokens))
    with pytest.raises(DisbudError, match=r"one number, the mean loss of the batch, not \(3, 2\)"):
        signal(model, x, loss=lambda m, b: m(b))
    with pytest.raises(DisbudError, match="does not depend on any weight"):
        signal(model, x, loss=lambda m, b: torch.zeros(()))
    with pytest.raises(DisbudError, match="holds no example"):
        signal(model, x[:0])
    with pytest.raises(DisbudError, match="'train' or in 'eval' mode, not 'both'"):
        jacobian(model, x, batch_norm="both")
    with pytest.raises(DisbudError, match="'train' or in 'eval' mode, not 'both'"):
        signal(model, x, batch_norm="both")
    with pytest.raises(DisbudError, match=r"no Jacobian by inputs of torch\.int64"):
        jacobian(model, x.long())
    with pytest.raises(DisbudError, match=r"not of shape \(4,\)"):
        tangent_kernel(model, x[0])
    with pytest.raises(DisbudError, match="steps is a whole number"):
        jacobian(model, x, steps=0)
    with pytest.raises(DisbudError, match="probes is a whole number of at least 2"):
        tangent_kernel(model, x, probes=1)
    with pytest.raises(DisbudError, match=r"3 examples gave shape \(4, 3\)"):
        tangent_kernel(nn.Sequential(nn.Linear(4, 4), nn.Flatten(0), nn.Unflatten(0, (4, 3))), x)
    with pytest.raises(DisbudError, match="not a int"):
        signal(3, x)  # type: ignore[arg-type]
    with pytest.raises(DisbudError, match="meta device"):
        jacobian(nn.Linear(2, 2, device="meta"), x)
    with pytest.raises(TicketError, match="no parameter w"):
        signal(model, x, Ticket.from_masks({"w": torch.ones(2)}))


def test_a_failing_model_is_put_back() -> None:
    model = nn.Linear(4, 2)
    weight = model.weight
    for measure in (signal, jacobian, tangent_kernel):
        with pytest.raises(RuntimeError, match="shapes"):
            measure(model, draw(3, 5))
        assert model.weight is weight
        assert not model._forward_hooks
