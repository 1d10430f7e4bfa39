"""From scores to tickets: exact counts by every method, rounds, ties, odd models, and the errors of wrong requests."""

from __future__ import annotations

import math
from itertools import pairwise
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import disbud
from disbud.errors import DisbudError
from disbud.methods.catalogue import CATALOGUE, Method
from disbud.methods.scoring import Scoring
from disbud.selection import RULES, kept_count, schedule
from networks import NETWORKS, Network

IMPOSSIBLE = "cannot keep"  # what uniform-plus says where its dense first convolution is more than the budget


# A function of the user's own does not say what its epochs are, which early-bird asks.
METHODS = [name for name in CATALOGUE if name != "early-bird"]


def moved(model: nn.Module, ticket: disbud.Ticket | None) -> None:
    """What stands for training where a network has no data: every weight moves, always alike."""
    with torch.no_grad():
        for parameter in model.parameters():
            steps = torch.arange(parameter.numel(), dtype=parameter.dtype).view(parameter.shape)
            parameter.add_(0.1 * torch.cos(steps))


def request(method: str, network: Network, *, dtype: torch.dtype = torch.float32) -> dict[str, object]:
    """What a method needs to know about this network, with few rounds."""
    entry = CATALOGUE[method]
    more: dict[str, object] = {} if entry.construction else {"rounds": min(entry.rounds, 3)}
    if entry.needs == "batches":
        more |= {"batches": [network.batch(6, dtype=dtype)], "examples_per_class": None}
    if entry.needs == "example":
        x = network.example
        more["example"] = x.to(dtype) if x.is_floating_point() else x
    if entry.densities == "like":
        more["densities"] = "uniform"
    if entry.trains:
        more["train"] = moved
    return more


def prune(model: nn.Module, method: str, **more: object) -> disbud.Ticket:
    return disbud.prune(model, method, **more)  # type: ignore[arg-type]


def keeps_what_it_should(ticket: disbud.Ticket, method: str, sparsity: float) -> bool:
    """Exactly the count; of whole channels as many as fit."""
    count = kept_count(sparsity, ticket.total)
    return 0 < ticket.kept <= count if CATALOGUE[method].whole_channels else ticket.kept == count


def kept_by_layer(ticket: disbud.Ticket) -> dict[str, int]:
    return {row.name: row.kept for row in ticket.layers}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_exactly_the_count_on_every_network(method: str, name: str) -> None:
    network = NETWORKS[name]
    model = network.build()
    try:
        ticket = prune(model, method, sparsity=0.77, **request(method, network))
    except DisbudError as error:
        if CATALOGUE[
            method
        ].whole_channels:  # some of these networks have none that could go, or too few to spare
            assert "no channel of these" in str(error) or "one channel of each kind" in str(error)
            return
        assert method == "random-uniform-plus"
        assert IMPOSSIBLE in str(error)
        return
    assert keeps_what_it_should(ticket, method, 0.77)
    assert ticket.total == sum(layer.size for layer in disbud.prunable(model))
    ticket.check(model)


@pytest.mark.parametrize("rounds", [1, 4])
@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("method", ["magnitude", "snip", "force", "random"])
def test_every_method_ranks_within_any_densities(method: str, rule: str, rounds: int) -> None:
    network = NETWORKS["residual"]
    model = network.build()
    more = request(method, network) | {"rounds": rounds, "densities": rule}
    ticket = prune(model, method, sparsity=0.7, **more)
    assert ticket.kept == kept_count(0.7, ticket.total)
    by_random = prune(model, "random", sparsity=0.7, densities=rule)
    assert kept_by_layer(ticket) == kept_by_layer(by_random)


SEEN: list[dict[str, Tensor]] = []


def noted(s: Scoring) -> dict[str, Tensor]:
    """Random scores that note the masks of the round before; the first round has none."""
    SEEN.append({name: mask.clone() for name, mask in (s.masks or {}).items()})
    return {name: torch.rand(w.shape, generator=s.generator(name)) for name, w in s.weights.items()}


def constant(s: Scoring) -> dict[str, Tensor]:
    return {name: torch.full_like(w, 0.5) for name, w in s.weights.items()}


def of_survivors(s: Scoring) -> dict[str, Tensor]:
    """A score may be of the weights still kept only, in their order."""
    return {name: w.abs() if s.masks is None else w.abs()[s.masks[name]] for name, w in s.weights.items()}


@pytest.fixture(autouse=True)
def _methods_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("noted", "constant", "of_survivors"):
        monkeypatch.setitem(CATALOGUE, name, Method(name, "of the tests", f"{__name__}:{name}"))
    SEEN.clear()


@pytest.mark.parametrize("keep", ["highest", "lowest"])
@pytest.mark.parametrize("name", ["exponential", "linear"])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.97, 1.0])
def test_rounds_follow_the_schedule_and_what_is_pruned_never_returns(
    name: str, sparsity: float, keep: str
) -> None:
    model = NETWORKS["conv"].build()
    ticket = prune(model, "noted", sparsity=sparsity, rounds=5, schedule=name, keep=keep)
    seen = [*SEEN[1:], dict(ticket.masks)]
    assert [sum(int(m.sum()) for m in masks.values()) for masks in seen] == [
        kept_count(step, ticket.total) for step in schedule(name, sparsity, 5)
    ]
    for before, after in pairwise(seen):
        assert all(not (after[layer] & ~before[layer]).any() for layer in before)


def test_with_regrowth_weights_return() -> None:
    prune(NETWORKS["conv"].build(), "noted", sparsity=0.8, rounds=5, regrowth=True)
    masks = SEEN[1:]
    assert any((masks[i + 1]["0.weight"] & ~masks[i]["0.weight"]).any() for i in range(3))


@pytest.mark.parametrize("name", ["exponential", "linear"])
def test_within_densities_each_layer_goes_down_its_own_schedule(name: str) -> None:
    model = NETWORKS["conv"].build()
    ticket = prune(model, "noted", sparsity=0.9, rounds=4, schedule=name, densities="erk")
    seen = [*SEEN[1:], dict(ticket.masks)]
    assert ticket.kept == kept_count(0.9, ticket.total)
    for row in ticket.layers:
        steps = schedule(name, 1 - row.kept / row.total, 4)
        assert [int(masks[row.name].sum()) for masks in seen] == [
            kept_count(step, row.total) for step in steps
        ]


def test_rounds_within_the_densities_of_a_ticket_that_empties_a_layer() -> None:
    network = NETWORKS["without-biases"]
    model = network.build()
    masks = prune(model, "magnitude", sparsity=0.5).to_masks()
    masks["2.weight"].zero_()
    given = disbud.Ticket.from_masks(masks)
    for sparsity in (None, given.sparsity):
        more = request("iterative-snip", network) | {"densities": given, "sparsity": sparsity, "rounds": 3}
        with pytest.warns(UserWarning, match=r"all scores of round 2 are zero.*\(2.weight\)"):
            ticket = prune(model, "iterative-snip", **more)
        assert kept_by_layer(ticket) == kept_by_layer(given)
    prune(model, "noted", densities=given, rounds=3)
    assert len(SEEN) == 3  # the rounds asked are the rounds done


def test_ties_break_by_position_in_forward_order() -> None:
    model = NETWORKS["functional"].build()  # registered in reverse
    ticket = prune(model, "constant", sparsity=0.5)
    kept = torch.cat([ticket.masks[layer.name].reshape(-1) for layer in disbud.prunable(model)])
    assert [layer.name for layer in disbud.prunable(model)] == ["first.weight", "last.weight"]
    assert kept.tolist() == [True] * ticket.kept + [False] * (ticket.total - ticket.kept)
    by_layer = prune(model, "constant", sparsity=0.5, densities="uniform", rounds=3)
    for row in by_layer.layers:
        assert by_layer.masks[row.name].reshape(-1).tolist() == [True] * row.kept + [False] * (
            row.total - row.kept
        )


def test_a_score_of_survivors_is_laid_out_again() -> None:
    model = NETWORKS["conv"].build()
    ticket = prune(model, "of_survivors", sparsity=0.9, rounds=4)
    assert ticket == prune(model, "magnitude", sparsity=0.9)
    expected = {n: w.abs() * ticket.masks[n] for n, w in disbud.scores(model, "magnitude").items()}
    assert {n: s.tolist() for n, s in disbud.scores(model, "of_survivors", ticket=ticket).items()} == {
        n: s.tolist() for n, s in expected.items()
    }


def test_keeping_the_lowest_turns_the_ranking_upside_down() -> None:
    network = NETWORKS["linear"]
    model = network.build()
    highest = prune(model, "magnitude", sparsity=0.5)
    assert prune(model, "magnitude", sparsity=0.5, keep="lowest") == ~highest
    with torch.no_grad():
        dict(model.named_parameters())["0.weight"][0] = 0  # no signal: neither high nor low
    lowest = prune(model, "snip", sparsity=0.5, keep="lowest", **request("snip", network))
    assert not lowest.masks["0.weight"][0].any()
    assert lowest.kept == kept_count(0.5, lowest.total)


@pytest.mark.parametrize("method", ["random", "magnitude-erk", "snip", "iterative-snip", "force", "grasp"])
def test_the_ends_of_the_range(method: str) -> None:
    network = NETWORKS["linear"]
    model = network.build()
    more = request(method, network)
    assert prune(model, method, sparsity=0, **more).kept == 72
    assert prune(model, method, sparsity=0.999999, **more).kept == 0
    assert prune(model, method, sparsity=1, **more).kept == 0
    assert prune(model, method, sparsity=1 - 1 / 72, **more).kept == 1


def test_odd_sparsities() -> None:
    model = NETWORKS["linear"].build()
    for odd in (-0.1, math.nan, True, "0.9", 101):
        with pytest.raises(DisbudError, match=r"sparsity is the fraction of weights to remove"):
            prune(model, "magnitude", sparsity=odd)
    with pytest.raises(DisbudError, match=r"for 98 per cent give sparsity=0.98"):
        prune(model, "magnitude", sparsity=98)
    with pytest.raises(DisbudError, match=r"give a sparsity"):
        prune(model, "magnitude")
    with pytest.warns(
        UserWarning, match=r"sparsity=0.02 removes 2.00% of the weights; to keep 2.00% .* sparsity=0.98"
    ):
        prune(model, "magnitude", sparsity=0.02)


def test_wrong_requests() -> None:
    network = NETWORKS["linear"]
    model, batch = network.build(), network.batch(6, dtype=torch.float32)
    snip = {"sparsity": 0.5, "batches": [batch], "examples_per_class": None}
    for more, said in (
        ({"sparsity": 0.5}, "snip looks at data: give batches"),
        (
            snip | {"batches": batch[0]},
            "batches is an iterable of batches .*, not a Tensor; .* batches=\\[\\(x, y\\)\\]",
        ),
        (snip | {"batches": 3}, "not a int"),
        (snip | {"batches": batch}, r"batches is one \(x, y\) pair"),
        (snip | {"keep": "high"}, "did you mean 'highest'"),
        (snip | {"batch_norm": "training"}, "BatchNorm is scored in 'train' or in 'eval' mode"),
        (snip | {"rounds": 0}, "rounds is a whole number"),
        (snip | {"rounds": "3"}, "rounds is a whole number"),
        (snip | {"rounds": 2, "schedule": "one-shot"}, "a one-shot schedule has 1 round"),
        (snip | {"schedule": "exponentially", "rounds": 2}, "did you mean 'exponential'"),
        (snip | {"densities": "erkk"}, "did you mean 'erk'"),
        (snip | {"temperatur": 2}, "setting of method 'snip'"),
        (snip | {"examples_per_class": 0}, "examples_per_class is a whole number of at least 1, not 0"),
        (snip | {"batch_size": 0}, "batch_size is a whole number"),
        (
            snip | {"loss": lambda m, b: m(b[0])},
            "should return one number, the mean loss of the batch, not \\(6, 3\\)",
        ),
        (snip | {"loss": lambda m, b: 3.0}, "not float"),
        (snip | {"loss": lambda m, b: torch.ones(())}, "does not depend on any prunable weight"),
        (snip | {"loss": lambda m, b: m[2].bias.sum()}, "does not depend on any prunable weight"),
    ):
        with pytest.raises(DisbudError, match=said):
            prune(model, "snip", **more)
    with pytest.raises(DisbudError, match=r"did you mean 'snip'"):
        prune(model, "snp", **snip)
    with pytest.raises(DisbudError, match=r"takes the densities of another ticket"):
        prune(model, "random-like", sparsity=0.5)
    with pytest.raises(DisbudError, match=r"a seed is an integer"):
        prune(model, "random", sparsity=0.5, seed=1.5)
    with pytest.raises(DisbudError, match=r"linear in the weights"):
        flat = nn.Linear(6, 3, bias=False)
        prune(flat, "grasp", **snip, loss=lambda m, b: m(b[0]).sum())
    with pytest.raises(DisbudError, match=r"returns a tuple; give temperature=1"):
        prune(
            nn.Sequential(nn.Linear(6, 3), Paired()),
            "grasp",
            **snip,
            loss=lambda m, b: m(b[0])[0].square().mean(),
        )


class Paired(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_the_origin_says_how_the_ticket_came_about() -> None:
    network = NETWORKS["linear"]
    more = request("iterative-snip", network)
    origin = prune(network.build(), "iterative-snip", sparsity=0.9, seed=4, exclude="2.*", **more).origin
    assert (origin.method, origin.sparsity, origin.seed) == ("iterative-snip", 0.9, 4)
    assert origin.settings == {
        "revision": 1, "densities": None, "rounds": 3, "schedule": "exponential", "keep": "highest", "regrowth": False,
        "granularity": "weight", "batch_norm": "train",
        "include": None, "exclude": "2.*", "examples_per_class": None, "batch_size": 256,
        "loss": "disbud.batches:cross_entropy",
    }  # fmt: skip
    assert origin.evidence is not None
    assert (origin.evidence["batches"], origin.evidence["examples"]) == (3, 18)


def test_random_draws_depend_on_method_layer_and_seed_alone() -> None:
    model = nn.Sequential(nn.Linear(40, 40, bias=False), nn.Linear(40, 40, bias=False))
    erk = disbud.prune(model, "random-erk", sparsity=0.5)
    control = disbud.prune(model, "random-like", densities=erk)
    assert control.densities() == erk.densities()
    assert 0.2 < (control & erk).kept / (control | erk).kept < 0.5  # 1/3 by chance
    assert not torch.equal(erk.masks["0.weight"], erk.masks["1.weight"])
    alone = disbud.prune(model, "random-erk", sparsity=0.5, include="1.weight")
    assert torch.equal(alone.masks["1.weight"], erk.masks["1.weight"])


def test_batches_do_where_an_example_is_asked_for() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
    loader = DataLoader(
        TensorDataset(torch.randn(20, 3, 8, 8), torch.arange(20) % 5), batch_size=4, shuffle=True
    )
    before = torch.random.get_rng_state()
    ticket = disbud.prune(model, "synflow", sparsity=0.9, batches=loader)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert ticket == disbud.prune(model, "synflow", sparsity=0.9, example=torch.zeros(1, 3, 8, 8))
    with pytest.raises(disbud.DisbudError, match="give example="):
        disbud.prune(model, "synflow", sparsity=0.9, batches=[{"images": torch.zeros(1, 3, 8, 8)}])


def test_a_method_of_ones_own_is_known_by_name() -> None:
    @disbud.method("test-power", "abs(w) to a power", power=2.0)
    def power(s: Scoring, *, power: float) -> dict[str, Tensor]:
        return {name: weight.abs() ** power for name, weight in s.weights.items()}

    try:
        model = nn.Linear(9, 9, bias=False)
        ticket = disbud.prune(model, "test-power", sparsity=0.5, rounds=3)
        assert ticket == disbud.prune(model, "magnitude", sparsity=0.5)
        assert ticket.origin.settings["power"] == 2.0
        assert disbud.prune(model, "test-power", sparsity=0.5, power=-1.0) != ticket
        with pytest.raises(DisbudError, match="did you mean 'power'"):
            disbud.prune(model, "test-power", sparsity=0.5, powr=1)
        with pytest.raises(DisbudError, match="there is a method 'snip' already"):
            disbud.method("snip", "another")(power)
        with pytest.raises(DisbudError, match="needs 'batches', 'example', or nothing"):
            disbud.method("test-other", "another", needs="data")
    finally:
        del CATALOGUE["test-power"]


def test_a_construction_makes_masks_itself_and_keeps_to_its_budget() -> None:
    def first(s: Scoring, budget: int | dict[str, int], *, fewer: int) -> dict[str, Tensor]:
        masks = {}
        for name, weight in s.weights.items():
            count = budget[name] if isinstance(budget, dict) else budget // len(s.weights)
            masks[name] = (torch.arange(weight.numel()) < count - fewer).view(weight.shape)
        return masks

    with mock.patch.dict(CATALOGUE):
        disbud.method("first", "the first weights", construction=True, fewer=0)(first)
        model = nn.Sequential(nn.Linear(10, 10, bias=False), nn.ReLU(), nn.Linear(10, 10, bias=False))
        ticket = disbud.prune(model, "first", sparsity=0.9, densities="uniform")
        assert [mask.view(-1).nonzero().view(-1).tolist() for mask in ticket.masks.values()] == [
            [*range(10)]
        ] * 2
        assert disbud.prune(model, "first", sparsity=0.9).kept == 20
        with pytest.raises(DisbudError, match=r"first kept 9 weights of 0\.weight, not 10"):
            disbud.prune(model, "first", sparsity=0.9, densities="uniform", fewer=1)
        for wrong in ({"rounds": 3}, {"keep": "lowest"}, {"schedule": "linear"}):
            with pytest.raises(DisbudError, match="first builds its masks and ranks no scores, so it has no"):
                disbud.prune(model, "first", sparsity=0.9, **wrong)
        with pytest.raises(DisbudError, match="first builds its masks and gives no scores"):
            disbud.scores(model, "first")
