"""Whole channels, chosen as one would by hand: which units go together, and every weight recounted."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from torch import nn

import disbud
from disbud.errors import DisbudError
from disbud.selection import allocate, schedule
from granularity_by_hand import CONV, batches_of, half_up, ranked, signed_snip
from method_inputs import Masks
from networks import NETWORKS
from test_methods import dense, weights_of

torch.set_num_threads(1)

Unit = tuple[str, str, int]


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


def test_channels_need_no_example_where_batches_are_given_but_an_iterator_is_not_looked_into() -> None:
    network = NETWORKS["conv"]
    model, batch = network.build(), network.batch(6, dtype=torch.float32)
    more = {"sparsity": 0.4, "granularity": "channel", "examples_per_class": None}
    ticket = disbud.prune(model, "snip", batches=[batch], **more)  # type: ignore[arg-type]
    assert ticket == disbud.prune(model, "snip", batches=[batch], example=network.example, **more)  # type: ignore[arg-type]
    with pytest.raises(DisbudError, match="give example="):
        disbud.prune(model, "snip", batches=iter([batch]), **more)  # type: ignore[arg-type]
    assert ticket == disbud.prune(model, "snip", batches=iter([batch]), example=network.example, **more)  # type: ignore[arg-type]
