"""Newer methods' scores against brute force that shares no code with them: training, differences, paths one by one."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

import disbud
from disbud.seeds import generator
from method_inputs import Masks, asked
from networks import NETWORKS, Network
from test_methods import assert_scores_equal, dense, half, scoring_copy, weights_of

torch.set_num_threads(1)

FLOATS = [name for name, network in NETWORKS.items() if network.example.is_floating_point()]


def some(scores: Masks, count: int = 3) -> list[tuple[str, int]]:
    """A few weights of each layer."""
    g = torch.Generator().manual_seed(4)
    return [(n, int(i)) for n, s in scores.items() for i in torch.randperm(s.numel(), generator=g)[:count]]


# NTK-SAP


def moved_distance(model: nn.Module, m: Masks, theta: Masks, d: Masks, x: Tensor, statistics: Masks) -> float:
    """||f(x; m th) - f(x; m (th + eps d))||^2, BatchNorm with these statistics."""
    others = {n: torch.zeros_like(p) for n, p in model.named_parameters() if n.endswith("bias")}
    outputs = []
    for eps in (0.0, 0.01):
        weights = {n: m[n] * (theta[n] + eps * d[n]) for n in m}
        with torch.no_grad():
            outputs.append(functional_call(model, {**others, **statistics, **weights}, (x,)))
    return float((outputs[0] - outputs[1]).square().sum())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", FLOATS)
def test_ntk_sap_against_finite_differences(name: str, *, masked: bool) -> None:
    ntk_sap_agrees_with_finite_differences(NETWORKS[name], masked=masked)


def test_ntk_sap_counts_the_inputs_of_a_group_in_a_transposed_convolution() -> None:
    def grouped() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 6, 2), nn.ReLU(), nn.ConvTranspose2d(6, 6, 2, groups=3), nn.Flatten()
        )

    network = Network(grouped, torch.zeros(1, 3, 4, 4), 3)
    assert disbud.prunable(network.build())[1].shape == (6, 2, 2, 2)
    fans = {"0.weight": 3 * 4, "2.weight": 2 * 4}  # each output reads two channels of its group
    ntk_sap_agrees_with_finite_differences(network, masked=False, fans=fans)


def ntk_sap_agrees_with_finite_differences(
    network: Network, *, masked: bool, fans: dict[str, int] | None = None
) -> None:
    draws, samples = 2, 7
    model = network.build().double()
    masks = half(model) if masked else dense(model)
    found = disbud.scores(
        model, "ntk-sap", example=network.example.double(), draws=draws, samples=samples, seed=3,
        ticket=disbud.Ticket.from_masks(masks, model=model),
    )  # fmt: skip

    def normal(what: str, draw: int, shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=generator(3, "mask", "ntk-sap", f"{what}, {draw}", 0)).double()

    model.eval()
    problems = []
    layers = {layer.name: layer for layer in disbud.prunable(model)}
    for draw in range(draws):
        theta = {n: normal(f"{n} drawn", draw, w.shape) for n, w in weights_of(model).items()}
        d = {n: normal(f"{n} moved", draw, w.shape) for n, w in theta.items()}
        for n, layer in layers.items():
            theta[n] *= math.sqrt(2 / (fans[n] if fans else layer.n_in * math.prod(layer.kernel)))
        x = normal("input 0", draw, torch.Size([samples, *network.example.shape[1:]]))
        training = copy.deepcopy(model)
        with torch.no_grad():
            for n, p in training.named_parameters():
                p.copy_(masks[n] * theta[n]) if n in theta else p.zero_() if n.endswith("bias") else p
            for module in training.modules():
                if isinstance(module, _BatchNorm):
                    module.train()
                    module.momentum = None  # a plain average, here of one batch
            training(x)
        problems.append((theta, d, x, dict(training.named_buffers())))
    ones = {n: mask.double() for n, mask in masks.items()}
    largest = max(float(s.max()) for s in found.values())
    for n, i in some(found):
        slope = 0.0
        for problem in problems:
            values = []
            for step in (1e-5, -1e-5):
                m = {k: v.clone() for k, v in ones.items()}
                m[n].view(-1)[i] += step
                values.append(moved_distance(model, m, *problem))
            slope += (values[0] - values[1]) / 2e-5
        kept = bool(masks[n].view(-1)[i])
        assert float(found[n].view(-1)[i]) == pytest.approx(abs(slope) * kept, rel=2e-5, abs=1e-7 * largest)


@pytest.mark.parametrize("name", ["conv", "batch-norm", "residual", "grouped", "linear", "functional"])
def test_ntk_sap_does_not_look_at_the_weights(name: str) -> None:
    network = NETWORKS[name]
    models = [network.build(0), network.build(1)]
    more = {"sparsity": 0.7, "rounds": 3, "example": network.example}
    first, second = (disbud.prune(model, "ntk-sap", **more) for model in models)  # type: ignore[arg-type]
    assert first == second
    assert first != disbud.prune(models[0], "ntk-sap", seed=1, **more)  # type: ignore[arg-type]
    # As given, it looks at how widely they are spread, layer by layer, and at nothing else.
    wider = copy.deepcopy(models[0])
    layer = disbud.prunable(wider)[0].name
    with torch.no_grad():
        wider.get_parameter(layer).mul_(3)
        shuffled = copy.deepcopy(models[0])
        weight = shuffled.get_parameter(layer)
        weight.copy_(weight.flatten().flip(0).view(weight.shape))
    by_spread = [
        disbud.scores(model, "ntk-sap", example=network.example, init="as-given")
        for model in (models[0], shuffled, wider)
    ]
    for n, score in by_spread[0].items():
        torch.testing.assert_close(by_spread[1][n], score)
    last = disbud.prunable(wider)[-1].name
    assert not torch.allclose(by_spread[2][last], by_spread[0][last], rtol=0.1)


# Path exclusion


def test_path_exclusion_path_by_path() -> None:
    network = NETWORKS["without-biases"]
    model, batches = network.build().double(), [network.batch(4), network.batch(3, 1)]
    masks = half(model, 8)
    w1, w2, w3 = (w * masks[n] for n, w in weights_of(model).items())
    x = torch.cat([x for x, _ in batches])
    h1 = x @ w1.T
    h2 = h1.relu() @ w2.T
    paths = [
        (i, j, k, c)
        for i, j, k, c in itertools.product(range(6), range(8), range(8), range(3))
        if w1[j, i] and w2[k, j] and w3[c, k]
    ]
    active, kernel = torch.zeros(len(x), 3).double(), torch.zeros(3).double()
    for i, j, k, c in paths:
        active[:, c] += x[:, i] ** 2 * (h1[:, j] > 0) * (h2[:, k] > 0)
        kernel[c] += (w1[j, i] * w2[k, j] * w3[c, k]) ** 2
    expected = [torch.zeros_like(w) for w in (w1, w2, w3)]
    for i, j, k, c in paths:  # theta^2 d/d(theta^2) of a product is the product, where theta is in it
        share = active[:, c].sum() * (w1[j, i] * w2[k, j] * w3[c, k]) ** 2
        expected[0][j, i] += share
        expected[1][k, j] += share
        expected[2][c, k] += share
    ticket = disbud.Ticket.from_masks(masks, model=model)
    found = disbud.scores(model, "px", batches=batches, examples_per_class=None, ticket=ticket)
    assert kernel.any()
    assert_scores_equal(found, dict(zip(found, expected, strict=True)))


class _Scale(nn.Module):
    """BatchNorm in eval mode without its shifts, its scale squared."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.scale = (norm.weight.detach() ** 2 / (norm.running_var + norm.eps).sqrt()).view(-1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class _Gate(nn.Module):
    def __init__(self, pattern: Tensor) -> None:
        super().__init__()
        self.pattern = pattern

    def forward(self, x: Tensor) -> Tensor:
        return x * self.pattern


def linear_copy(model: nn.Sequential, weights: Masks, patterns: list[Tensor] | None) -> nn.Sequential:
    """The linear network of these weights; where patterns are given, each in the place of a ReLU."""
    model = copy.deepcopy(model).eval()
    left = list(patterns or [])
    for i, module in enumerate(model):
        if isinstance(module, nn.BatchNorm2d):
            model[i] = _Scale(module)
        elif isinstance(module, nn.Tanh):
            model[i] = nn.Identity()
        elif isinstance(module, nn.ReLU):
            model[i] = nn.Identity() if patterns is None else _Gate(left.pop(0))
    for n, p in model.named_parameters():
        p.data.copy_(weights[n]) if n in weights else p.data.zero_()
    return model


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["linear", "conv", "batch-norm", "strided", "grouped", "transposed"])
def test_path_exclusion_against_networks_linearised_by_hand(name: str, *, masked: bool) -> None:
    network = NETWORKS[name]
    model, batches = network.build().double(), [network.batch(5), network.batch(4, 1)]
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
    masks = half(model) if masked else dense(model)
    pruned = copy.deepcopy(model).eval()
    disbud.Ticket.from_masks(masks, model=model).apply_(pruned)
    squares = {n: w.square().requires_grad_() for n, w in weights_of(pruned).items()}
    total = torch.zeros(()).double()
    for x, _ in batches:
        patterns, seen = [], x
        for module in pruned:
            if isinstance(module, nn.ReLU):
                patterns.append((seen > 0).double())
            seen = module(seen)
        j = linear_copy(model, {n: mask.double() for n, mask in masks.items()}, patterns)(x**2)
        k = functional_call(linear_copy(model, squares, None), squares, (torch.ones_like(x),))
        total = total + (j.detach() * k).sum()
    gradients = torch.autograd.grad(total, list(squares.values()))
    expected = {n: squares[n].detach() * g * masks[n] for n, g in zip(squares, gradients, strict=True)}
    ticket = disbud.Ticket.from_masks(masks, model=model)
    found = disbud.scores(model, "px", batches=batches, examples_per_class=None, ticket=ticket)
    factor = float(sum(s.sum() for s in expected.values()) / sum(s.sum() for s in found.values()))
    assert math.log2(factor) == pytest.approx(round(math.log2(factor)), abs=1e-9)  # up to a power of two
    assert_scores_equal({n: s * factor for n, s in found.items()}, expected)


@pytest.mark.parametrize("name", ["conv", "residual", "tied"])
def test_labels_have_no_say_in_path_exclusion_and_inputs_do(name: str) -> None:
    network = NETWORKS[name]
    model, (x, y) = network.build().double(), network.batch(6)
    ways = [
        [(x, y)],
        [(x, (y + 1) % network.classes)],
        [x],
        [{"of": x}],
        [(x[:2], y[:2]), (x[2:], y[2:])],
        [(x.flip(-1).roll(1, 0)[:3], y[:3])],
    ]
    # On the dense network J is the same for every class, and its inputs have no say; on a pruned one they have.
    ticket = disbud.Ticket.from_masks(half(model), model=model)
    one = [
        disbud.scores(
            model,
            "px",
            batches=batches,
            examples_per_class=None,
            ticket=ticket,
            loss=(lambda m, b: m(b["of"]).sum()) if isinstance(batches[0], dict) else None,
        )
        for batches in ways
    ]
    for other in one[1:5]:
        for n, score in one[0].items():
            torch.testing.assert_close(other[n] / other[n].sum(), score / score.sum(), rtol=1e-9, atol=0)
    assert any(
        not torch.allclose(one[5][n] / one[5][n].sum(), s / s.sum(), rtol=1e-3) for n, s in one[0].items()
    )


def test_path_exclusion_adds_up_batches_of_very_different_size() -> None:
    network = NETWORKS["tied"]
    model = network.build().double()
    with torch.no_grad():
        model.embed.weight[5:] *= 1e25  # type: ignore[index, operator, union-attr]
    tokens, y = torch.tensor([[0, 1, 2, 3], [6, 7, 8, 9], [4, 1, 0, 2]]), torch.arange(3)
    ticket = disbud.Ticket.from_masks(half(model), model=model)
    found = [
        disbud.scores(model, "px", batches=batches, examples_per_class=None, ticket=ticket)
        for batches in ([(tokens, y)], [(tokens[i : i + 1], y[i : i + 1]) for i in range(3)])
    ]
    for n, score in found[0].items():
        torch.testing.assert_close(found[1][n] / found[1][n].sum(), score / score.sum(), rtol=1e-9, atol=0)


# ProsPr


def trained(
    model: nn.Module, m: Masks, batches: list[tuple[Tensor, Tensor]], lr: float, momentum: float
) -> tuple[nn.Module, Tensor]:
    """The model trained by torch's own SGD from m * theta, and its loss on the last batch."""
    model = scoring_copy(model)
    with torch.no_grad():
        for n, p in model.named_parameters():
            p.mul_(m[n]) if n in m else p
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    for x, y in batches[:-1]:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        for n, p in model.named_parameters():
            if n in m and p.grad is not None:
                p.grad.masked_fill_(m[n] == 0, 0)
        optimizer.step()
    optimizer.zero_grad()
    x, y = batches[-1]
    return model, nn.functional.cross_entropy(model(x), y)


@pytest.mark.parametrize("name", NETWORKS)
def test_prospr_is_what_a_mask_does_to_the_loss_after_training(name: str) -> None:
    network = NETWORKS[name]
    model, batches = network.build().double(), [network.batch(5, seed) for seed in range(3)]
    masks = half(model) if name in ("conv", "residual") else dense(model)
    found = disbud.scores(
        model, "prospr", batches=batches, examples_per_class=None, lr=0.2,
        ticket=disbud.Ticket.from_masks(masks, model=model),
    )  # fmt: skip
    m = {n: mask.double() for n, mask in masks.items()}
    around = [*batches, batches[0]]  # three steps and the loss take four batches
    for n, i in some(found):
        if not m[n].view(-1)[i]:
            continue
        losses = []
        for step in (1e-6, -1e-6):
            moved = {k: v.clone() for k, v in m.items()}
            moved[n].view(-1)[i] += step
            losses.append(float(trained(model, moved, around, 0.2, 0.9)[1].detach()))
        slope = abs(losses[0] - losses[1]) / 2e-6
        assert float(found[n].view(-1)[i]) == pytest.approx(slope, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("name", NETWORKS)
def test_prospr_of_first_order_takes_the_gradients_for_constants(name: str) -> None:
    network = NETWORKS[name]
    model, batches = network.build().double(), [network.batch(5, seed) for seed in range(4)]
    found = disbud.scores(
        model, "prospr", batches=batches, examples_per_class=None, lr=0.1, momentum=0.5, order="first"
    )
    after, loss = trained(model, {}, batches, 0.1, 0.5)
    loss.backward()
    weights, owned = weights_of(model), dict(after.named_parameters())
    expected = {
        n: torch.zeros_like(w) if owned[n].grad is None else (w * owned[n].grad).abs()
        for n, w in weights.items()
    }
    assert_scores_equal(found, expected)


def test_prospr_without_steps_is_snip() -> None:
    network = NETWORKS["batch-norm"]
    model, more = network.build().double(), asked("prospr", NETWORKS["batch-norm"], dtype=torch.float64)
    more["batches"] = more["batches"][:1]  # type: ignore[index]
    snip = disbud.scores(model, "snip", **more)  # type: ignore[arg-type]
    for order in ("full", "first"):
        assert_scores_equal(disbud.scores(model, "prospr", steps=0, order=order, **more), snip)  # type: ignore[arg-type]
