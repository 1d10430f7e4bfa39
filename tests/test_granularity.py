"""Whole kernels, channels and n of every m inputs: chosen as one would by hand, recounting every weight."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
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
from networks import NETWORKS
from test_methods import dense, scoring_copy, weights_of

torch.set_num_threads(1)

Masks = dict[str, Tensor]
Unit = tuple[str, str, int]
CONV = [
    "conv",
    "batch-norm",
    "strided",
    "grouped",
    "transposed",
    "conv1d",
    "conv3d",
    "residual",
    "densely-connected",
]


def batches_of(name: str) -> list[tuple[Tensor, Tensor]]:
    return [NETWORKS[name].batch(9)]


def signed_snip(model: nn.Module, name: str, masks: Masks) -> Masks:
    """w dL/dw of the pruned network."""
    weights = {n: (w * masks[n]).requires_grad_() for n, w in weights_of(model).items()}
    x, y = batches_of(name)[0]
    output = torch.func.functional_call(scoring_copy(model), weights, (x,))
    found = torch.autograd.grad(
        nn.functional.cross_entropy(output, y), list(weights.values()), materialize_grads=True
    )
    return {n: (w * g).detach() for (n, w), g in zip(weights.items(), found, strict=True)}


def half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def ranked(values: list[float], keep: str) -> list[int]:
    """Places in the order in which they are kept."""
    if keep == "highest":
        return sorted(range(len(values)), key=lambda i: (-values[i], i))
    return sorted(range(len(values)), key=lambda i: (values[i] == 0, values[i], i))


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
    for step in schedule("exponential", sparsity, rounds) if rounds > 1 else [sparsity]:
        budget = half_up((1 - Fraction(repr(step))) * total)
        masks = kernels_by_hand(signed_snip(model, name, masks), masks, budget, keep, aggregate)
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


# Channels


def couplings(name: str) -> list[list[list[Unit]]]:
    """Which units go together, by hand: kinds of channels, channels, units."""

    def kind(size: int, *units: tuple[str, str, int]) -> list[list[Unit]]:
        return [[(layer, side, first + c) for layer, side, first in units] for c in range(size)]

    def chain(*layers: tuple[str, int]) -> list[list[list[Unit]]]:
        return [
            kind(size, (layer, "out", 0), (after, "in", 0)) for (layer, size), (after, _) in pairwise(layers)
        ]

    return {
        "linear": lambda: chain(("0", 8), ("2", 3)),
        "without-biases": lambda: chain(("0", 8), ("2", 8), ("4", 3)),
        "conv": lambda: chain(("0", 4), ("3", 5), ("7", 3)),
        "batch-norm": lambda: chain(("0", 4), ("3", 5), ("8", 3)),
        "strided": lambda: chain(("0", 4), ("2", 5), ("4", 3)),
        "transposed": lambda: chain(("0", 4), ("2", 6), ("6", 3)),
        "conv1d": lambda: chain(("0", 4), ("5", 3)),
        "conv3d": lambda: chain(("0", 3), ("4", 3)),
        "functional": lambda: chain(("first", 5), ("last", 3)),
        "untraceable": lambda: chain(("first", 5), ("last", 3)),
        "grouped": lambda: [
            kind(6, ("0", "out", 0), ("2", "in", 0), ("2", "out", 0), ("4", "in", 0)),
            kind(4, ("4", "out", 0), ("7", "in", 0)),
        ],
        "residual": lambda: [
            kind(6, ("stem", "out", 0), ("branch.0", "in", 0), ("shortcut", "in", 0)),
            kind(6, ("branch.0", "out", 0), ("branch.2", "in", 0)),
            kind(6, ("branch.2", "out", 0), ("shortcut", "out", 0), ("head", "in", 0)),
        ],
        "densely-connected": lambda: [
            kind(4, ("first", "out", 0), ("second", "in", 3), ("head", "in", 3)),
            kind(4, ("second", "out", 0), ("head", "in", 7)),
        ],
    }[name]()


GROUPS = {("grouped", "0"): 3, ("grouped", "2"): 6, ("grouped", "4"): 2}


def units_of(name: str, layer: str, shape: torch.Size) -> Iterator[tuple[int, int, int, int]]:
    """Row, column, input unit and output unit of each kernel."""
    if (name, layer) == ("transposed", "2"):  # weight: inputs first, two groups
        yield from ((i, o, i, i // 2 * 3 + o) for i in range(shape[0]) for o in range(shape[1]))
        return
    per_group = shape[0] // GROUPS.get((name, layer), 1)
    yield from ((o, i, o // per_group * shape[1] + i, o) for o in range(shape[0]) for i in range(shape[1]))


def channel_masks(model: nn.Module, name: str, gone: set[Unit]) -> Masks:
    masks = dense(model)
    for n, mask in masks.items():
        layer = n.removesuffix(".weight")
        for row, column, i, o in units_of(name, layer, mask.shape):
            if (layer, "in", i) in gone or (layer, "out", o) in gone:
                mask[row, column] = False
    return masks


def channels_by_hand(
    model: nn.Module, name: str, scores: Masks, budgets: list[tuple[list[str], int]], keep: str, aggregate: str,
    before: set[int] | None,
) -> tuple[Masks, set[int]]:  # fmt: skip
    """Greedily, each candidate tried by building all masks and counting."""
    kinds = couplings(name)
    channels = [(k, units) for k, kind in enumerate(kinds) for units in kind]
    values = []
    for _, units in channels:
        without = channel_masks(model, name, set(units))
        parts = [scores[n][~mask] for n, mask in without.items()]
        values.append(abs(float(sum((p if aggregate == "abs-of-sum" else p.abs()).sum() for p in parts))))

    def masks_with(stay: set[int]) -> Masks:
        gone = {unit for c, (_, units) in enumerate(channels) if c not in stay for unit in units}
        return channel_masks(model, name, gone)

    order = [c for c in ranked(values, keep) if before is None or c in before]
    stay = {next(c for c in order if channels[c][0] == k) for k in range(len(kinds))}
    for c in order:
        masks = masks_with(stay | {c})
        if all(sum(int(masks[n].sum()) for n in names) <= count for names, count in budgets):
            stay.add(c)
    return masks_with(stay), stay


@pytest.mark.parametrize("keep", ["highest", "lowest"])
@pytest.mark.parametrize(("rounds", "aggregate"), [(1, "sum-of-abs"), (1, "abs-of-sum"), (3, "sum-of-abs")])
@pytest.mark.parametrize("name", [*CONV, "linear", "without-biases", "functional", "untraceable"])
def test_channels_by_hand(name: str, rounds: int, aggregate: str, keep: str) -> None:
    network, sparsity = NETWORKS[name], 0.55
    model = network.build().double()
    masks, stay = dense(model), None
    names, total = list(masks), sum(m.numel() for m in masks.values())
    for step in schedule("exponential", sparsity, rounds) if rounds > 1 else [sparsity]:
        budgets = [(names, half_up((1 - Fraction(repr(step))) * total))]
        scores = signed_snip(model, name, masks)
        masks, stay = channels_by_hand(model, name, scores, budgets, keep, aggregate, stay)
    ticket = disbud.prune(
        model, "snip", sparsity=sparsity, granularity="channel", aggregate=aggregate, rounds=rounds, keep=keep,
        batches=batches_of(name), examples_per_class=None, example=network.example.double(),
    )  # fmt: skip
    assert ticket == disbud.Ticket.from_masks(masks, model=model)
    assert ticket.origin.settings["asked"] == half_up(Fraction("0.45") * total)
    assert ticket.origin.settings["kept"] == ticket.kept < total


@pytest.mark.parametrize("name", ["conv", "residual", "densely-connected"])
def test_channels_within_the_budget_of_each_layer(name: str) -> None:
    network = NETWORKS[name]
    model = network.build().double()
    counts = allocate("uniform", disbud.prunable(model), 0.4)
    scores = {n: w.abs() for n, w in weights_of(model).items()}
    budgets = [([n], count) for n, count in counts.items()]
    masks, _ = channels_by_hand(model, name, scores, budgets, "highest", "sum-of-abs", None)
    ticket = disbud.prune(
        model,
        "magnitude",
        sparsity=0.4,
        granularity="channel",
        densities="uniform",
        example=network.example.double(),
    )
    assert ticket == disbud.Ticket.from_masks(masks, model=model)
    assert all(row.kept <= counts[row.name] for row in ticket.layers)


def test_a_layer_that_stays_whole_holds_its_channels() -> None:
    network = NETWORKS["residual"]
    model = network.build()
    ticket = disbud.prune(
        model, "magnitude", sparsity=0.4, granularity="channel", example=network.example, exclude="shortcut.*"
    )
    assert "shortcut.weight" not in ticket.masks
    # The last signal is joined by an addition with what the shortcut makes, the first is only read by it.
    assert bool(ticket.masks["head.weight"].all())
    assert bool(ticket.masks["branch.2.weight"].flatten(1).any(1).all())
    rows = ticket.masks["stem.weight"].flatten(1).any(1)
    assert not bool(rows.all())
    assert torch.equal(ticket.masks["branch.0.weight"].transpose(0, 1).flatten(1).any(1), rows)


def test_channels_of_attention_and_of_the_stream_past_it() -> None:
    network = NETWORKS["transformer"]
    ticket = disbud.prune(
        network.build(), "magnitude", sparsity=0.3, granularity="channel", example=network.example
    )
    stacked, back = (
        ticket.masks["block.self_attn.in_proj_weight"],
        ticket.masks["block.self_attn.out_proj.weight"],
    )
    values = stacked[16:].any(1)
    assert torch.equal(values, back.any(0))
    assert not bool(values.all())
    # The stream that additions join begins with the embedding, which is the model's input: it stays whole.
    assert bool(back.any(1).all())
    assert bool(ticket.masks["head.weight"].all())


def test_channel_tickets_leave_dead_channels_alone() -> None:
    """What is left computes the same whatever stands in the weights of channels that went."""
    network = NETWORKS["residual"]
    model = network.build().double()
    for p in (model.branch[0].bias, model.branch[2].bias, model.shortcut.bias):  # type: ignore[index, union-attr]
        nn.init.zeros_(p)  # type: ignore[arg-type]
    ticket = disbud.prune(
        model, "synflow", sparsity=0.6, granularity="channel", example=network.example, rounds=5
    )
    ticket.apply_(model)
    gone = ~ticket.masks["head.weight"].any(0)
    assert gone.any()
    x, _ = network.batch(3)
    model.eval()
    before = model(x)
    nn.init.normal_(model.shortcut.weight.data[gone])  # type: ignore[index, union-attr]
    torch.testing.assert_close(model(x), before)


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


def test_channels_need_no_example_where_batches_are_given_but_an_iterator_is_not_looked_into() -> None:
    network = NETWORKS["conv"]
    model, batch = network.build(), network.batch(6, dtype=torch.float32)
    more = {"sparsity": 0.4, "granularity": "channel", "examples_per_class": None}
    ticket = disbud.prune(model, "snip", batches=[batch], **more)  # type: ignore[arg-type]
    assert ticket == disbud.prune(model, "snip", batches=[batch], example=network.example, **more)  # type: ignore[arg-type]
    with pytest.raises(DisbudError, match="give example="):
        disbud.prune(model, "snip", batches=iter([batch]), **more)  # type: ignore[arg-type]
    assert ticket == disbud.prune(model, "snip", batches=iter([batch]), example=network.example, **more)  # type: ignore[arg-type]


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
