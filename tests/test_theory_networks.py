"""The theory against real wide random networks, and the initialisation it gives, measured on real models."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from disbud import DisbudError, measures, theory
from disbud.seeds import generator
from networks import NETWORKS


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed, "test"))


def pair(width: int, correlation: float) -> Tensor:
    """Two inputs of mean square 1 and exactly that correlation."""
    a, b = draw(2, width, seed=777).double()
    a = a / a.square().mean().sqrt()
    b = b - a * (a * b).mean()
    b = b / b.square().mean().sqrt()
    return torch.stack([a, correlation * a + math.sqrt(1 - correlation**2) * b]).float()


def simulated(
    phi: Callable[[Tensor], Tensor],
    *,
    seed: int,
    depth: int,
    sigma_w: float,
    sigma_b: float,
    correlation: float,
) -> dict[str, np.ndarray]:
    """q_l, c_l, E[(dL/dy_l)^2] and E[(W_l dL/dW_l)^2] of one random net, by autograd; L a random linear function."""
    width = 1000
    x = pair(width, correlation)
    weights, inputs, outputs = [], [], []
    for layer in range(depth):
        weights.append(draw(width, width, seed=100 * seed + layer) * sigma_w / math.sqrt(width))
        inputs.append(x)
        y = x @ weights[-1].T + sigma_b * draw(width, seed=100 * seed + 50 + layer)
        outputs.append(y.requires_grad_() if y.is_leaf else y)
        x = phi(y)
    gradients = torch.autograd.grad((outputs[-1] * draw(2, width, seed=seed + 5000)).sum(), outputs)
    a, b = (torch.stack([y[i].detach() for y in outputs]).double() for i in (0, 1))
    sensitivities = [
        float((g**2 * (x.detach() ** 2 @ (w**2).T)).mean()) / width
        for g, x, w in zip(gradients, inputs, weights, strict=True)
    ]
    return {
        "q": ((a**2).mean(1) + (b**2).mean(1)).numpy() / 2,
        "c": ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).numpy(),
        "gradients": np.array([float((g**2).mean()) for g in gradients]),
        "sensitivities": np.array(sensitivities),
    }


CASES = [
    ("tanh", torch.tanh, 1.3041, 0.2),
    ("tanh", torch.tanh, 1.0, 0.3),
    ("tanh", torch.tanh, 1.8, 0.1),
    ("relu", torch.relu, math.sqrt(2), 0.0),
    ("relu", torch.relu, 1.2, 0.3),
    ("elu", nn.functional.elu, 1.2293, 0.2),
    ("gelu", nn.functional.gelu, 1.405945, 1.0),
]


@pytest.mark.parametrize(("name", "phi", "sigma_w", "sigma_b"), CASES)
def test_wide_random_nets_follow_the_maps(
    name: str, phi: Callable[[Tensor], Tensor], sigma_w: float, sigma_b: float
) -> None:
    depth, sigmas = 24, {"sigma_w": sigma_w, "sigma_b": sigma_b}
    nets = [simulated(phi, seed=seed, depth=depth, correlation=0.5, **sigmas) for seed in range(5)]
    forward = theory.forward(name, depth=depth, input_correlation=0.5, **sigmas)
    q, c = (np.mean([net[key] for net in nets], axis=0) for key in ("q", "c"))
    # Noise of relative size sqrt(6 / (5 * 1000)) a layer at most adds up along the way, forward and back.
    assert q == pytest.approx(forward.q, rel=0.3)
    assert c == pytest.approx(forward.correlations, abs=0.06)
    for before, after in pairwise(zip(q, c, strict=True)):
        assert after[0] == pytest.approx(theory.variance_map(name, before[0], **sigmas), rel=0.12)
        assert after[1] == pytest.approx(
            theory.correlation_map(name, before[1], q=before[0], **sigmas), abs=0.04
        )
    backward = theory.backward(name, depth=depth, **sigmas)
    for key in ("gradients", "sensitivities"):
        measured = np.mean([np.log(net[key] / net[key][-1]) for net in nets], axis=0)
        assert measured == pytest.approx(np.log(getattr(backward, key)), abs=0.5)
        assert np.diff(measured) == pytest.approx(np.diff(np.log(getattr(backward, key))), abs=0.12)
    assert np.polyfit(np.arange(depth), measured, 1)[0] == pytest.approx(backward.log_slope, abs=0.025)


def test_deep_in_the_net_the_slope_is_that_of_chi() -> None:
    phase = theory.phase("tanh", sigma_w=1.8, sigma_b=0.1)
    # The first layers' variances are not yet at the fixed point: the slope over all of them differs from log chi.
    found = theory.backward("tanh", depth=40, sigma_w=1.8, sigma_b=0.1, input_moment=20.0)
    late = np.diff(np.log(found.sensitivities[20:]))
    assert late == pytest.approx([-math.log(phase.chi)] * 19, abs=1e-6)
    assert abs(found.log_slope + math.log(phase.chi)) > 1e-3
    assert theory.forward("tanh", depth=40, sigma_w=1.8, sigma_b=0.1).q[-1] == pytest.approx(phase.q)


def test_biases_carry_no_sensitivity() -> None:
    # q_1 = 1 + 4, x_0 and x_1 have moments 1 and 5, and g_1 = 4 g_2: m_1 / m_2 = 4 / 5.
    found = theory.backward("linear", depth=2, sigma_w=2.0, sigma_b=1.0)
    assert found.sensitivities == pytest.approx((0.8, 1.0))


def test_widths_enter_the_backward_recursion() -> None:
    widths = [300, 1600, 400, 1600, 800]
    phi, sigma_w = torch.tanh, 1.3
    x = pair(widths[0], 0.0)[:1]
    outputs, weights, inputs = [], [], []
    for layer, (n, m) in enumerate(pairwise(widths)):
        weights.append(draw(m, n, seed=layer) * sigma_w / math.sqrt(n))
        inputs.append(x)
        y = x @ weights[-1].T
        outputs.append(y.requires_grad_() if y.is_leaf else y)
        x = phi(y)
    gradients = torch.autograd.grad((outputs[-1] * draw(1, widths[-1], seed=9)).sum(), outputs)
    measured = np.array([float((g**2).mean()) for g in gradients])
    products = zip(gradients, inputs, weights, strict=True)
    sensitivity = np.array([float((w * g.T * x).detach().square().mean()) for g, x, w in products])
    expected = theory.backward("tanh", depth=4, sigma_w=sigma_w, widths=widths)
    assert measured / measured[-1] == pytest.approx(expected.gradients, rel=0.2)
    assert sensitivity / sensitivity[-1] == pytest.approx(expected.sensitivities, rel=0.25)


def test_convolutions_follow_the_same_variance_map() -> None:
    # Circular padding leaves no borders; the mean over inputs and channels is the theory's q.
    sigma_w, sigma_b, channels = 1.4, 0.2, 96
    x = draw(4, channels, 10, 10)
    expected = theory.forward("tanh", depth=6, sigma_w=sigma_w, sigma_b=sigma_b, input_moment=1.0).q
    for layer, q in enumerate(expected):
        weight = draw(channels, channels, 3, 3, seed=layer + 1) * sigma_w / math.sqrt(9 * channels)
        y = conv2d(
            nn.functional.pad(x, (1, 1, 1, 1), mode="circular"),
            weight,
            sigma_b * draw(channels, seed=50 + layer),
        )
        assert float(y.square().mean()) == pytest.approx(q, rel=0.06)
        x = torch.tanh(y)


# initialize_


def mlp(width: int, depth: int, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    layers = [part for _ in range(depth) for part in (nn.Linear(width, width), activation())]
    return nn.Sequential(*layers, nn.Linear(width, 10))


@pytest.mark.parametrize(
    ("phase", "name"), [("edge-of-chaos", "edge"), ("ordered", "ordered"), ("chaotic", "chaotic")]
)
@pytest.mark.parametrize("orthogonal", [False, True])
def test_an_mlp_is_put_into_the_phase_asked(phase: str, name: str, orthogonal: bool) -> None:
    model = mlp(500, 16)
    done = theory.initialize_(model, phase, activation="tanh", sigma_b=0.2, orthogonal=orthogonal, seed=1)
    assert done.phase.name == name
    assert (len(done.drawn), done.left_alone) == (34, ())
    # One input: of several, gradients add up with their correlations, of which this part of the theory knows nothing.
    table = measures.signal(model, (draw(1, 500, seed=7), torch.arange(1)))
    expected = theory.forward("tanh", depth=17, sigma_w=done.phase.sigma_w, sigma_b=0.2)
    hidden = list(table["activation_moment"])[:-1]
    assert hidden == pytest.approx(expected.q[:-1], rel=0.2)
    backward = theory.backward(
        "tanh", depth=17, sigma_w=done.phase.sigma_w, sigma_b=0.2, widths=[500] * 17 + [10]
    )
    slope = np.polyfit(np.arange(16), np.log(np.array(table["sensitivity"][:-1])), 1)[0]
    theirs = np.polyfit(np.arange(16), np.log(backward.sensitivities[:-1]), 1)[0]
    assert slope == pytest.approx(theirs, abs=0.06)


def test_a_convnet_is_put_on_the_edge() -> None:
    def build(norm: bool) -> nn.Sequential:
        parts: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1, padding_mode="circular"), nn.Tanh()]
        for _ in range(6):
            parts += [nn.Conv2d(64, 64, 3, padding=1, padding_mode="circular"), nn.Tanh()]
        parts += [nn.BatchNorm2d(64)] if norm else []
        return nn.Sequential(*parts, nn.Flatten(), nn.Linear(64 * 36, 10))

    model = build(norm=False)
    done = theory.initialize_(model, activation="tanh", sigma_b=0.3, seed=0)
    x = draw(8, 3, 6, 6, seed=1)
    table = measures.signal(model, (x, torch.arange(8)))
    expected = theory.forward(
        "tanh", depth=7, sigma_w=done.phase.sigma_w, sigma_b=0.3, input_moment=float(x.square().mean())
    )
    assert list(table["activation_moment"])[:-1] == pytest.approx(expected.q, rel=0.2)
    normed = build(norm=True)
    before = copy.deepcopy(normed.state_dict())
    done = theory.initialize_(normed, activation="tanh", sigma_b=0.3, seed=0)
    assert done.left_alone == ("14.weight", "14.bias")
    assert "left alone: 14.weight, 14.bias" in str(done)
    after = normed.state_dict()
    assert {name for name in after if torch.equal(after[name], before[name])} == {
        n for n in after if n[:3] == "14."
    }
    # A layer's draws do not depend on what else the model has.
    assert torch.equal(normed[4].weight, model[4].weight)


def test_every_kind_of_layer_has_its_fan_in() -> None:
    layers = {
        "linear": (nn.Linear(400, 300), 400),
        "grouped": (nn.Conv2d(64, 128, 3, groups=4), 16 * 9),
        "line": (nn.Conv1d(60, 80, 5, stride=2), 60 * 5),
        "up": (nn.ConvTranspose2d(64, 48, 4, stride=2, groups=2), 32 * 16 / 4),
    }
    model = nn.ModuleDict({name: layer for name, (layer, _) in layers.items()})
    done = theory.initialize_(model, activation="erf", sigma_b=0.5, seed=2)
    for layer, fan_in in layers.values():
        count = layer.weight.numel()
        assert float(layer.weight.detach().square().mean()) == pytest.approx(
            done.phase.sigma_w**2 / fan_in, rel=5 * math.sqrt(2 / count)
        )
        assert float(layer.weight.detach().mean()) == pytest.approx(
            0, abs=5 * done.phase.sigma_w / math.sqrt(fan_in * count)
        )
    biases = torch.cat([layer.bias.detach() for layer, _ in layers.values()])
    assert float(biases.std()) == pytest.approx(0.5, rel=0.15)


def test_a_transposed_convolution_keeps_the_variance_the_map_says() -> None:
    layer = nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1, bias=False)
    done = theory.initialize_(nn.Sequential(layer), activation="relu", seed=0)
    y = layer(draw(4, 64, 12, 12))[..., 2:-2, 2:-2]
    assert float(y.square().mean().detach()) == pytest.approx(done.phase.sigma_w**2, rel=0.1)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(40, 40),
        nn.Linear(30, 70),
        nn.Linear(70, 30),
        nn.Conv2d(8, 24, 3, padding=1),
        nn.Conv2d(24, 8, 3, padding=1, groups=2),
        nn.Conv1d(12, 12, 5, padding=2),
        nn.ConvTranspose2d(12, 20, 3, padding=1, groups=2),
    ],
)
def test_orthogonal_layers_have_equal_singular_values(layer: nn.Module) -> None:
    done = theory.initialize_(nn.Sequential(layer), activation="tanh", sigma_b=0.2, orthogonal=True, seed=0)
    shape = (12, 40) if isinstance(layer, nn.Linear) else (1, 0)
    if isinstance(layer, nn.Linear):
        n_in, n_out, matrix = layer.in_features, layer.out_features, layer.weight.detach()
    else:
        n_in, n_out = layer.in_channels, layer.out_channels
        # At one position away from the borders, outputs are the centre's matrix times the inputs there.
        side = (9,) if isinstance(layer, nn.Conv1d) else (9, 9)
        probe = torch.zeros(n_in, n_in, *side)
        probe[(torch.arange(n_in), torch.arange(n_in), *(torch.tensor(4) for _ in side))] = 1
        out = (layer(probe) - layer(torch.zeros_like(probe))).detach()
        matrix = out[(slice(None), slice(None), *(4 for _ in side))].T
        assert float(out.square().sum()) == pytest.approx(float(matrix.square().sum()), rel=1e-5)
    assert shape
    values = torch.linalg.svdvals(matrix)
    gain = done.phase.sigma_w * math.sqrt(max(1, n_out / n_in))
    assert values == pytest.approx(np.full(min(n_in, n_out), gain), rel=1e-4)
    # The mean square row is sigma_w, whichever side is longer: the theory's q.
    assert (
        float(matrix.square().sum() / n_out) == pytest.approx(done.phase.sigma_w**2, rel=1e-4) or n_out < n_in
    )


def test_orthogonal_tanh_nets_come_near_dynamical_isometry() -> None:
    conditions = {}
    for orthogonal in (False, True):
        model = mlp(100, 20)
        theory.initialize_(model, activation="tanh", sigma_b=0.02, orthogonal=orthogonal, seed=0)
        jacobian = torch.autograd.functional.jacobian(model[:-1], 0.1 * draw(100))
        values = torch.linalg.svdvals(jacobian)
        conditions[orthogonal] = float(values[0] / values[-1])
    assert conditions[True] < 10
    assert conditions[False] > 1000


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_can_be_drawn_and_only_its_layers_are(name: str) -> None:
    model = NETWORKS[name].build()
    before = copy.deepcopy(model.state_dict())
    stream = torch.random.get_rng_state()
    done = theory.initialize_(model, activation="relu", seed=0)
    assert torch.equal(stream, torch.random.get_rng_state())
    again = NETWORKS[name].build(seed=5)
    theory.initialize_(again, activation="relu", seed=0)
    other = NETWORKS[name].build()
    theory.initialize_(other, activation="relu", seed=1)
    names = dict(model.named_parameters())
    assert set(done.drawn) | set(done.left_alone) == set(names)
    assert not set(done.drawn) & set(done.left_alone)
    for key in done.drawn:
        assert torch.equal(names[key], again.get_parameter(key))
        if names[key].dim() > 1:
            assert not torch.equal(names[key], before[key])
            assert not torch.equal(names[key], other.get_parameter(key))
    for key in done.left_alone:
        assert torch.equal(names[key], before[key])


def test_weights_and_biases_share_no_draws_and_each_bias_is_drawn() -> None:
    model = nn.Sequential(nn.Linear(30, 30), nn.Tanh(), nn.Linear(30, 30))
    model[2].weight = model[0].weight
    done = theory.initialize_(model, activation="tanh", sigma_b=0.5, seed=0)
    assert done.drawn == ("0.weight", "0.bias", "2.bias")
    draws = [
        model[0].bias / 0.5,
        model[2].bias / 0.5,
        model[0].weight[0] * math.sqrt(30) / done.phase.sigma_w,
    ]
    assert float(torch.corrcoef(torch.stack(draws).detach()).triu(1).abs().max()) < 0.6


def test_defaults_of_torch_do_not_change_the_draws() -> None:
    model, doubled = nn.Linear(20, 20), nn.Linear(20, 20).double()
    theory.initialize_(model, activation="relu", seed=0)
    torch.set_default_dtype(torch.float64)
    try:
        theory.initialize_(doubled, activation="relu", seed=0)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(doubled.weight, model.weight.double())


def test_a_sigma_w_of_ones_own() -> None:
    model = nn.Linear(50, 50)
    published = theory.initialize_(model, activation="tanh", sigma_b=0.05, sigma_w=1.1225, seed=0)
    assert published.phase.sigma_w == 1.1225
    assert (
        theory.initialize_(model, "chaotic", activation="gelu", sigma_w=3.0, seed=0).phase.name == "chaotic"
    )
    for phase, sigma_w in (("ordered", 1.5), ("chaotic", 0.5), ("edge-of-chaos", 1.2)):
        with pytest.raises(DisbudError, match=rf"tanh with sigma_w = {sigma_w:g}.* not {phase}"):
            theory.initialize_(model, phase, activation="tanh", sigma_b=0.05, sigma_w=sigma_w, seed=0)


def test_an_edge_that_is_not_stable_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"gelu at sigma_b = 0\.2 is not stable.*at sigma_b = 0\.4\d is"):
        theory.initialize_(nn.Linear(5, 5), activation="gelu", sigma_b=0.2, seed=0)
    with pytest.raises(DisbudError, match="gelu at sigma_b = 0 is not stable"):
        theory.initialize_(nn.Linear(5, 5), activation="gelu", seed=0)
    theory.initialize_(nn.Linear(5, 5), activation="gelu", sigma_b=0.5, seed=0)


def test_errors_leave_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ConvTranspose1d(4, 4, 3, stride=2))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(DisbudError, match=r"1\.weight: a transposed convolution of stride above 1"):
        theory.initialize_(model, activation="tanh", orthogonal=True, seed=0)
    with pytest.raises(DisbudError, match="did you mean 'chaotic'"):
        theory.initialize_(model, "chaos", activation="tanh", seed=0)
    with pytest.raises(DisbudError, match="for the ordered phase give sigma_w"):
        theory.initialize_(model, "ordered", activation="relu", sigma_b=0.1, seed=0)
    with pytest.raises(DisbudError, match="a seed is an integer"):
        theory.initialize_(model, activation="tanh", seed=1.5)  # type: ignore[arg-type]
    torch.nn.utils.parametrizations.weight_norm(model[1])
    with pytest.raises(DisbudError, match="remove that first"):
        theory.initialize_(model, activation="tanh", seed=0)
    assert torch.equal(model[0].weight, before["0.weight"])
    for wrong, message in (
        (nn.ReLU(), "no linear or convolution layer"),
        (nn.LazyLinear(3), "has no shape yet"),
        (nn.Linear(3, 3, device="meta"), "meta"),
        (3, "not a int"),
    ):
        with pytest.raises(DisbudError, match=message):
            theory.initialize_(wrong, activation="tanh", seed=0)  # type: ignore[arg-type]
