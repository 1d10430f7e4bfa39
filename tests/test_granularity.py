"""Whole kernels and n of every m inputs, chosen as one would by hand; what any granularity asks, refuses and says."""

from __future__ import annotations

import math
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import disbud
from disbud.cli import main
from disbud.errors import DisbudError
from disbud.methods.catalogue import CATALOGUE, Method
from disbud.seeds import generator
from disbud.selection import allocate, schedule
from granularity_by_hand import CONV, batches_of, half_up, ranked, signed_snip
from method_inputs import Masks
from networks import NETWORKS
from test_methods import dense, scoring_copy, weights_of

torch.set_num_threads(1)


# Kernels


def kernels_by_hand(scores: Masks, among: Masks, budget: int, keep: str, aggregate: str) -> Masks:
    places = [(n, o, i) for n, s in scores.items() for o in range(s.shape[0]) for i in range(s.shape[1])]
    places = [(n, o, i) for n, o, i in places if bool(among[n][o, i].any())]
    parts = [scores[n][o, i] for n, o, i in places]
    values = [float((p if aggregate == "abs-of-sum" else p.abs()).sum().abs()) for p in parts]
    masks, left = {n: torch.zeros_like(mask) for n, mask in among.items()}, budget
    for place in ranked(values, keep):
        n, o, i = places[place]
        if scores[n][o, i].numel() <= left:
            masks[n][o, i] = True
            left -= scores[n][o, i].numel()
    return masks


@pytest.mark.parametrize("keep", ["highest", "lowest"])
@pytest.mark.parametrize("aggregate", ["sum-of-abs", "abs-of-sum"])
@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("name", [*CONV, "linear", "transformer", "tied"])
def test_kernels_by_hand(name: str, rounds: int, aggregate: str, keep: str) -> None:
    model, sparsity = NETWORKS[name].build().double(), 0.63
    masks = dense(model)
    total = sum(m.numel() for m in masks.values())
    silent = False
    for step in schedule("exponential", sparsity, rounds) if rounds > 1 else [sparsity]:
        budget = half_up((1 - Fraction(repr(step))) * total)
        scores = signed_snip(model, name, masks)
        silent |= not any(bool(scores[layer][mask].any()) for layer, mask in masks.items())
        masks = kernels_by_hand(scores, masks, budget, keep, aggregate)
    said = pytest.warns(UserWarning, match="snip: all scores of round") if silent else nullcontext()
    with said:
        ticket = disbud.prune(
            model, "snip", sparsity=sparsity, granularity="kernel", aggregate=aggregate, rounds=rounds, keep=keep,
            batches=batches_of(name), examples_per_class=None,
        )  # fmt: skip
    assert ticket == disbud.Ticket.from_masks(masks, model=model)
    settings = ticket.origin.settings
    assert (settings["granularity"], settings["aggregate"]) == ("kernel", aggregate)
    assert (settings["asked"], settings["kept"]) == (half_up(Fraction("0.37") * total), ticket.kept)
    assert ticket.kept <= half_up(Fraction("0.37") * total)


def test_kernels_within_the_budget_of_each_layer() -> None:
    model = NETWORKS["residual"].build()
    ticket = disbud.prune(model, "magnitude", sparsity=0.6, granularity="kernel", densities="erk")
    counts = allocate("erk", disbud.prunable(model), 0.6)
    for row in ticket.layers:
        size = math.prod(row.shape[2:])
        assert row.kept == counts[row.name] // size * size  # the largest whole number of kernels
    assert ticket.origin.settings["asked"] == sum(counts.values())


# n of every m


def n_of_m_by_hand(score: Tensor, among: Tensor, n: int, m: int, keep: str) -> Tensor:
    mask = torch.zeros_like(among)
    others = [range(size) for axis, size in enumerate(score.shape) if axis != 1]
    for where in np.ndindex(*[len(other) for other in others]):
        for start in range(0, score.shape[1], m):
            places = [(where[0], i, *where[1:]) for i in range(start, start + m)]
            places = [place for place in places if among[place]]
            for i in ranked([float(score[place]) for place in places], keep)[:n]:
                mask[places[i]] = True
    return mask


@pytest.mark.parametrize("keep", ["highest", "lowest"])
@pytest.mark.parametrize(
    ("n", "m", "rounds"), [(2, 4, 1), (1, 4, 1), (2, 4, 3), (1, 2, 1), (3, 4, 2), (1, 8, 4)]
)
def test_n_of_every_m_by_hand(n: int, m: int, rounds: int, keep: str) -> None:
    model = nn.Sequential(
        nn.Conv2d(8, 6, 3, padding=1, groups=1), nn.ReLU(), nn.Conv2d(6, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 5),
    ).double()  # fmt: skip
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(7, 8, 5, 5, generator=g, dtype=torch.float64), torch.arange(7) % 5
    masks = {k: w for k, w in dense(model).items() if k != "2.weight"}  # whose six inputs cannot be told off
    sparsity = 1 - n / m
    for step in schedule("exponential", sparsity, rounds) if rounds > 1 else [sparsity]:
        wanted = max(n, half_up((1 - Fraction(repr(step))) * m))
        weights = {
            k: (w * masks.get(k, torch.ones(()))).requires_grad_() for k, w in weights_of(model).items()
        }
        output = torch.func.functional_call(scoring_copy(model), weights, (x,))
        grads = torch.autograd.grad(nn.functional.cross_entropy(output, y), [weights[k] for k in masks])
        for k, grad in zip(list(masks), grads, strict=True):
            masks[k] = n_of_m_by_hand((weights[k] * grad).detach().abs(), masks[k], wanted, m, keep)
    ticket = disbud.prune(
        model, "snip", sparsity=sparsity, granularity=f"{n}:{m}", rounds=rounds, keep=keep, exclude="2.*",
        batches=[(x, y)], examples_per_class=None,
    )  # fmt: skip
    assert ticket == disbud.Ticket.from_masks(masks)
    assert ticket.kept * m == ticket.total * n
    assert ticket.origin.settings["granularity"] == f"{n}:{m}"


def test_with_n_of_every_m_what_is_pruned_does_not_return() -> None:
    model, rounds = nn.Linear(16, 3), 3
    mask = torch.ones(3, 16, dtype=torch.bool)
    for k, step in enumerate(schedule("exponential", 0.75, rounds)):
        drawn = torch.rand(3, 16, generator=generator(0, "mask", "random", "weight", k))
        mask = n_of_m_by_hand(drawn, mask, max(2, half_up((1 - Fraction(repr(step))) * 8)), 8, "highest")
    ticket = disbud.prune(
        model, "random", sparsity=0.75, granularity="2:8", rounds=rounds, schedule="exponential"
    )
    assert torch.equal(ticket.masks["weight"], mask)


def test_n_of_every_m_has_one_sparsity() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 6))
    for odd in (0.4, 0.51, 0.75):
        with pytest.raises(DisbudError, match=r"a sparsity of 0\.5 and no other"):
            disbud.prune(model, "magnitude", sparsity=odd, granularity="2:4")
    with pytest.raises(DisbudError, match=r"does not divide those of 0\.weight \(8\)"):
        disbud.prune(model, "magnitude", sparsity=2 / 3, granularity="1:3")
    with pytest.raises(DisbudError, match="takes no densities"):
        disbud.prune(model, "magnitude", sparsity=0.5, granularity="2:4", densities="erk")
    for odd_text in ("4:4", "0:4", "5:4"):
        with pytest.raises(DisbudError, match="from 1 to 3"):
            disbud.prune(model, "magnitude", sparsity=0.5, granularity=odd_text)
    uniform = disbud.prune(model, "magnitude-uniform", sparsity=0.5, granularity="2:4")
    assert uniform == disbud.prune(model, "magnitude", sparsity=0.5, granularity="2:4")


def test_a_transposed_convolution_is_told_off_along_its_inputs() -> None:
    layer = nn.ConvTranspose2d(4, 3, 2)
    ticket = disbud.prune(layer, "magnitude", sparsity=0.5, granularity="2:4")
    assert bool((ticket.masks["weight"].sum(0) == 2).all())


# Requests


def test_what_cannot_be_grouped_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    network = NETWORKS["conv"]
    model, example = network.build(), network.example
    for more, message in (
        ({"granularity": "kernels"}, "did you mean 'kernel'"),
        ({"granularity": "channel"}, "give example="),
        ({"granularity": "channel", "example": example, "sparsity": 0.97}, "one channel of each kind has"),
        (
            {"granularity": "channel", "example": example, "include": "7.*"},
            "no channel of these layers can go",
        ),
        ({"granularity": "kernel", "aggregate": "mean"}, "aggregate"),
    ):
        with pytest.raises(DisbudError, match=message):
            disbud.prune(model, "magnitude", **({"sparsity": 0.5} | more))  # type: ignore[arg-type]
    with pytest.raises(DisbudError, match="chooses single weights"):
        disbud.prune(model, "dpai", sparsity=0.5, granularity="kernel", example=example)
    with pytest.raises(DisbudError, match="not finite"):
        monkeypatch.setitem(CATALOGUE, "odd", Method("odd", "NaN", f"{__name__}:not_a_number"))
        disbud.prune(model, "odd", sparsity=0.5, granularity="kernel")


def not_a_number(s: object) -> Masks:
    return {n: torch.full_like(w, math.nan) for n, w in s.weights.items()}  # type: ignore[attr-defined]


@pytest.mark.parametrize("granularity", ["kernel", "channel"])
@pytest.mark.parametrize(
    "method", ["random", "magnitude-erk", "force", "grasp", "synflow", "ntk-sap", "px", "prospr"]
)
def test_every_method_that_scores(method: str, granularity: str) -> None:
    network = NETWORKS["residual"]
    ticket = disbud.prune(
        network.build(), method, sparsity=0.5, granularity=granularity, example=network.example,
        batches=[network.batch(6, dtype=torch.float32)], examples_per_class=None, rounds=2, densities="global",
    )  # fmt: skip
    assert ticket.origin.settings["asked"] == 432
    assert 300 < ticket.kept <= 432


def test_grasp_keeps_its_sign_in_a_sum() -> None:
    network = NETWORKS["conv"]
    model, more = network.build().double(), {"batches": batches_of("conv"), "examples_per_class": None}
    more |= {"include": "3.*"}
    scores = disbud.scores(model, "grasp", **more)  # type: ignore[arg-type]
    ticket = disbud.prune(model, "grasp", sparsity=0.5, granularity="kernel", **more)  # type: ignore[arg-type]
    sums = scores["3.weight"].sum((2, 3)).flatten()
    kept = ticket.masks["3.weight"].flatten(2).any(2).flatten()
    assert sums[kept].min() > sums[~kept].max()
    assert bool((sums < 0).any())


def test_on_the_command_line(tmp_path: Path) -> None:
    for i, arguments in enumerate(
        (["--set", "granularity=channel"], ["--set", "granularity=kernel", "--set", "aggregate=abs-of-sum"])
    ):
        out = tmp_path / f"{i}.ticket.safetensors"
        arguments = [
            "prune",
            "lenet-5",
            "--method",
            "magnitude",
            "--sparsity",
            "0.5",
            "--out",
            str(out),
            *arguments,
        ]
        assert main(arguments) == 0
        settings = disbud.Ticket.load(out).origin.settings
        assert settings["granularity"] == ("channel", "kernel")[i]
        assert settings["kept"] <= settings["asked"]  # type: ignore[operator]


def test_two_of_four_inputs_of_each_group_of_a_transposed_convolution() -> None:
    torch.manual_seed(0)
    model = nn.ConvTranspose2d(8, 6, 2, groups=2)  # each output reads four channels
    mask = disbud.prune(model, "magnitude", sparsity=0.5, granularity="2:4").masks["weight"]
    for group in (slice(0, 4), slice(4, 8)):
        inputs, weight = mask[group], model.weight.detach()[group].abs()
        assert bool((inputs.sum(0) == 2).all())
        assert bool(((weight * inputs).sum(0) == weight.sort(0).values[2:].sum(0)).all())
    with pytest.raises(DisbudError, match=r"does not divide those of weight \(2\)"):
        disbud.prune(nn.ConvTranspose2d(8, 8, 2, groups=4), "magnitude", sparsity=0.5, granularity="2:4")
