"""Newer methods that choose by rounds, paths or channels, by hand; what all of them leave alone, refuse and say."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import disbud
from disbud.errors import DisbudError
from disbud.graph import log10_paths, reach
from disbud.methods.dpai import _weights
from disbud.seeds import generator
from method_inputs import Masks, asked
from networks import NETWORKS
from test_methods import dense, keep_top, weights_of
from test_untouched import lived_in, snapshot, streams

torch.set_num_threads(1)

NEWER = ["synflow-random-rounds", "ntk-sap", "px", "prospr", "dpai", "precrop"]


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


def test_dpai_looks_for_dead_units_in_each_group_of_a_transposed_convolution() -> None:
    (layer,) = disbud.prunable(nn.ConvTranspose2d(6, 4, 2, groups=2))
    draws = torch.Generator().manual_seed(0)
    through = (
        torch.rand(layer.shape, generator=draws) * (torch.rand(layer.shape, generator=draws) < 0.15)
    ).double()
    through[:3, 1] = 0  # an output of the first group; that of the second group in the same column is alive
    through[3:, 1, 0, 0] = 1
    alpha, beta = 0.6, 0.25
    found = _weights(layer, through, alpha, beta)
    for i, o, *tap in np.ndindex(*layer.shape):
        group = slice(0, 3) if i < 3 else slice(3, 6)
        dead_unit, dead_kernel = not through[group, o].any(), not through[i, o].any()
        share = (1 - alpha) + alpha * ((1 - beta) * dead_unit + beta * dead_kernel)
        assert float(found[i, o, tap[0], tap[1]]) == pytest.approx(share)


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
@pytest.mark.filterwarnings(
    "ignore:px. all scores of round 1 are zero"
)  # by these running means nothing passes
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
