"""Balance: places against counts by hand and the explicit graph of path_oracle, shares against their definition."""

from __future__ import annotations

import importlib
import itertools
import json
import math
import statistics
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import disbud
from disbud import DisbudError, Ticket
from disbud.cli import main
from disbud.cli.balancing import show_balance
from disbud.diagnosis import balance
from disbud.diagnosis.balance import Plane
from disbud.measures import Table
from disbud.seeds import derive
from networks import NETWORKS
from path_check import at_random
from path_walk import answer

SMALL = ("mlp:hidden=40+40", "--input-shape", "1x8x8")


def chain(*widths: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pairs = itertools.pairwise(widths)
        return nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairs))


def row(table: Table, place: str) -> dict[str, object]:
    return next(one for one in table if one["place"] == place)


def random_masks(model: nn.Module, ticket: Ticket, seed: int = 0, draws: int = 3) -> list[Ticket]:
    """The masks behind the random end."""
    seeds = [derive(seed, "random end", draw) for draw in range(draws)]
    return [disbud.prune(model, "random-like", densities=ticket, seed=one) for one in seeds]


def counted(first: Tensor, second: Tensor) -> tuple[int, float]:
    """Nodes and paths of a network of two layers, from the matrix of ways through it."""
    first, second = first.long(), second.long()
    ways = second @ first
    through = (first.sum(1) > 0) & (second.sum(0) > 0)
    nodes = int(ways.any(0).sum()) + int(through.sum()) + int(ways.any(1).sum())
    return nodes, float(ways.sum())


def test_the_places_and_shares_of_a_small_network_by_hand() -> None:
    """Of 12-12-12 units with 36 weights in each layer. Three hidden units carry nearly all of the flow."""
    model = chain(12, 12, 12)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(0.1)
        model[0].weight[:3] = 1.0
        model[1].weight[:, :3] = 1.0
    ring = sum(torch.eye(12, dtype=torch.int64).roll(shift, 0) for shift in range(3))
    ticket = Ticket.from_masks({"0.weight": ring, "1.weight": ring})
    found = balance(model, ticket, example=torch.zeros(1, 12))
    # The ring: every unit reads 3 and is read by 3. SynFlow: 12 inputs, 3 hidden units, 12 outputs, all linked.
    assert (row(found, "ticket")["nodes"], row(found, "synflow")["nodes"]) == (36, 27)
    assert row(found, "ticket")["log10_paths"] == pytest.approx(math.log10(12 * 3 * 3))
    assert row(found, "synflow")["log10_paths"] == pytest.approx(math.log10(12 * 3 * 12))
    assert row(found, "dense")["log10_paths"] == pytest.approx(math.log10(12**3))
    drawn = [counted(*one.masks.values()) for one in random_masks(model, ticket)]
    nodes, logs = [n for n, _ in drawn], [math.log10(p) for _, p in drawn]
    random = row(found, "random")
    assert random["nodes"] == pytest.approx(statistics.fmean(nodes))
    assert random["log10_paths"] == pytest.approx(statistics.fmean(logs))
    assert random["nodes_range"] == max(nodes) - min(nodes)
    assert random["log10_paths_range"] == pytest.approx(max(logs) - min(logs))
    nodes_share = (36 - 27) / (statistics.fmean(nodes) - 27)
    paths_share = (math.log10(108) - statistics.fmean(logs)) / (math.log10(432) - statistics.fmean(logs))
    assert found.nodes_share == pytest.approx(nodes_share)
    assert found.paths_share == pytest.approx(paths_share)
    assert found.balance == pytest.approx(nodes_share + paths_share - 1)
    assert found.why is None


@pytest.mark.parametrize("name", ["linear", "conv", "grouped", "residual", "densely-connected", "transposed"])
def test_every_place_is_where_the_oracle_counts_it(name: str) -> None:
    network = NETWORKS[name]
    model = network.build()
    ticket = at_random(model, 0.6, 1)
    found = balance(model, ticket, example=network.example, seed=5, draws=2)
    synflow = disbud.prune(model, "synflow", densities=ticket, example=network.example, seed=5)
    random = random_masks(model, ticket, seed=5, draws=2)
    for end in (synflow, *random):
        assert [(one.name, one.kept) for one in end.layers] == [
            (layer.name, int(ticket.masks[layer.name].sum())) for layer in disbud.prunable(model)
        ]
    for place, tickets in (
        ("ticket", [ticket]),
        ("random", random),
        ("synflow", [synflow]),
        ("dense", [None]),
    ):
        expected = [answer(model, one, network.example) for one in tickets]
        at = row(found, place)
        assert at["nodes"] == pytest.approx(statistics.fmean(one.nodes for one in expected))
        assert at["log10_paths"] == pytest.approx(statistics.fmean(math.log10(one.paths) for one in expected))
        assert at["effective"] == pytest.approx(
            statistics.fmean(sum(int(mask.sum()) for mask in one.effective.values()) for one in expected)
        )


@pytest.mark.parametrize("sparsity", [0.8, 0.9])
def test_each_end_lies_at_its_own_end(sparsity: float) -> None:
    model, example = chain(30, 60, 60, 30), torch.zeros(1, 30)
    ticket = disbud.prune(model, "magnitude-uniform", sparsity=sparsity)
    synflow = disbud.prune(model, "synflow", densities=ticket, example=example)
    at_synflow = balance(model, synflow, example=example)
    assert (at_synflow.nodes_share, at_synflow.paths_share, at_synflow.balance) == (0, 1, 0)
    (mask,) = random_masks(model, ticket, draws=1)
    at_random_end = balance(model, mask, example=example, draws=1)
    assert (at_random_end.nodes_share, at_random_end.paths_share, at_random_end.balance) == (1, 0, 0)
    assert row(at_random_end, "random")["nodes_range"] is None


def test_a_random_ticket_of_the_same_seed_is_not_among_the_masks_it_is_held_against() -> None:
    model, example = chain(30, 60, 60, 30), torch.zeros(1, 30)
    ticket = disbud.prune(model, "random-uniform", sparsity=0.8)
    again = disbud.prune(model, "random-like", densities=ticket, seed=0)
    assert again not in random_masks(model, ticket)
    found = balance(model, again, example=example)
    assert abs(found.nodes_share - 1) < 0.5  # type: ignore[operator]
    assert 0 < abs(found.paths_share) < 0.1  # type: ignore[arg-type]


def test_node_path_balancing_lies_beyond_the_line() -> None:
    """What the measure is for: NPB keeps the nodes of random masks and gains paths (Pham et al. 2023)."""
    model = disbud.models.build("resnet20:width=0.25", input_shape=(3, 16, 16))
    example = torch.zeros(1, 3, 16, 16)
    found = balance(
        model, disbud.prune(model, "npb", sparsity=0.9, example=example), example=example, draws=2
    )
    assert found.nodes_share > 0.95  # type: ignore[operator]
    assert found.paths_share > 0.3  # type: ignore[operator]
    assert found.balance > 0.3  # type: ignore[operator]


# Where there is no scale


def test_a_share_is_defined_just_where_the_ends_differ_by_more_than_random_masks_do() -> None:
    model, example = chain(10, 20, 20, 10), torch.zeros(1, 10)
    seen = set()
    for sparsity in (0.0, 0.8, 0.915, 0.94, 0.98):
        ticket = disbud.prune(model, "synflow", sparsity=sparsity, example=example)
        found = balance(model, ticket, example=example)
        random, synflow = row(found, "random"), row(found, "synflow")
        if math.isinf(random["log10_paths"]):  # type: ignore[arg-type]
            assert found.why == "no path leads from input to output in one random mask or more"
            assert {found.nodes_share, found.paths_share, found.balance} == {None}
            seen.add("cut")
            continue
        defined = []
        for column, high, low in (("nodes", random, synflow), ("log10_paths", synflow, random)):
            gap = float(str(high[column])) - float(str(low[column]))
            defined.append(gap > 1e-9 and gap > float(str(random[f"{column}_range"])))
        assert [found.nodes_share is not None, found.paths_share is not None] == defined
        assert (found.balance is not None) == all(defined)
        assert (found.why is None) == all(defined)
        kinds = ("at both ends", "random masks differ by", "so there is no trade")
        seen.add(next((kind for kind in kinds if kind in str(found.why)), found.why))
    assert seen == {"cut", None, *kinds}


def test_of_a_dense_ticket_nothing_is_left_to_share() -> None:
    model, example = chain(4, 5, 3), torch.zeros(1, 4)
    found = balance(model, disbud.prune(model, "magnitude", sparsity=0.0), example=example)
    assert found.why == "nodes: 12 at both ends; log10 paths: 1.778 at both ends"
    assert {found.nodes_share, found.paths_share, found.balance} == {None}
    assert row(found, "ticket")["nodes"] == row(found, "dense")["nodes"] == 12


def test_where_synflow_has_more_nodes_too_nothing_is_traded() -> None:
    """1-12-1 units with 9 weights in each layer: paths are hidden units that both layers keep; SynFlow aligns them."""
    model, example = chain(1, 12, 1), torch.zeros(1, 1)
    ticket = disbud.prune(model, "random-uniform", sparsity=0.25)
    found = balance(model, ticket, example=example)
    assert row(found, "synflow")["nodes"] == 11
    assert row(found, "random")["nodes"] < 11  # type: ignore[operator]
    assert found.nodes_share is None
    assert found.balance is None
    assert "so there is no trade" in str(found.why)


def test_a_ticket_without_a_path_has_no_place() -> None:
    model, example = chain(6, 12, 6), torch.zeros(1, 6)
    masks = {
        "0.weight": torch.zeros(12, 6, dtype=torch.bool),
        "1.weight": torch.zeros(6, 12, dtype=torch.bool),
    }
    masks["0.weight"][:6], masks["1.weight"][:, 6:] = True, True
    found = balance(model, Ticket.from_masks(masks), example=example)
    assert found.why == "no path leads from input to output in the ticket"
    assert {found.nodes_share, found.paths_share, found.balance} == {None}
    assert math.isfinite(row(found, "synflow")["log10_paths"])  # type: ignore[arg-type]
    masks["1.weight"][:] = False
    found = balance(model, Ticket.from_masks(masks), example=example)
    assert found.why == "no path leads from input to output in the ticket, one random mask or more, SynFlow"


def test_an_empty_layer_beside_a_shortcut_is_empty_at_both_ends() -> None:
    network = NETWORKS["residual"]
    model = network.build()
    ticket = at_random(model, 0.4, 1, empty=1)
    assert ticket.empty_layers == ("branch.0.weight",)
    found = balance(model, ticket, example=network.example)
    synflow = disbud.prune(model, "synflow", densities=ticket, example=network.example)
    assert synflow.empty_layers == ticket.empty_layers
    assert row(found, "synflow")["nodes"] == answer(model, synflow, network.example).nodes


def test_tickets_of_some_layers_only() -> None:
    network = NETWORKS["conv"]
    model = network.build()
    name = disbud.prunable(model)[1].name
    part = Ticket.from_masks({name: at_random(model, 0.2, 0).masks[name]})
    found = balance(model, part, example=network.example)
    synflow = disbud.prune(model, "synflow", densities=part, include=name, example=network.example)
    assert row(found, "synflow")["nodes"] == answer(model, synflow, network.example).nodes
    assert row(found, "dense")["effective"] == part.total


def test_a_layer_that_no_method_prunes_is_refused() -> None:
    network = NETWORKS["transformer"]
    ticket = Ticket.from_masks({"embed.weight": torch.ones(11, 8)})
    with pytest.raises(DisbudError, match=r"no method prunes embed\.weight"):
        balance(network.build(), ticket, example=network.example)


@pytest.mark.parametrize("draws", [0, -1, 1.5, True])
def test_draws_are_counted(draws: object) -> None:
    with pytest.raises(DisbudError, match="draws is a whole number"):
        balance(
            chain(2, 2),
            Ticket.from_masks({"0.weight": torch.ones(2, 2)}),
            example=torch.zeros(1, 2),
            draws=draws,
        )  # type: ignore[arg-type]


def test_it_repeats_itself_and_leaves_model_and_random_streams_alone() -> None:
    model, example = chain(10, 20, 10), torch.zeros(1, 10)
    ticket = disbud.prune(model, "magnitude", sparsity=0.7)
    before, stream = [w.clone() for w in model.parameters()], torch.random.get_rng_state()
    first, again, other = (balance(model, ticket, example=example, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert row(first, "random") != row(other, "random")
    assert row(first, "synflow") == row(other, "synflow")
    assert torch.equal(torch.random.get_rng_state(), stream)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_tickets_of_the_same_layer_counts_share_their_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    # Not the attribute of the package, which is the function of the same name.
    module, made = importlib.import_module("disbud.diagnosis.balance"), []

    def prune(model: nn.Module, method: str, **settings: object) -> Ticket:
        made.append(method)
        return disbud.prune(model, method, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "prune", prune)
    model, example = chain(10, 20, 10), torch.zeros(1, 10)
    plane = Plane(model, example=example, seed=0)
    tickets = [disbud.prune(model, name, sparsity=0.7) for name in ("random-erk", "magnitude-erk", "random")]
    tables = [plane.balance(ticket) for ticket in tickets]
    assert made == ["random-like", "random-like", "random-like", "synflow"] * 2
    assert tables == [balance(model, ticket, example=example) for ticket in tickets]


# The doctor


def test_the_doctor_adds_balance_where_asked() -> None:
    model, example = chain(10, 20, 10), torch.zeros(1, 10)
    methods = ["random-erk", "synflow", "snip"]  # snip fails without data
    found = disbud.doctor(model, sparsity=0.7, methods=methods, example=example, balance=True, seed=2)
    for name in methods[:2]:
        expected = balance(model, found[name].ticket, example=example, seed=2)  # type: ignore[arg-type]
        assert found[name].balance == expected
        (at,) = [one for one in found.table if one["method"] == name]
        assert [at[key] for key in ("nodes_share", "paths_share", "balance")] == [
            expected.nodes_share, expected.paths_share, expected.balance,
        ]  # fmt: skip
    assert found["snip"].verdict == "failed"
    assert found["snip"].balance is not None
    assert not len(found["snip"].balance)
    without = disbud.doctor(model, sparsity=0.7, methods=methods, example=example, seed=2)
    assert "balance" not in without.table.columns
    assert without["synflow"].balance is None


# The commands


def run(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> str:
    assert main(argv) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


def test_doctor_prints_balances_and_gives_them_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    line = ("doctor", *SMALL, "--sparsity", "0.95", "--methods", "synflow,npb", "--balance")
    out = run(capsys, *line)
    table = out[out.index("Balance of nodes and paths") :].splitlines()
    cells = {one.split()[0]: one.split()[1:] for one in table if one.startswith(("synflow ", "npb "))}
    document = json.loads(run(capsys, *line, "--json"))
    for method in document["methods"]:
        assert method["plane"]["columns"][0] == "place"
        assert method["plane"]["summary"]["balance"] == method["balance"]
        shown = [f"{method['nodes_share']:.2f}", f"{method['paths_share']:.2f}", f"{method['balance']:+.2f}"]
        assert cells[method["method"]] == shown
    plain = run(capsys, *line[:-1])
    assert "Balance" not in plain
    assert "plane" not in json.loads(run(capsys, *line[:-1], "--json"))["methods"][0]


def test_compare_holds_each_seed_against_its_own_ends(capsys: pytest.CaptureFixture[str]) -> None:
    line = (
        "compare",
        *SMALL,
        "dense",
        "synflow",
        "magnitude-uniform",
        "--sparsity",
        "0.98",
        "--seeds",
        "2",
        "--balance",
    )
    document = json.loads(run(capsys, *line, "--json"))
    dense, synflow, magnitude = document["entrants"]
    assert not any("plane" in one for one in dense["runs"])
    for seed, one in enumerate(synflow["runs"]):
        model = disbud.models.build("mlp:hidden=40+40", input_shape=(1, 8, 8), seed=seed)
        example = torch.zeros(1, 1, 8, 8)
        ticket = disbud.prune(model, "synflow", sparsity=0.98, example=example, seed=seed)
        assert one["plane"] == balance(model, ticket, example=example, seed=seed).to_json()
    out = run(capsys, *line)
    (shown,) = [
        one.split() for one in out[out.index("Balance") :].splitlines() if one.startswith("synflow  ")
    ][:1]
    mean = statistics.fmean(one["plane"]["summary"]["paths_share"] for one in synflow["runs"])
    assert shown[2] == f"{mean:.2f}"
    # Random masks of uniform density leave fewer nodes than SynFlow here: that is said, for both seeds.
    assert all(one["plane"]["summary"]["nodes_share"] is None for one in magnitude["runs"])
    assert "2 of 2: nodes:" in out


def test_a_mean_is_shown_only_where_every_ticket_has_the_share(capsys: pytest.CaptureFixture[str]) -> None:
    shares = {"nodes_share": 0.5, "paths_share": 0.25, "balance": -0.25, "why": None}
    one, two = (Table((), (), {**shares, **more}) for more in ({}, {"nodes_share": 1.0, "balance": 0.25}))
    without = Table((), (), {**shares, "nodes_share": None, "balance": None, "why": "nodes: 7 at both ends"})
    show_balance([("all", [one, two]), ("some", [one, without]), ("single", [without])], " here")
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line}
    assert lines["Balance"][-1] == "here"
    assert lines["all"] == ["0.75", "0.25", "+0.00"]
    assert " ".join(lines["some"]) == "- 0.25 - 1 of 2: nodes: 7 at both ends"
    assert " ".join(lines["single"]) == "- 0.25 - nodes: 7 at both ends"


def test_bad_requests_end_before_any_work(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    doctor = ("doctor", *SMALL, "--sparsity", "0.9", "--plot")
    assert "ends in .png, .svg or .pdf" in run(capsys, *doctor, str(tmp_path / "plane.jpg"), code=2)
    assert "there is no folder" in run(capsys, *doctor, str(tmp_path / "no" / "plane.png"), code=2)
    assert "name methods or ticket files" in run(capsys, "compare", *SMALL, "dense", "--balance", code=2)
    assert not list(tmp_path.iterdir())
