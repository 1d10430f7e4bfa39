"""The weights that a command puts a ticket on: those it starts from, else those of the seed it was made at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import disbud
from disbud import Ticket, interventions
from disbud.cli import main
from disbud.cli.networks import network
from disbud.diagnosis import signs
from disbud.models import build

RECIPE = "digits:epochs=1"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lenet(seed: int) -> torch.nn.Module:
    return build("lenet-300-100", input_shape=(1, 8, 8), seed=seed)


def magnitude(seed: int) -> Ticket:
    return disbud.prune(lenet(seed), "magnitude", sparsity=0.5, seed=seed)


def ticket_called(name: str) -> tuple[Ticket, int]:
    """A ticket that was changed after it was made, and the seed of the weights that it is for."""
    if name == "shuffled":
        return interventions.on_mask(magnitude(2), "shuffle", seed=7), 2
    if name == "inverted":
        return ~magnitude(3), 3
    return disbud.prune(lenet(4), "random-like", densities=magnitude(2), seed=4), 4


NAMES = ["shuffled", "inverted", "like another"]


def document(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[dict[str, object], str]:
    assert main([*argv, "--json"]) == 0
    out, said = capsys.readouterr()
    return json.loads(out), said


@pytest.mark.parametrize("name", NAMES)
def test_train_draws_the_weights_the_ticket_is_for(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    ticket, seed = ticket_called(name)
    ticket.save("t.safetensors")
    found, said = document(capsys, "train", "lenet-300-100", "--ticket", "t.safetensors", "--recipe", RECIPE)
    data = disbud.data.load("digits")
    expected = disbud.train(lenet(seed), data, ticket=ticket, recipe=RECIPE, seed=seed)
    assert (found["seed"], found["loss"]) == (seed, expected.loss)
    assert "starting weights" not in said
    _, said = document(
        capsys, "train", "lenet-300-100", "--ticket", "t.safetensors", "--recipe", RECIPE, "--seed", "9"
    )
    assert f"the ticket was made at seed {seed}; with --seed 9" in said


@pytest.mark.parametrize("name", NAMES)
def test_compare_warns_of_the_seeds_the_ticket_is_not_for(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ticket, seed = ticket_called(name)
    ticket.save("t.safetensors")
    options = ("compare", "lenet-300-100", "t.safetensors", "--train", RECIPE, "--seeds", "1", "--seed")
    _, said = document(capsys, *options, str(seed))
    assert "starting weights" not in said
    _, said = document(capsys, *options, "7")
    assert f"made at seed {seed}; at other seeds" in said


@pytest.mark.parametrize("name", NAMES)
def test_what_is_inspected_or_exported_has_the_weights_the_ticket_is_for(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ticket, seed = ticket_called(name)
    ticket.save("t.safetensors")
    found, _ = document(
        capsys, "inspect", "t.safetensors", "--model", "lenet-300-100", "--input-shape", "1x8x8"
    )
    expected = signs(lenet(seed), ticket, example=torch.zeros(1, 1, 8, 8))
    assert found["signs"] == json.loads(json.dumps(expected.to_json()))
    built = network("lenet-300-100", input_shape=(1, 8, 8)).build_for(ticket, seed=None, weights=None)
    assert torch.equal(built.get_parameter("fc1.weight"), lenet(seed).get_parameter("fc1.weight"))


def test_inspect_reads_a_ticket_on_the_weights_that_it_starts_from(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, data = lenet(0), disbud.data.load("digits")
    ticket = disbud.prune(model, "magnitude-after-training", sparsity=0.95, data=data, recipe=RECIPE)
    ticket.save("t.safetensors")
    named = ("inspect", "t.safetensors", "--model", "lenet-300-100", "--input-shape", "1x8x8")
    example = torch.zeros(1, 1, 8, 8)
    drawn = signs(model, ticket, example=example).to_json()
    ticket.start_(model)
    begun = signs(model, ticket, example=example).to_json()
    assert drawn["gradient"] != begun["gradient"]
    assert document(capsys, *named)[0]["signs"] == json.loads(json.dumps(begun))
    asked, _ = document(capsys, *named, "--seed", "0", "--html", "page.html")
    assert asked["signs"] == json.loads(json.dumps(drawn))
    assert "drawn by seed 0" in Path("page.html").read_text()
    document(capsys, *named, "--html", "page.html")
    assert "that the ticket starts from" in Path("page.html").read_text()
