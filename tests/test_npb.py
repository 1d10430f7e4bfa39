"""Node-path balancing on networks: budgets, live weights, published figures, taps, errors; links and path counts."""

from __future__ import annotations

import itertools
import math
import warnings
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import disbud
from disbud.batches import cross_entropy
from disbud.errors import DisbudError
from disbud.graph import log10_paths, prunable
from disbud.graph.kernels import Kernels
from disbud.graph.links import links
from disbud.graph.sweeps import Sweeps, Visit
from disbud.measures import paths
from disbud.methods.evidence import Evidence
from disbud.methods.npb import npb
from disbud.methods.scoring import Scoring
from disbud.models import build
from disbud.parameters import parameters
from disbud.seeds import generator
from disbud.selection import allocate
from networks import NETWORKS, Network
from path_check import at_random

IMAGE = torch.zeros(1, 3, 32, 32)
# Where a layer leads nowhere, its budget cannot be on a path; where a weight has two places, moving it moves both.
BY_PARTS = {"unused-branch", "tied", "transformer"}


def ticket_of(network: Network, sparsity: float, **more: object) -> disbud.Ticket:
    return disbud.prune(network.build(), "npb", sparsity=sparsity, example=network.example, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("sparsity", [0.5, 0.77, 0.9])
@pytest.mark.parametrize("name", NETWORKS)
def test_each_layer_keeps_its_budget_and_all_that_is_kept_is_on_a_path(name: str, sparsity: float) -> None:
    network = NETWORKS[name]
    model = network.build()
    ticket = ticket_of(network, sparsity)
    budget = allocate("erk", prunable(model, example=network.example), sparsity)
    assert {layer: int(mask.sum()) for layer, mask in ticket.masks.items()} == budget
    assert ticket == ticket_of(network, sparsity)
    table = paths(model, ticket, example=network.example)
    assert table.log10_paths > -math.inf
    if name not in BY_PARTS:
        assert table.effective_parameters == ticket.kept


@pytest.mark.parametrize("name", ["conv", "grouped", "residual", "densely-connected", "transposed"])
def test_more_units_and_paths_than_at_random(name: str) -> None:
    network = NETWORKS[name]
    model = network.build()
    ours = paths(model, ticket_of(network, 0.8), example=network.example)
    controls = []
    for seed in range(5):
        control = disbud.prune(model, "random-erk", sparsity=0.8, seed=seed)
        table = paths(model, control, example=network.example)
        controls.append((table.nodes, table.log10_paths))
    assert (ours.nodes, ours.log10_paths) >= max(controls)  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("sparsity", "settings", "nodes", "log"),
    [
        (0.9, {"mode": "paper"}, 701, 33.9),
        (0.9684, {"mode": "paper", "alpha": 0.5}, 701, 24.1),
        (0.99, {"mode": "paper", "alpha": 0.5}, 701, 14.9),
        (0.9, {"sweeps": 0}, 701, 33.9),
        (0.9684, {"sweeps": 0}, 701, 24.1),
        (0.99, {"sweeps": 0}, 701, 14.9),
    ],
)
def test_resnet_20_as_an_integer_solver_has_it(
    sparsity: float, settings: dict[str, object], nodes: int, log: float
) -> None:
    # The optimum of each layer in turn, ERK densities: nodes and log10 of the paths.
    model = build("resnet20")
    ticket = disbud.prune(model, "npb", sparsity=sparsity, example=IMAGE, **settings)  # type: ignore[arg-type]
    table = paths(model, ticket, example=IMAGE)
    assert table.nodes == nodes
    assert table.log10_paths == pytest.approx(log, abs=0.08)
    assert table.effective_parameters == ticket.kept


def test_few_paths_are_dropped_where_nodes_are_worth_little() -> None:
    model = build("resnet20")
    few, many = (
        paths(model, disbud.prune(model, "npb", sparsity=0.99, example=IMAGE, mode="paper", alpha=alpha), example=IMAGE)
        for alpha in (0.01, 0.5)
    )  # fmt: skip
    assert few.nodes < many.nodes == 701  # type: ignore[operator]
    assert few.log10_paths > many.log10_paths  # type: ignore[operator]


def test_going_back_and_forth_adds_paths_and_loses_no_node() -> None:
    model = build("resnet20")
    once, swept = (
        paths(model, disbud.prune(model, "npb", sparsity=0.99, example=IMAGE, sweeps=n), example=IMAGE) for n in (0, 2)
    )  # fmt: skip
    assert swept.nodes == once.nodes == 701
    assert swept.log10_paths > once.log10_paths + 5  # type: ignore[operator]


def test_past_99_per_cent_every_weight_is_on_a_path_and_more_units_live_than_layer_by_layer() -> None:
    model = build("resnet20")
    ticket = disbud.prune(model, "npb", sparsity=0.997, example=IMAGE)
    table = paths(model, ticket, example=IMAGE)
    assert table.effective_parameters == ticket.kept == 813
    assert table.nodes >= 512  # type: ignore[operator]


def test_on_one_pixel_only_taps_that_meet_it_are_kept() -> None:
    model = build("vgg13:width=0.25", input_shape=(3, 16, 16))
    example = torch.zeros(1, 3, 16, 16)
    ticket = disbud.prune(model, "npb", sparsity=0.95, example=example)
    # Half of the ticket's layers see so few pixels that most of their budget has no live tap to go to.
    last = [mask for mask in ticket.masks.values() if mask.dim() == 4][-1]
    assert last[:, :, 1, 1].sum() == min(int(last.sum()), last[:, :, 1, 1].numel())
    table = paths(model, ticket, example=example)
    assert table.nodes == paths(model, None, example=example).nodes


def test_seeds_draw_other_tickets_that_are_as_good() -> None:
    model = build("resnet20")
    tickets = [
        disbud.prune(model, "npb", sparsity=0.98, example=IMAGE, seed=seed, sweeps=0) for seed in (0, 1)
    ]
    assert tickets[0] != tickets[1]
    tables = [paths(model, ticket, example=IMAGE) for ticket in tickets]
    assert tables[0].nodes == tables[1].nodes
    assert tables[0].log10_paths == pytest.approx(tables[1].log10_paths, abs=0.1)


def test_a_budget_below_the_width_is_spent_on_units_that_its_neighbours_share() -> None:
    model = nn.Sequential(
        *itertools.chain(*([nn.Linear(50, 50, bias=False), nn.ReLU()] for _ in range(3))), nn.Linear(50, 5)
    )
    names = [layer.name for layer in prunable(model)]
    counts = dict(zip(names, (60, 7, 60, 10), strict=True))
    given = {name: count / dict(model.named_parameters())[name].numel() for name, count in counts.items()}
    total = sum(p.numel() for n, p in model.named_parameters() if n in counts)
    ticket = disbud.prune(
        model, "npb", sparsity=1 - sum(counts.values()) / total, densities=given, example=torch.zeros(1, 50)
    )
    table = paths(model, ticket, example=torch.zeros(1, 50))
    assert {name: int(mask.sum()) for name, mask in ticket.masks.items()} == counts
    assert table.effective_parameters == ticket.kept
    assert ticket.masks[names[1]].any(0).sum() == ticket.masks[names[1]].any(1).sum() == 7


# Taps


def scoring(network: Network, evidence: Evidence | None = None) -> Scoring:
    model = network.build()
    names = {name: name for name, _ in model.named_parameters()}
    layers = prunable(model, example=network.example)
    return Scoring(
        model, layers, names, evidence=evidence, loss=cross_entropy, example=network.example,
        streams=partial(generator, 0, "mask", "npb"),
    )  # fmt: skip


def constructed(s: Scoring, taps: str) -> dict[str, Tensor]:
    budget = allocate("erk", s.layers, 0.6)
    return npb(s, budget, mode="nodes-first", alpha=0.01, beta=1.0, taps=taps, sweeps=0)


def largest_are_kept(masks: dict[str, Tensor], scores: dict[str, Tensor], *, share: float) -> None:
    wrong = total = 0
    for name, mask in masks.items():
        if mask.dim() != 4:
            continue
        kept, score = mask.flatten(2), scores[name].flatten(2)
        some = kept.any(2) & ~kept.all(2)
        least = score.masked_fill(~kept, math.inf).amin(2)[some]
        most = score.masked_fill(kept, -math.inf).amax(2)[some]
        wrong += int((least < most).sum())
        total += int(some.sum())
    assert total > 20
    assert wrong <= (1 - share) * total


def test_taps_by_magnitude() -> None:
    s = scoring(NETWORKS["residual"])
    sizes = {name: weight.abs() for name, weight in s.weights.items()}
    largest_are_kept(constructed(s, "magnitude"), sizes, share=1.0)
    with pytest.raises(AssertionError):
        largest_are_kept(constructed(s, "random"), sizes, share=1.0)


def test_taps_by_snip_and_the_batches_it_needs() -> None:
    network = NETWORKS["residual"]
    with pytest.raises(DisbudError, match=r"looks at data: give batches=\.\.\."):
        constructed(scoring(network), "snip")
    batch = network.batch(6, dtype=torch.float32)
    s = scoring(network, Evidence([batch], None, 6))
    saliency = disbud.scores(s.model, "snip", batches=[batch], examples_per_class=None, batch_norm="eval")
    s.model.eval()
    largest_are_kept(constructed(s, "snip"), saliency, share=1.0)


# What it stands on


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - {"tied", "transformer"}))
def test_gains_are_the_paths_by_way_of_each_weight(name: str) -> None:
    network = NETWORKS[name]
    model = network.build()
    names = [layer.name for layer in prunable(model, example=network.example)]
    ticket = at_random(model, 0.5, 1)
    seen: dict[str, Tensor] = {}

    def note(visit: Visit) -> None:
        assert visit.gains is not None
        seen[visit.layer] = visit.gains

    sweeps = Sweeps(model, names, example=network.example)
    for layer in names:
        sweeps.put(layer, ticket.masks[layer])
    sweeps.run(back=note)
    total = log10_paths(model, ticket, example=network.example)
    assert sweeps.log10_paths == pytest.approx(total, abs=1e-12)
    for layer in names:
        for at in [(0, 0), (1, 0), (-1, -1)]:
            masks = ticket.to_masks()
            masks[layer][at] = ~masks[layer][at]
            flipped = disbud.Ticket.from_masks(masks)
            other = 10 ** log10_paths(model, flipped, example=network.example)
            sign = masks[layer][at].to(torch.float64) * 2 - 1
            assert float((seen.get(layer, torch.zeros(ticket.masks[layer].shape))[at] * sign).sum()) == pytest.approx(
                other - 10**total, rel=1e-9, abs=1e-6
            )  # fmt: skip


def linked(name: str) -> set[tuple[str, int, str, int]]:
    network = NETWORKS[name]
    model = network.build()
    found = links(
        model, [layer.name for layer in prunable(model, example=network.example)], example=network.example
    )
    place = [p.layer.removesuffix(".weight") for p in found.places]
    return {(place[a], u, place[b], v) for a, u, b, v in found.links.tolist()}


def test_links_of_chains_additions_and_concatenations() -> None:
    assert linked("conv") == {("0", u, "3", u) for u in range(4)} | {("3", u, "7", u) for u in range(5)}
    assert linked("residual") == {
        (a, u, b, u)
        for a, b in [
            ("stem", "branch.0"), ("stem", "shortcut"), ("branch.0", "branch.2"), ("branch.2", "head"),
            ("shortcut", "head"),
        ]
        for u in range(6)
    }  # fmt: skip
    # The image comes first in each concatenation, then what the layers made.
    assert linked("densely-connected") == (
        {("first", u, "second", 3 + u) for u in range(4)}
        | {("first", u, "head", 3 + u) for u in range(4)}
        | {("second", u, "head", 7 + u) for u in range(4)}
    )
    assert linked("unused-branch") == {("first", u, to, u) for u in range(7) for to in ("idle", "head")}


class Odd(nn.Module):
    """A flattened map, a channel shuffle, a signal beside itself, and a mean over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.shuffled = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 1)
        self.flat, self.twice, self.mean = nn.Linear(16, 3), nn.Linear(6, 2), nn.Linear(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.shuffled(x.view(1, 2, 2, 2, 2).transpose(1, 2).reshape(1, 4, 2, 2))
        x = self.flat(x.flatten(1))
        y: Tensor = self.twice(torch.cat([x, x], 1)) + self.mean(x.mean(1, keepdim=True))
        return y


def test_links_past_flattening_shuffling_repeating_and_mixing() -> None:
    model = Odd()
    names = [layer.name for layer in prunable(model, example=torch.zeros(1, 2, 4, 4))]
    found = links(model, names, example=torch.zeros(1, 2, 4, 4))
    place = [p.layer.removesuffix(".weight") for p in found.places]
    assert {(place[a], u, place[b], v) for a, u, b, v in found.links.tolist()} == (
        {("conv", u, "shuffled", v) for u, v in enumerate([0, 2, 1, 3])}
        | {("shuffled", u, "flat", 4 * u + k) for u in range(4) for k in range(4)}
        | {("flat", u, "twice", u + 3 * k) for u in range(3) for k in range(2)}
        | {("flat", u, "mean", 0) for u in range(3)}
    )
    assert [len(units) for units in found.entries] == [2, 0, 0, 0, 0]
    assert [len(units) for units in found.exits] == [0, 0, 0, 2, 2]


@pytest.mark.parametrize("name", ["grouped", "transposed"])
def test_kernels_are_laid_out_by_group_input_output_and_back(name: str) -> None:
    network = NETWORKS[name]
    model = network.build()
    owned = parameters(model)
    layers = {layer.name: layer for layer in prunable(model)}
    found = links(model, list(layers), example=network.example)
    for place in found.places:
        weight = owned[place.layer].detach()
        kernels = Kernels.of(layers[place.layer], inputs=place.inputs, outputs=place.outputs)
        assert torch.equal(kernels.join(kernels.split(weight)), weight)
        assert kernels.split(weight).shape == kernels.sizes
        module = model.get_submodule(place.layer.removesuffix(".weight"))
        assert kernels.groups == getattr(module, "groups", 1)


# Errors


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"mode": "nodes"}, "no mode of node-path balancing 'nodes'; did you mean 'nodes-first'"),
        ({"taps": "best"}, "no way to choose taps 'best'"),
        ({"alpha": 1.5}, "alpha is a number from 0 to 1, not 1.5"),
        ({"beta": -1.0}, "beta is a number from 0 up, not -1.0"),
        ({"sweeps": -1}, "sweeps is a whole number"),
        ({"densities": "global"}, "needs densities: leave them at 'erk'"),
        ({"example": None}, r"give example=\.\.\."),
        ({"rounds": 3}, "builds its masks and ranks no scores"),
    ],
)
def test_wrong_requests(more: dict[str, object], message: str) -> None:
    with pytest.raises(DisbudError, match=message):
        disbud.prune(
            NETWORKS["conv"].build(), "npb", sparsity=0.5, **{"example": NETWORKS["conv"].example} | more  # type: ignore[arg-type]
        )  # fmt: skip


def test_recurrent_layers_are_refused() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.gru, self.head = nn.Linear(4, 4), nn.GRU(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(self.gru(self.first(x))[0])
            return y

    with pytest.raises(DisbudError, match=r"not defined through .*(?i:gru)"):
        disbud.prune(Recurrent(), "npb", sparsity=0.5, example=torch.zeros(1, 3, 4))


def test_a_budget_that_connects_nothing_is_said() -> None:
    model = NETWORKS["without-biases"].build()
    with pytest.warns(UserWarning, match="no path leads from the model's input to its output"):
        ticket = disbud.prune(model, "npb", sparsity=1 - 2 / 136, example=torch.zeros(1, 6))
    assert ticket.kept == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ticket = disbud.prune(model, "npb", sparsity=1 - 3 / 136, example=torch.zeros(1, 6))
    assert paths(model, ticket, example=torch.zeros(1, 6)).log10_paths == 0
