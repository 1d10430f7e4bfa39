"""Methods that train, from the command line: listed, pruned with, trained on, compared, and left out by the doctor."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import disbud
from disbud.cli import main
from disbud.methods.catalogue import CATALOGUE
from disbud.models import build

MODEL = "mlp:hidden=30+20"
RECIPE = "digits:epochs=2"
TRAINED = [name for name, method in CATALOGUE.items() if method.trains]


@pytest.fixture(autouse=True)
def _a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISBUD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def run(line: str, capsys: pytest.CaptureFixture[str], *, code: int = 0) -> tuple[str, str]:
    assert main(line.split()) == code
    out, err = capsys.readouterr()
    return out, err


def test_they_are_listed_as_looking_at_training(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [line for line in run("methods", capsys)[0].splitlines() if re.search(r" training +\d", line)]
    assert [row.split()[0] for row in rows] == TRAINED == [
        "magnitude-after-training", "lottery-ticket", "learning-rate-rewinding", "hybrid", "early-bird",
    ]  # fmt: skip
    assert "20% a level" in rows[1]
    shown = run("methods lottery-ticket", capsys)[0]
    assert "training, by a recipe or a function of your own" in shown
    assert "rewind=init, per_level=0.2" in shown
    assert "--data digits" in shown
    listed = json.loads(run("methods --json", capsys)[0])
    assert [entry["name"] for entry in listed if entry["trains"]] == TRAINED


def test_a_ticket_made_by_training_is_trained_on_from_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    asked = f"prune {MODEL} --method lottery-ticket --data digits --recipe {RECIPE} --sparsity 0.8 --seed 3"
    asked += " --set rewind=1"
    out, _ = run(f"{asked} --out a.ticket.safetensors", capsys)
    beside = re.search(r"beside it (\S+), the weights it starts from", out)
    assert beside is not None
    assert Path(beside[1]).exists()
    data = disbud.data.load("digits")
    expected = disbud.prune(
        build(MODEL, input_shape=data.input_shape, seed=3), "lottery-ticket", sparsity=0.8, seed=3, data=data,
        recipe=RECIPE, rewind=1,
    )  # fmt: skip
    ticket = disbud.Ticket.load("a.ticket.safetensors")
    assert ticket == expected
    assert (ticket.start, ticket.origin) == (expected.start, expected.origin)
    result = disbud.train(
        build(MODEL, input_shape=data.input_shape, seed=8), data, ticket=expected, recipe=RECIPE, seed=3
    )
    found = json.loads(
        run(f"train {MODEL} --ticket a.ticket.safetensors --recipe {RECIPE} --json", capsys)[0]
    )
    assert (found["accuracy"], found["loss"]) == (result.accuracy, result.loss)
    assert (
        f"starts from  {beside[1]}"
        in run(f"inspect a.ticket.safetensors --model {MODEL} --input-shape 1x8x8", capsys)[0]
    )
    assert json.loads(run(f"{asked} --json", capsys)[0])["start"]["file"] == beside[1]


def test_what_is_trained_is_kept_in_the_cache_or_in_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = f"prune {MODEL} --method hybrid --data digits --recipe {RECIPE} --sparsity 0.8"
    run(asked, capsys)
    assert list((tmp_path / "cache").glob("*/weights.safetensors"))
    run(f"{asked} --checkpoint runs", capsys)
    assert list((tmp_path / "runs").glob("*/weights.safetensors"))


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("prune MODEL --method hybrid --sparsity 0.9", 2, "hybrid trains the model: give --data, as in --data digits"),
        ("prune MODEL --method snip --recipe digits --data digits --sparsity 0.9", 2, "--recipe: snip does not train"),
        ("prune MODEL --method snip --checkpoint here --data digits --sparsity 0.9", 2, "--checkpoint: snip does not"),
        ("prune MODEL --method hybrid --recipe digts --data digits --sparsity 0.9", 2, "did you mean 'digits'"),
        ("prune MODEL --method hybrid --data digits --sparsity 0.9 --set data=3", 2, "called 'data'"),
        ("prune MODEL --method hybrid --data digits --sparsity 0.9 --set train=3", 2, "called 'train'"),
        ("prune MODEL --method hybrid --data digits --sparsity 0.9 --set rewind=200", 2, "is not within the run"),
        ("prune MODEL --method hybrid --data digits --sparsity 0.9 --recipe digits:lr=1e30", 2, "a smaller lr"),
        ("compare MODEL hybrid --sparsity 0.9", 2, "hybrid trains the model: give --data"),
    ],
)  # fmt: skip
def test_wrong_requests(line: str, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run(line.replace("MODEL", MODEL), capsys, code=code)
    assert out == ""
    assert said in err
    assert "Traceback" not in err


def test_they_are_compared_by_the_recipe_that_trains_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    line = f"compare {MODEL} magnitude lottery-ticket:rounds=2 hybrid --sparsity 0.9 --train {RECIPE} --seeds 2 --json"
    found = json.loads(run(line, capsys)[0])
    data = disbud.data.load("digits")
    for method, entrant in zip(("lottery-ticket", "hybrid"), found["entrants"][1:], strict=True):
        for seed, result in enumerate(entrant["runs"]):
            model = build(MODEL, input_shape=data.input_shape, seed=seed)
            more = {"rounds": 2} if method == "lottery-ticket" else {}
            ticket = disbud.prune(model, method, sparsity=0.9, data=data, recipe=RECIPE, seed=seed, **more)  # type: ignore[arg-type]
            expected = disbud.train(model, data, ticket=ticket, recipe=RECIPE, seed=seed)
            assert (result["accuracy"], result["loss"]) == (expected.accuracy, expected.loss)
            assert result["kept"] == ticket.kept


def test_the_doctor_trains_nothing() -> None:
    data = disbud.data.load("digits")
    model = build(MODEL, input_shape=data.input_shape)
    found = disbud.doctor(model, sparsity=0.5, methods="all", batches=data.batches())
    assert not {case.method for case in found.cases} & set(TRAINED)
    assert "magnitude" in {case.method for case in found.cases}
    asked = disbud.doctor(model, sparsity=0.5, methods=["hybrid"], example=data.example())
    assert "hybrid trains: give data=" in (asked["hybrid"].failure or "")
