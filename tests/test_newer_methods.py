"""The newer methods against brute force that shares no code with them: training, differences, paths one by one."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

import disbud
from disbud.errors import DisbudError
from disbud.graph import log10_paths, reach
from disbud.methods.catalogue import CATALOGUE
from disbud.seeds import generator
from networks import NETWORKS, Network
from test_methods import assert_scores_equal, dense, half, keep_top, scoring_copy, weights_of
from test_untouched import lived_in, snapshot, streams

torch.set_num_threads(1)

Masks = dict[str, Tensor]
NEWER = ["synflow-random-rounds", "ntk-sap", "px", "prospr", "dpai", "precrop"]
FLOATS = [name for name, network in NETWORKS.items() if network.example.is_floating_point()]


def asked(method: str, network: Network, *, dtype: torch.dtype = torch.float32) -> dict[str, object]:
    """What the method looks at."""
    if CATALOGUE[method].needs == "batches":
        return {
            "batches": [network.batch(6, seed, dtype=dtype) for seed in (0, 1)],
            "examples_per_class": None,
        }
    x = network.example
    return {"example": x.to(dtype) if x.is_floating_point() else x}


def some(scores: Masks, count: int = 3) -> list[tuple[str, int]]:
    """A few weights of each layer."""
    g = torch.Generator().manual_seed(4)
    return [(n, int(i)) for n, s in scores.items() for i in torch.randperm(s.numel(), generator=g)[:count]]


# SynFlow with random rounds


def synflow_by_hand(weights: Masks, masks: Masks) -> Masks:
    """theta dR/dtheta of three linear layers, from their products with ones."""
    w1, w2, w3 = (weights[n].abs() * masks[n] for n in weights)
    a, b = w1 @ torch.ones(w1.shape[1]).double(), torch.ones(w3.shape[0]).double() @ w3
    names = list(weights)
    return {
        names[0]: w1 * (b @ w2)[:, None],
        names[1]: w2 * torch.outer(b, a),
        names[2]: w3 * (w2 @ a)[None, :],
    }


@pytest.mark.parametrize("variant", ["plain", "no-regrowth"])
@pytest.mark.parametrize(("every", "until"), [(1, 9), (3, 7), (4, 0), (2, 12)])
def test_random_rounds_by_hand(variant: str, every: int, until: int) -> None:
    network, method, rounds, seed = NETWORKS["without-biases"], "synflow-random-rounds", 9, 5
    model = network.build().double()
    weights, masks = weights_of(model), dense(model)
    total = sum(w.numel() for w in weights.values())
    returned = False
    for k in range(rounds):
        drawn = k % every == 0 and k + 1 <= until
        if drawn:
            streams_of = {n: generator(seed, "mask", method, n, k) for n in weights}
            scores = {n: torch.rand(w.shape, generator=streams_of[n]) for n, w in weights.items()}
        else:
            scores = synflow_by_hand(weights, masks)
        if variant == "no-regrowth" or not drawn:
            scores = {n: score.masked_fill(~masks[n], -1) for n, score in scores.items()}
        before, masks = masks, keep_top(scores, math.floor(0.2 ** ((k + 1) / rounds) * total + 0.5))
        returned |= any(bool((masks[n] & ~before[n]).any()) for n in masks)
    ticket = disbud.prune(
        model, method, sparsity=0.8, rounds=rounds, seed=seed, example=network.example.double(), every=every,
        until=until, variant=variant, dtype="float64",
    )  # fmt: skip
    assert ticket == disbud.Ticket.from_masks(masks, model=model)
    assert returned is (variant == "plain" and until > every)


@pytest.mark.parametrize("name", NETWORKS)
def test_without_random_rounds_it_is_synflow(name: str) -> None:
    network = NETWORKS[name]
    model, more = network.build(), {"sparsity": 0.8, "rounds": 6, "example": network.example}
    plain = disbud.prune(model, "synflow", **more)  # type: ignore[arg-type]
    assert disbud.prune(model, "synflow-random-rounds", until=0, **more) == plain  # type: ignore[arg-type]
    # And SynFlow itself scores survivors alone, so that nothing returns where returning is allowed.
    assert disbud.prune(model, "synflow", regrowth=True, **more) == plain  # type: ignore[arg-type]


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
    network, draws, samples = NETWORKS[name], 2, 7
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
            theta[n] *= math.sqrt(2 / (layer.n_in * math.prod(layer.kernel)))
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


# DPaI


def gains_by_counting(masks: Masks) -> Masks:
    """(P with a weight - P without it) / P, each P counted anew in three or two linear layers."""

    def count(m: list[np.ndarray]) -> float:
        found = np.ones(m[0].shape[1])
        for layer in m:
            found = layer @ found
        return float(found.sum())

    parts = [mask.double().numpy() for mask in masks.values()]
    total = count(parts)
    gains = []
    for which, part in enumerate(parts):
        gain = np.zeros_like(part)
        for place in np.ndindex(part.shape):
            both = []
            for value in (1.0, 0.0):
                changed = [p.copy() for p in parts]
                changed[which][place] = value
                both.append(count(changed))
            gain[place] = (both[0] - both[1]) / total
        gains.append(torch.from_numpy(gain))
    return dict(zip(masks, gains, strict=True))


@pytest.mark.parametrize("name", ["linear", "without-biases"])
@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.5), (0.6, 0.25), (1.0, 0.0)])
def test_dpai_by_hand(name: str, alpha: float, beta: float) -> None:
    network, lr, steps = NETWORKS[name], 0.05, 4
    model = network.build()
    kept = {layer.name: round(0.4 * layer.size) for layer in disbud.prunable(model)}
    sparsity = 1 - sum(kept.values()) / sum(layer.size for layer in disbud.prunable(model))
    densities = {layer.name: kept[layer.name] / layer.size for layer in disbud.prunable(model)}
    ticket = disbud.prune(
        model, "dpai", sparsity=sparsity, densities=densities, example=network.example, steps=steps, lr=lr,
        alpha=alpha, beta=beta,
    )  # fmt: skip
    scores = {
        n: torch.rand(w.shape, generator=generator(0, "mask", "dpai", n, 0), dtype=torch.float64)
        for n, w in weights_of(model).items()
    }

    def chosen() -> Masks:
        return {n: keep_top({n: score}, kept[n])[n] for n, score in scores.items()}

    for _ in range(steps):
        masks = chosen()
        for n, gain in gains_by_counting(masks).items():
            through = masks[n] * gain
            dead_unit = (through.sum(1, keepdim=True) == 0).double()
            dead_kernel = (through == 0).double()
            share = (1 - alpha) + alpha * ((1 - beta) * dead_unit + beta * dead_kernel)
            scores[n] = scores[n] + lr * kept[n] * gain * share
    assert ticket == disbud.Ticket.from_masks(chosen(), model=model)


@pytest.mark.parametrize("name", ["conv", "residual", "densely-connected", "transformer", "grouped"])
def test_dpai_finds_more_paths_than_chance_and_alpha_more_units(name: str) -> None:
    network = NETWORKS[name]
    model, example = network.build(), network.example

    def measured(ticket: disbud.Ticket) -> tuple[float, int]:
        readings = reach(model, ticket, example=example).readings
        return log10_paths(model, ticket, example=example), sum(int(r.outputs.sum()) for r in readings)

    chance = measured(disbud.prune(model, "random-erk", sparsity=0.7))
    found = {
        alpha: measured(disbud.prune(model, "dpai", sparsity=0.7, example=example, alpha=alpha, lr=0.03))
        for alpha in (0.0, 1.0)
    }
    assert found[0.0][0] > chance[0]
    assert found[0.0][0] >= found[1.0][0]
    assert found[1.0][1] >= found[0.0][1]


# PreCrop


@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in ("tied", "conv1d", "conv3d")])
def test_precrop_leaves_a_narrower_network(name: str) -> None:
    network = NETWORKS[name]
    model = network.build()
    ticket = disbud.prune(model, "precrop", sparsity=0.6, example=network.example)
    settings = ticket.origin.settings
    assert settings["granularity"] == "channel"
    assert settings["asked"] == math.floor(0.4 * ticket.total + 0.5)
    assert settings["kept"] == ticket.kept <= settings["asked"]  # type: ignore[operator]
    for n, mask in ticket.masks.items():
        if n in ("block.self_attn.in_proj_weight",) or name in ("grouped", "transposed"):
            continue  # a kept input there is one of some outputs
        rows, columns = mask.flatten(1).any(1), mask.transpose(0, 1).flatten(1).any(1)
        shape = (-1, 1, *[1] * (mask.dim() - 2))
        assert torch.equal(
            mask, (rows.view(shape) & columns.view(1, *shape[:1], *shape[2:])).expand(mask.shape)
        )


def test_precrop_gives_each_layer_the_density_asked_where_channels_allow_it() -> None:
    def chain() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
        )  # fmt: skip

    model, example = chain(), torch.zeros(1, 3, 8, 8)
    # With fractions a, b, c of its three hidden signals the layers have densities a, a b, b c and c.
    a, b, c = 0.5, 0.25, 0.75
    wanted = {"0.weight": a, "2.weight": a * b, "4.weight": b * c, "8.weight": c}
    sizes = {layer.name: layer.size for layer in disbud.prunable(model)}
    sparsity = 1 - sum(wanted[n] * size for n, size in sizes.items()) / sum(sizes.values())
    ticket = disbud.prune(model, "precrop", sparsity=sparsity, densities=wanted, example=example)
    assert ticket.densities() == pytest.approx(wanted, abs=1e-9)
    assert ticket.origin.settings["asked"] == ticket.kept
    # The channels left are the first ones.
    assert torch.equal(ticket.masks["0.weight"][:, 0, 0, 0], torch.arange(64) < 32)


def test_what_precrop_cannot_do_it_says() -> None:
    model = NETWORKS["conv"].build()
    for more, message in (
        ({"densities": "global"}, "needs densities"),
        ({"example": None}, "give example="),
        ({"granularity": "kernel"}, "single weights"),
        ({"sparsity": 0.99}, "one channel of each kind"),
    ):
        given = {"sparsity": 0.5, "example": NETWORKS["conv"].example, **more}
        with pytest.raises(DisbudError, match=message):
            disbud.prune(model, "precrop", **given)  # type: ignore[arg-type]


# All of them


@pytest.mark.parametrize("name", ["dropout", "batch-norm", "transformer"])
@pytest.mark.parametrize("method", NEWER)
def test_the_model_and_the_random_streams_stay_as_they_were(method: str, name: str) -> None:
    network = NETWORKS[name]
    model, more = lived_in(network), asked(method, network)
    before, global_before = snapshot(model), streams()
    first = disbud.prune(model, method, sparsity=0.5, **more)  # type: ignore[arg-type]
    assert snapshot(model) == before
    assert streams() == global_before
    torch.rand(3)
    model.train()
    assert disbud.prune(model, method, sparsity=0.5, **more) == first  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["ntk-sap", "px", "prospr"])
def test_also_after_a_failure_half_way(method: str) -> None:
    network = NETWORKS["batch-norm"]
    model = lived_in(network)
    calls = 0

    def fail(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise RuntimeError("boom")

    model[-1].register_forward_hook(fail)  # type: ignore[operator, union-attr]
    before, global_before = snapshot(model), streams()
    with pytest.raises(RuntimeError, match="boom"):
        disbud.prune(model, method, sparsity=0.5, **asked(method, network))  # type: ignore[arg-type]
    assert snapshot(model) == before
    assert streams() == global_before


@pytest.mark.parametrize(
    ("method", "odd"),
    [
        ("synflow-random-rounds", {"every": 0}),
        ("synflow-random-rounds", {"until": -1}),
        ("synflow-random-rounds", {"variant": "regrowth"}),
        ("ntk-sap", {"samples": 0}),
        ("ntk-sap", {"draws": True}),
        ("ntk-sap", {"epsilon": 0.0}),
        ("ntk-sap", {"init": "kaiming"}),
        ("prospr", {"steps": -1}),
        ("prospr", {"lr": -0.5}),
        ("prospr", {"momentum": 1.0}),
        ("prospr", {"order": "second"}),
        ("dpai", {"steps": 1.5}),
        ("dpai", {"alpha": 1.5}),
        ("dpai", {"densities": "global"}),
        ("dpai", {"example": None}),
        ("ntk-sap", {"example": None}),
        ("synflow-random-rounds", {"example": None}),
    ],
)
def test_settings_that_make_no_sense_are_errors(method: str, odd: dict[str, object]) -> None:
    network = NETWORKS["conv"]
    given = {"sparsity": 0.5, **asked(method, network), **odd}
    with pytest.raises(DisbudError):
        disbud.prune(network.build(), method, **given)  # type: ignore[arg-type]


def test_path_exclusion_refuses_a_model_that_decides_by_its_values() -> None:
    class Deciding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            if bool((x < 0).any()):
                return self.last(x)  # type: ignore[no-any-return]
            return self.last(torch.relu(x))  # type: ignore[no-any-return]

    with pytest.raises(DisbudError, match="other activations"):
        disbud.prune(
            Deciding(), "px", sparsity=0.5, batches=[NETWORKS["linear"].batch(6, dtype=torch.float32)],
            examples_per_class=None,
        )  # fmt: skip


SETTINGS: dict[str, Callable[[dict[str, object]], bool]] = {
    "synflow-random-rounds": lambda s: (s["every"], s["until"], s["variant"]) == (10, 50, "plain"),
    "ntk-sap": lambda s: (s["samples"], s["draws"], s["epsilon"], s["rounds"]) == (100, 1, 0.01, 20),
    "px": lambda s: s["rounds"] == 100,
    "prospr": lambda s: (s["steps"], s["lr"], s["momentum"], s["order"]) == (3, 0.5, 0.9, "full"),
    "dpai": lambda s: (
        (s["steps"], s["lr"], s["alpha"], s["beta"], s["densities"]) == (100, 0.01, 0.9, 0.5, "erk")
    ),
    "precrop": lambda s: s["densities"] == "erk",
}


@pytest.mark.parametrize("method", NEWER)
def test_the_origin_says_every_setting(method: str) -> None:
    network = NETWORKS["conv"]
    ticket = disbud.prune(network.build(), method, sparsity=0.5, **asked(method, network))  # type: ignore[arg-type]
    assert SETTINGS[method](dict(ticket.origin.settings))
