"""Rescaling: the factors by hand, what they restore in deep nets, and where the paper's formula fails."""

from __future__ import annotations

import dataclasses
import math
import statistics

import pytest
import torch
from torch import Tensor, nn

import disbud
from disbud import DisbudError, Ticket, interventions, measures, models, robust, theory
from disbud.origin import Start

SEEDS = range(3)


def chain(
    depth: int, width: int, kind: type[nn.Module], *, sigma_b: float, seed: int, bias: bool = True
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width, bias=bias), kind()]
    model = nn.Sequential(*layers, nn.Linear(width, 10, bias=bias))
    theory.initialize_(model, activation=kind.__name__.lower(), sigma_b=sigma_b, seed=seed)
    return model


def noise(rows: int, width: int, seed: int = 1) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def signals(
    kind: type[nn.Module], sigma_b: float, method: str, how: str | None
) -> tuple[float, float, float, float]:
    """Correlation and moment at the last hidden layer, dense and pruned to a tenth: 40 layers of 150, over seeds."""
    found = []
    for seed in SEEDS:
        model = chain(40, 150, kind, sigma_b=sigma_b, seed=seed)
        x = noise(48, 150)
        dense = measures.signal(model, x)
        ticket = disbud.prune(
            model,
            method,
            sparsity=0.9,
            batches=[(x, torch.arange(48) % 10)],
            examples_per_class=None,
            seed=seed,
        )
        if how is not None:
            theory.rescale_(model, ticket, how, inputs=None if how == "weights" else x)
        after = measures.signal(model, x, ticket)
        columns = ("correlation", "activation_moment")
        found.append([table[name][39] for table in (dense, after) for name in columns])
    means = (statistics.fmean(values) for values in zip(*found, strict=True))
    return next(means), next(means), next(means), next(means)


def test_pruning_makes_an_edge_of_chaos_net_ordered_and_the_papers_factors_undo_it() -> None:
    for method in ("magnitude", "random-uniform"):
        dense, _, pruned, _ = signals(nn.Tanh, 0.2, method, None)
        assert 0.75 < dense < 0.92
        assert pruned > 0.999
        *_, restored, _ = signals(nn.Tanh, 0.2, method, "weights")
        assert restored == pytest.approx(dense, abs=0.07)


def test_a_mask_by_sensitivity_follows_the_signals_so_that_the_papers_factors_do_not_bring_them_apart() -> (
    None
):
    # Independence of mask and signals is what the formula assumes.
    dense, _, weights, _ = signals(nn.Tanh, 0.2, "snip", "weights")
    *_, activations, _ = signals(nn.Tanh, 0.2, "snip", "activations")
    *_, differences, _ = signals(nn.Tanh, 0.2, "snip", "differences")
    assert weights > 0.97
    assert dense < differences < activations < weights


def test_in_relu_nets_sensitivity_and_the_papers_factors_explode_and_matching_the_activations_does_not() -> (
    None
):
    _, dense, correlation, moment = signals(nn.ReLU, 0.0, "snip", "weights")
    per_layer = (moment / dense) ** (1 / 40)
    assert 3 < per_layer < 8
    _, dense, _, matched = signals(nn.ReLU, 0.0, "snip", "activations")
    assert matched == pytest.approx(dense, rel=1e-3)
    # Factors do nothing to correlations in a net that is homogeneous: 1 before, 1 after.
    _, _, before, _ = signals(nn.ReLU, 0.0, "snip", None)
    assert before == pytest.approx(correlation, abs=1e-4)


def test_the_factor_by_hand() -> None:
    model = nn.Linear(4, 2, bias=False)
    model.weight.data = torch.tensor([[3.0, 1.0, 0.5, 0.0], [1.0, 2.0, 0.0, 0.5]])
    ticket = Ticket.from_masks({"weight": torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0]])})
    done = theory.rescale_(model, ticket, sigma_w=1.5)
    # 1.5 / sqrt(4 * 13 / 8)
    assert done.factors["weight"] == pytest.approx(1.5 / math.sqrt(6.5))
    assert 4 * float(model.weight.detach().square().mean()) == pytest.approx(1.5**2)
    assert not model.weight[~ticket.masks["weight"]].any()
    # With sigma_w a second time changes nothing.
    assert theory.rescale_(model, ticket, sigma_w=1.5).factors["weight"] == pytest.approx(1.0)


@pytest.mark.parametrize("how", ["activations", "differences"])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_matching_gives_every_layer_the_moment_of_the_dense_net(how: str, kind: str) -> None:
    if kind == "linear":
        model: nn.Module = chain(5, 30, nn.Tanh, sigma_b=0.3, seed=0)
        x = noise(32, 30)
    else:
        model = models.build("conv-4:width=0.1", input_shape=(3, 16, 16))
        x = noise(16, 3 * 256).view(16, 3, 16, 16)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    module.bias.normal_(0, 0.1)
    before = _moments(model, x, how)
    ticket = disbud.prune(model, "random-uniform", sparsity=0.6)
    theory.rescale_(model, ticket, how, inputs=x)
    after = _moments(model, x, how)
    assert after == pytest.approx(before, rel=1e-4)
    for name, mask in ticket.masks.items():
        assert not model.get_parameter(name)[~mask].any()


def _moments(model: nn.Module, x: Tensor, how: str) -> list[float]:
    found: list[float] = []
    hooks = [
        module.register_forward_hook(
            lambda m, a, out: found.append(
                float(out.square().mean()) if how == "activations" else float(out.var(0, correction=0).mean())
            )
        )
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return found


def test_models_modes_biases_and_streams_stay_as_they_were() -> None:
    model = models.build("resnet20:width=0.25")
    model.train()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    biases = model.fc.bias.clone()
    ticket = disbud.prune(model, "magnitude", sparsity=0.5)
    stream = torch.random.get_rng_state()
    theory.rescale_(model, ticket, "activations", inputs=torch.zeros(2, 3, 16, 16).normal_())
    torch.random.set_rng_state(stream)
    assert model.training
    assert torch.equal(model.fc.bias, biases)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())


def test_as_an_intervention_it_is_the_same_and_pure() -> None:
    model = chain(3, 20, nn.Tanh, sigma_b=0.1, seed=0)
    ticket = disbud.prune(model, "magnitude", sparsity=0.7)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    new, outcome = interventions.on_weights(state, ticket, "rescale", seed=3)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    dense = [layer.sigma_w for layer in theory.chain_of(model)]
    theory.rescale_(model, ticket)
    assert [layer.sigma_w for layer in theory.chain_of(model)] == pytest.approx(dense)
    for name, tensor in model.state_dict().items():
        assert torch.allclose(new[name], tensor)
    assert outcome == ticket
    assert (outcome.origin.method, outcome.origin.parents) == ("rescale", (ticket.origin,))
    fixed, _ = interventions.on_weights(state, ticket, "rescale:sigma_w=1.5")
    assert 20 * float(fixed["0.weight"].square().mean()) == pytest.approx(1.5**2)


def test_what_cannot_be_is_refused_and_the_model_stays_as_it_was() -> None:
    model = chain(2, 10, nn.Tanh, sigma_b=0.1, seed=0)
    ticket = disbud.prune(model, "magnitude", sparsity=0.7)
    whole = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    empty = Ticket.from_masks({**ticket.to_masks(), "4.weight": torch.zeros(10, 10, dtype=torch.bool)})
    started = dataclasses.replace(ticket, start=Start("w.safetensors", "0" * 64))
    for says, call in {
        "did you mean 'weights'": lambda: theory.rescale_(model, ticket, "weight"),
        "4.weight keeps no weight": lambda: theory.rescale_(model, empty),
        "4.weight have the moment": lambda: theory.rescale_(model, empty, "activations", inputs=noise(4, 10)),
        "names the weights it starts from": lambda: theory.rescale_(model, started),
        "give inputs=": lambda: theory.rescale_(model, ticket, "activations"),
        "sigma_w belongs to": lambda: theory.rescale_(
            model, ticket, "activations", sigma_w=1.0, inputs=noise(4, 10)
        ),
        "looks at no inputs": lambda: theory.rescale_(model, ticket, inputs=noise(4, 10)),
        "at least two": lambda: theory.rescale_(model, ticket, "differences", inputs=noise(1, 10)),
        "is above 0, not -1": lambda: theory.rescale_(model, ticket, sigma_w=-1.0),
    }.items():
        with pytest.raises(DisbudError, match=says):
            call()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in model.state_dict().items())
    ticket.apply_(model)
    with pytest.raises(DisbudError, match="zero off the ticket already"):
        theory.rescale_(model, ticket)


def test_biases_that_are_too_strong_for_any_factor_are_named() -> None:
    model = nn.Linear(2, 1)
    model.weight.data, model.bias.data = torch.tensor([[1.0, -1.0]]), torch.tensor([-2.0])
    ticket = Ticket.from_masks({"weight": torch.tensor([[0, 1]])})
    # Dense x1 - x2 - 2 on (3, 1): 0; the pruned -rho - 2 is never 0.
    with pytest.raises(DisbudError, match=r'biases of weight alone .* how="differences"'):
        theory.rescale_(model, ticket, "activations", inputs=torch.tensor([[3.0, 1.0]]))


def test_every_kind_of_layer_is_rescaled_by_its_own_fan_in() -> None:
    """A transposed convolution of stride 2 adds up, at each place, a quarter of what its kernel has."""
    layers = {
        "up": (nn.ConvTranspose2d(16, 48, 4, stride=2, groups=2, bias=False), 8 * 16 / 4),
        "wide": (nn.ConvTranspose1d(4, 32, 3, bias=False), 4 * 3),
        "grouped": (nn.Conv2d(16, 32, 3, groups=4, bias=False), 4 * 9),
        "linear": (nn.Linear(20, 30, bias=False), 20),
    }
    model = nn.ModuleDict({name: layer for name, (layer, _) in layers.items()})
    ticket = disbud.prune(model, "magnitude", sparsity=0.5)
    done = theory.rescale_(model, ticket, sigma_w=1.5)
    for name, (layer, fan_in) in layers.items():
        assert fan_in * float(layer.weight.detach().square().mean()) == pytest.approx(1.5**2), name
    assert done.factors.keys() == ticket.masks.keys()


def test_mbp_keeps_the_signals_of_a_transposed_convolution() -> None:
    model = nn.Sequential(
        nn.ConvTranspose2d(8, 64, 4, stride=2, padding=1, bias=False), nn.ReLU(), nn.Conv2d(64, 4, 1)
    )
    robust.mbp(model, sparsity=0.7)
    x = noise(16, 8 * 144).view(16, 8, 12, 12)
    y = model[0](x)[..., 2:-2, 2:-2]
    assert float(y.square().mean().detach()) == pytest.approx(2.0, rel=0.1)


def test_a_state_dict_does_not_say_what_the_fan_in_of_a_convolution_is() -> None:
    model = nn.ConvTranspose2d(4, 32, 3, stride=2)
    ticket = disbud.prune(model, "magnitude", sparsity=0.5)
    with pytest.raises(DisbudError, match=r"fan-in of weight, of shape \(4, 32, 3, 3\), .* with the model"):
        interventions.on_weights(model.state_dict(), ticket, "rescale:sigma_w=1.5")
    state, _ = interventions.on_weights(model.state_dict(), ticket, "rescale")
    assert float(state["weight"].square().mean()) == pytest.approx(
        float(model.weight.detach().square().mean())
    )


def test_a_model_that_writes_to_its_input_is_matched_as_one_that_does_not() -> None:
    """The dense and the pruned network read the same signals, and the caller's stay as they were."""

    class Shifts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(20, 20)

        def forward(self, x: Tensor) -> Tensor:
            x -= 3
            return self.layer(x)

    model = Shifts()
    ticket = disbud.prune(model, "random-uniform", sparsity=0.5)
    x = noise(12, 20)
    kept, dense = x.clone(), model.layer(x - 3).detach()
    theory.rescale_(model, ticket, "activations", inputs=x)
    assert torch.equal(x, kept)
    rescaled = model.layer(x - 3).detach()
    assert float(rescaled.square().mean()) == pytest.approx(float(dense.square().mean()), rel=1e-4)
