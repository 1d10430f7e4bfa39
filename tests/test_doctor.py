"""The doctor: signs against other computations, findings on tickets made to have them, forecasts against training."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import disbud
from disbud import DisbudError, Ticket
from disbud.cli import main
from disbud.diagnosis import Signs, findings, signs
from disbud.diagnosis.findings import verdict
from disbud.measures import cost, paths
from disbud.models import build
from networks import NETWORKS

ROW = torch.zeros(1, 12)
IMAGE = torch.zeros(1, 3, 8, 8)


def chain(depth: int = 4, width: int = 20) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers: list[nn.Module] = [nn.Linear(12, width), nn.ReLU()]
        for _ in range(depth - 2):
            layers += [nn.Linear(width, width), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(width, 5))


def kept(model: nn.Module, **masks: Tensor) -> Ticket:
    """All weights but those that the masks name."""
    whole = {layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in disbud.prunable(model)}
    return Ticket.from_masks({**whole, **{name.replace("_", "."): mask for name, mask in masks.items()}})


def read(model: nn.Module, ticket: Ticket | None, example: Tensor = ROW) -> Signs:
    return signs(model, ticket, example=example)


# Signs


def test_signs_are_those_of_the_measures() -> None:
    model = disbud.models.build("resnet20:width=0.25", input_shape=(3, 8, 8))
    ticket = disbud.prune(model, "magnitude", sparsity=0.95)
    found, table, costs = (
        read(model, ticket, IMAGE),
        paths(model, ticket, example=IMAGE),
        cost(model, ticket, example=IMAGE),
    )
    assert found.kept == ticket.kept
    assert found.sparsity == pytest.approx(ticket.sparsity)
    assert (found.effective_sparsity, found.log10_paths, found.nodes) == (
        table.effective_sparsity, table.log10_paths, table.nodes,
    )  # fmt: skip
    assert found.effective == pytest.approx(table.effective_parameters / ticket.kept)
    assert found.multiply_adds == costs.multiply_adds_live / costs.multiply_adds
    assert found.dead_units == sum(table["dead_outputs"]) / sum(table["outputs"])
    assert json.dumps(found.to_json())


def test_the_gradient_is_that_of_a_random_projection_of_the_outputs() -> None:
    model = chain()
    ticket = disbud.prune(model, "random", sparsity=0.6)
    inputs = torch.randn(7, 12)
    found = signs(model, ticket, example=ROW, inputs=inputs, seed=3).gradient
    stream = disbud.seeds.generator(3, "signs of the forecast", 0)
    projection = torch.randint(0, 2, (7, 5), generator=stream) * 2.0 - 1
    ticket.apply_(model)
    (model(inputs) * projection).sum().div(7).backward()
    square = sum(
        float(parameter.grad[ticket.masks[name]].square().sum())
        for name, parameter in model.named_parameters()
        if name in ticket.masks
    )
    assert found == pytest.approx(math.sqrt(square), rel=1e-5)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_signs_are_read_off_any_network_and_leave_it_as_it_was(name: str) -> None:
    network = NETWORKS[name]
    model = network.build()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    stream = torch.random.get_rng_state()
    found = signs(model, None, example=network.example)
    assert found.gradient > 0
    assert found.sparsity == 0
    assert torch.equal(torch.random.get_rng_state(), stream)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training


# Findings


def levels(model: nn.Module, ticket: Ticket, example: Tensor = ROW) -> dict[str, str]:
    """The level of each finding, by its first words."""
    said = findings(read(model, ticket, example), read(model, None, example))
    return {finding.words: finding.level for finding in said}


def test_nothing_is_found_about_the_dense_network() -> None:
    assert findings(read(chain(), None), read(chain(), None)) == []
    assert verdict([]) == "green"


def test_a_cut_network_is_red_and_nothing_else_is_said() -> None:
    model = chain()
    cut = kept(model, **{"4_weight": torch.zeros(20, 20, dtype=torch.bool)})
    assert levels(model, cut) == {"no path leads from input to output: the outputs are constants": "red"}


def test_an_empty_layer_beside_a_shortcut_is_yellow() -> None:
    model = disbud.models.build("resnet20:width=0.25", input_shape=(3, 8, 8))
    ticket = kept(model, layer1_0_conv1_weight=torch.zeros(4, 4, 3, 3, dtype=torch.bool))
    found = levels(model, ticket, IMAGE)
    (words,) = [text for text in found if "keeps no weight" in text]
    assert words == "1 layer keeps no weight, and only a shortcut passes: layer1.0.conv1.weight"
    assert found[words] == "yellow"


@pytest.mark.parametrize(("fed", "level"), [(19, None), (16, "yellow"), (9, "red")])
def test_weights_on_no_path_are_counted(fed: int, level: str | None) -> None:
    """A middle unit that the first layer does not feed makes its outgoing weights useless."""
    model = chain(3, 20)
    first = torch.zeros(20, 12, dtype=torch.bool)
    first[:fed] = True
    found = levels(model, kept(model, **{"0_weight": first}))
    said = {text: found[text] for text in found if "on no path and do nothing" in text}
    assert list(said.values()) == ([] if level is None else [level])


def test_a_faint_gradient_and_one_that_explodes_are_found() -> None:
    model = chain(8, 60)
    small = disbud.prune(model, "random-uniform", sparsity=0.93, example=ROW)
    assert any(
        "of the dense network's" in text and level != "green" for text, level in levels(model, small).items()
    )
    wild = chain(4, 20)
    dense = read(wild, None)
    with torch.no_grad():
        wild[2].weight[0].mul_(1000.0)
    (said,) = [
        finding for finding in findings(read(wild, None), dense) if "steps may be too large" in finding.words
    ]
    assert said.level == "red"


def test_a_bottleneck_is_found() -> None:
    model = chain(3, 40)
    narrow = torch.zeros(40, 40, dtype=torch.bool)
    narrow[0] = True
    found = levels(model, kept(model, **{"2_weight": narrow}))
    assert any(text.startswith("39 of the 40 units that 2.weight feeds are dead") for text in found)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_red(value: float) -> None:
    sound = read(chain(), None)
    broken = replace(sound, gradient=value)
    assert [(one.level, one.words) for one in findings(broken, sound)] == [
        ("red", "the gradient is not finite")
    ]
    assert verdict(findings(broken, broken)) == "red"
    # There is nothing to hold it against.
    assert verdict(findings(sound, broken)) == "yellow"


# The doctor


def test_where_already_the_dense_networks_gradient_is_not_finite_that_is_said_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = chain(6, 40)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e9)
    found = disbud.doctor(model, sparsity=0.5, methods=["random-erk", "magnitude", "synflow"], example=ROW)
    assert not math.isfinite(found.dense.gradient)
    assert {case.verdict for case in found.cases} == {"red"}
    assert found.safe == ()
    assert str(found).count("is not finite") == 1
    assert "dense: the gradient is not finite before anything is pruned" in str(found)
    assert (
        main(
            [
                "doctor",
                "test_doctor:overflowing",
                "--sparsity",
                "0.5",
                "--methods",
                "random",
                "--input-shape",
                "12",
            ]
        )
        == 0
    )
    assert capsys.readouterr().out.count("is not finite") == 1


def overflowing() -> nn.Module:
    model = chain(6, 40)
    for parameter in model.parameters():
        parameter.data.mul_(1e9)
    return model


class Endless:
    """Batches without an end; `read` counts them."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            self.read += 1
            assert self.read < 1000, "read on without an end"
            yield torch.randn(20, 12), torch.arange(20) % 5


def test_batches_are_read_no_further_than_prune_reads_them() -> None:
    alone, endless, once = Endless(), Endless(), Endless()
    disbud.prune(chain(), "snip", sparsity=0.5, batches=alone)
    disbud.doctor(chain(), sparsity=0.5, methods=["snip"], batches=endless)
    assert endless.read == alone.read + 1  # the first one, whose shape is looked at
    found = disbud.doctor(chain(), sparsity=0.5, methods=["snip", "grasp"], batches=iter(once))
    assert once.read == alone.read
    assert not any(case.failure for case in found.cases)


def test_every_method_reads_an_iterator_from_its_start() -> None:
    batches = [(torch.randn(20, 12), torch.arange(20) % 5) for _ in range(3)]
    found = disbud.doctor(
        chain(), sparsity=0.5, methods=["snip", "grasp", "force:rounds=3"], batches=iter(batches)
    )
    for case in found.cases:
        name, _, more = case.method.partition(":")
        rounds = {"rounds": 3} if more else {}
        assert case.ticket == disbud.prune(chain(), name, sparsity=0.5, batches=batches, **rounds)


def test_a_loader_that_shuffles_leaves_the_global_streams_alone_and_shows_the_same_for_a_seed() -> None:
    examples = TensorDataset(torch.randn(200, 12), torch.arange(200) % 5)
    loader = DataLoader(examples, batch_size=20, shuffle=True)
    model, stream = chain(), torch.random.get_rng_state()
    found, again = (
        disbud.doctor(model, sparsity=0.5, methods=["snip"], batches=loader, seed=2)["snip"] for _ in range(2)
    )
    assert torch.equal(torch.random.get_rng_state(), stream)
    assert found.ticket == again.ticket == disbud.prune(model, "snip", sparsity=0.5, batches=loader, seed=2)
    assert found.signs == again.signs


def test_signs_leave_the_inputs_as_they_were() -> None:
    inputs = -torch.ones(4, 12)
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(12, 5))
    signs(model, None, example=ROW, inputs=inputs)
    assert torch.equal(inputs, -torch.ones(4, 12))


def test_all_methods_take_part_that_can() -> None:
    model = chain()
    without = disbud.doctor(model, sparsity=0.5, example=ROW)
    batch = (torch.randn(50, 12), torch.arange(50) % 5)
    with_data = disbud.doctor(model, sparsity=0.5, batches=iter([batch]))
    names, more = ({case.method for case in found.cases} for found in (without, with_data))
    assert {"random", "synflow", "magnitude"} <= names
    assert more - names >= {"snip", "grasp", "force"}
    assert "random-like" not in more
    assert not [case.failure for case in with_data.cases if case.failure]
    assert len(with_data.table) == len(more)
    order = ["green", "yellow", "red", "failed"]
    ranks = [order.index(case.verdict) for case in with_data.cases]
    assert ranks == sorted(ranks)
    assert with_data.safe == tuple(case.method for case in with_data.cases if case.verdict == "green")
    assert str(with_data).endswith(f"look safe: {', '.join(with_data.safe) or 'none'}")


def test_the_doctor_prunes_as_prune_does_and_repeats_itself() -> None:
    model = chain()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found, again = (
        disbud.doctor(model, sparsity=0.8, methods=["random", "synflow:rounds=7"], example=ROW, seed=4)
        for _ in range(2)
    )
    assert found["synflow:rounds=7"].ticket == disbud.prune(
        model, "synflow", sparsity=0.8, example=ROW, rounds=7, seed=4
    )
    assert [case.signs.to_json() for case in found.cases if case.signs] == [
        case.signs.to_json() for case in again.cases if case.signs
    ]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_signs_of_a_ticket_with_a_start_are_those_of_the_weights_it_starts_from() -> None:
    model, started = (build("mlp:hidden=20+20+20+20", classes=4, input_shape=(12,)) for _ in range(2))
    batch = (torch.randn(40, 12, generator=torch.Generator().manual_seed(1)), torch.arange(40) % 4)
    found = disbud.doctor(model, sparsity=0.8, methods=["poise:signal=1", "poise:signal=0"], batches=[batch])
    ticket = found["poise:signal=1"].ticket
    assert ticket is not None
    ticket.start_(started)
    assert found["poise:signal=1"].signs == signs(started, ticket, example=batch[0][:1], inputs=batch[0])
    assert found["poise:signal=1"].signs.gradient > 1.5 * found["poise:signal=0"].signs.gradient


def test_a_method_that_fails_says_why_and_does_not_end_the_others() -> None:
    found = disbud.doctor(chain(), sparsity=0.5, methods=["snip", "random"], example=ROW)
    assert found["snip"].verdict == "failed"
    assert "snip looks at data" in (found["snip"].failure or "")
    assert found["random"].ticket is not None
    with pytest.raises(DisbudError, match="there is no method in this diagnosis 'synflow'"):
        found["synflow"]


def test_bad_requests() -> None:
    with pytest.raises(DisbudError, match="did you mean 'synflow'"):
        disbud.doctor(chain(), sparsity=0.5, methods=["synflo"], example=ROW)
    with pytest.raises(DisbudError, match=r"give batches, or example=\.\.\."):
        disbud.doctor(chain(), sparsity=0.5)
    with pytest.raises(DisbudError, match="no method is named"):
        disbud.doctor(chain(), sparsity=0.5, methods=[], example=ROW)
    with pytest.raises(DisbudError, match="sparsity"):
        disbud.doctor(chain(), sparsity=1.5, methods=["random"], example=ROW)
    for method, says in {
        "synflow:5": "'5' should read key=value, as in synflow:rounds=1",
        "random-erk:sparsity=0.9": "no setting of method 'random-erk' called 'sparsity'",
        "snip:batches=3": "no setting of method 'snip' called 'batches'",
        "synflow:runds=5": "did you mean 'rounds'",
    }.items():
        with pytest.raises(DisbudError, match=says):
            disbud.doctor(chain(), sparsity=0.5, methods=["random", method], example=ROW)
    batch = (torch.randn(50, 12), torch.arange(50) % 5)
    with pytest.raises(DisbudError, match=r"batches=\[\(x, y\)\]"):
        disbud.doctor(chain(), sparsity=0.5, batches=batch)
    assert disbud.doctor(chain(), sparsity=0.5, methods="snip", batches=(batch,))["snip"].ticket is not None


def test_the_command_prints_a_row_a_method_and_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["doctor", "lenet-300-100", "--sparsity", "0.99", "--methods", "synflow", "--methods", "random"]
    assert main(asked) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("random ") and " red " in line]
    assert "random: " in out
    assert "look safe:" in out
    assert main([*asked, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {row["method"]: row["forecast"] for row in document["methods"]}["random"] == "red"
    assert main(["doctor", "lenet-300-100"]) == 2
    assert "give --sparsity" in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_red_trains_worse_than_what_is_not() -> None:
    data = disbud.data.load("digits")

    def network() -> nn.Module:
        return disbud.models.build("lenet-300-100", classes=10, input_shape=data.input_shape, seed=0)

    found = disbud.doctor(
        network(),
        sparsity=0.99,
        methods=["synflow", "random-erk", "magnitude-uniform"],
        example=data.example(),
    )
    accuracy = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in found.cases:
            result = disbud.train(network(), data, ticket=case.ticket, recipe="digits:epochs=10", seed=0)
            accuracy[case.method] = result.accuracy
    red = [accuracy[case.method] for case in found.cases if case.verdict == "red"]
    other = [accuracy[case.method] for case in found.cases if case.verdict != "red"]
    assert red
    assert other
    assert min(other) > max(red) + 0.3


def test_taps_that_only_meet_padding_are_no_fault_of_the_ticket() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 30, 3, padding=1), nn.ReLU(), nn.Conv2d(30, 30, 3, padding=1), nn.Flatten()
        )
    pixel = torch.zeros(1, 3, 1, 1)
    ticket = disbud.prune(model, "random-uniform", sparsity=0.3)
    found = levels(model, ticket, pixel)
    assert read(model, ticket, pixel).effective < 0.2
    assert not any("on no path" in words for words in found)
