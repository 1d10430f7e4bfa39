"""Each command on small settings: the files it writes, what it prints, how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import disbud
from disbud.cli import main
from disbud.cli.comparison import overlap
from disbud.models import build

QUICK = ("--recipe", "digits:epochs=2")
LENET = ("lenet-300-100", "--data", "digits")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == 0
    return capsys.readouterr().out


def run_json(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> dict[str, object]:
    assert main([*argv, "--json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert isinstance(document, dict)
    return document


def lenet(seed: int = 0) -> torch.nn.Module:
    return build("lenet-300-100", input_shape=(1, 8, 8), seed=seed)


# prune


def test_prune_writes_the_ticket_the_library_would_make(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "prune", *LENET, "--method", "snip", "--sparsity", "0.95", "--seed", "3")
    name = "lenet-300-100-snip-0.95.ticket.safetensors"
    assert name in out
    data = disbud.data.load("digits")
    expected = disbud.prune(lenet(3), "snip", sparsity=0.95, batches=data.batches(seed=3), seed=3)
    assert disbud.Ticket.load(name) == expected


def test_prune_needs_no_data_for_synflow_and_takes_every_option(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    options = {
        "sparsity": "0.9", "rounds": "3", "schedule": "linear", "keep": "lowest", "batch-norm": "train",
        "include": "fc*", "exclude": "fc3.*", "set": "dtype=float64", "densities": "erk", "input-shape": "1x8x8",
        "classes": "7", "out": "mine.safetensors", "threads": "1",
    }  # fmt: skip
    document = run_json(
        capsys, "prune", "lenet-300-100", *(f"--{key}={value}" for key, value in options.items())
    )
    assert [path.name for path in folder.iterdir()] == ["mine.safetensors"]
    ticket = disbud.Ticket.load("mine.safetensors")
    assert list(ticket.masks) == ["fc1.weight", "fc2.weight"]
    settings = ticket.origin.settings
    asked = {key: settings[key] for key in ("rounds", "schedule", "keep", "batch_norm", "densities", "dtype")}
    assert list(asked.values()) == [3, "linear", "lowest", "train", "erk", "float64"]
    assert document["kept"] == ticket.kept == round(0.1 * ticket.total)
    assert document["ticket"] == "mine.safetensors"


def test_examples_per_class_is_a_number_or_all(capsys: pytest.CaptureFixture[str]) -> None:
    counts = {}
    for asked in ("2", "all"):
        document = run_json(
            capsys, "prune", *LENET, "--method", "snip", "--sparsity", "0.9", "--examples-per-class", asked
        )
        counts[asked] = document["origin"]["evidence"]["examples"]
    assert counts == {"2": 20, "all": len(disbud.data.load("digits").train.labels)}


def test_densities_of_a_ticket_need_no_sparsity(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "prune", *LENET, "--method", "snip", "--sparsity", "0.95", "--out", "snip.safetensors")
    run(
        capsys,
        "prune",
        *LENET,
        "--method",
        "random-like",
        "--densities",
        "snip.safetensors",
        "--out",
        "like.safetensors",
    )
    snip, like = disbud.Ticket.load("snip.safetensors"), disbud.Ticket.load("like.safetensors")
    assert snip.densities() == like.densities()
    assert snip != like
    assert like.origin.parents == (snip.origin,)


def test_a_model_of_ones_own_is_found_in_the_current_folder(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    (folder / "own_network.py").write_text(
        "from torch import nn\n"
        "def net(classes, hidden=4):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, classes))\n"
    )
    run(capsys, "prune", "own_network:net,hidden=8", "--data", "digits", "--sparsity", "0.5")
    ticket = disbud.Ticket.load("own_network-net-hidden-8-synflow-0.5.ticket.safetensors")
    assert ticket.total == 64 * 8 + 8 * 10


def test_weights_are_loaded_whole_or_refused(capsys: pytest.CaptureFixture[str]) -> None:
    state = lenet(5).state_dict()
    save_file(state, "five.safetensors")
    options = ("prune", *LENET, "--method", "magnitude", "--sparsity", "0.9", "--weights")
    run(capsys, *options, "five.safetensors", "--out", "loaded.safetensors")
    assert disbud.Ticket.load("loaded.safetensors") == disbud.prune(lenet(5), "magnitude", sparsity=0.9)
    for change, said in (
        ({"fc1.weight": state["fc1.weight"][:5]}, "fc1.weight is (5, 64) in the file"),
        ({"more": torch.zeros(3)}, "has more, which the model has not"),
        ({"fc2.bias": None}, "lacks fc2.bias"),
    ):
        changed = {key: value.clone() for key, value in (state | change).items() if value is not None}
        save_file(changed, "changed.safetensors")
        assert main([*options, "changed.safetensors"]) == 2
        assert said in capsys.readouterr().err


# inspect


def test_inspect_shows_layers_and_origin_and_flags_what_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    masks = {
        name: torch.ones(p.shape, dtype=torch.bool) for name, p in lenet().named_parameters() if p.dim() == 2
    }
    masks["fc2.weight"][:] = False
    disbud.Ticket.from_masks(masks).save("holed.safetensors")
    out = run(capsys, "inspect", "holed.safetensors")
    (row,) = [line for line in out.splitlines() if line.startswith("fc2.weight")]
    assert row.split()[:6] == ["fc2.weight", "100x300", "30,000", "0", "EMPTY", "100"]
    assert "1 of 3 layers EMPTY" in out
    document = run_json(capsys, "inspect", "holed.safetensors")
    assert document["empty_layers"] == ["fc2.weight"]


def test_inspect_shows_the_parents_and_whether_a_model_fits(capsys: pytest.CaptureFixture[str]) -> None:
    one, other = (disbud.prune(lenet(), method, sparsity=0.9) for method in ("magnitude", "random"))
    (one | other).save("either.safetensors")
    out = run(capsys, "inspect", "either.safetensors", "--model", "lenet-300-100", "--input-shape", "1x8x8")
    assert "made of (2 of 2)" in out
    assert "sparsity asked  0.9" in out
    left = sum(p.numel() for p in lenet().parameters()) - one.total + (one | other).kept
    assert f"{left:,} of its" in out
    assert main(["inspect", "either.safetensors", "--model", "lenet-300-100"]) == 2
    assert "does not fit" in capsys.readouterr().err


# train


def test_train_reports_what_the_library_does_and_writes_the_weights(
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = run_json(
        capsys, "train", "lenet-300-100", *QUICK, "--seed", "1", "--out", "trained.safetensors"
    )
    model = lenet(1)
    result = disbud.train(model, disbud.data.load("digits"), recipe=QUICK[1], seed=1)
    assert document["accuracy"] == result.accuracy
    written = load_file("trained.safetensors")
    assert written.keys() == model.state_dict().keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in model.state_dict().items())


def test_train_keeps_to_the_ticket_and_starts_from_its_seed(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "prune", *LENET, "--sparsity", "0.9", "--seed", "4", "--out", "t.safetensors")
    document = run_json(
        capsys, "train", *LENET, *QUICK, "--ticket", "t.safetensors", "--out", "w.safetensors"
    )
    assert document["seed"] == 4
    weights, ticket = load_file("w.safetensors"), disbud.Ticket.load("t.safetensors")
    for name, mask in ticket.masks.items():
        assert not weights[name][~mask].any()
        assert weights[name][mask].any()
    assert main(["train", *LENET, *QUICK, "--ticket", "t.safetensors", "--seed", "5"]) == 0
    assert "made at seed 4" in capsys.readouterr().err


def test_weights_that_were_trained_can_be_gone_on_from(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "train", "resnet20:width=0.25", "--recipe", "digits:epochs=1", "--out", "w.safetensors")
    out = run(
        capsys,
        "train",
        "resnet20:width=0.25",
        "--recipe",
        "digits:epochs=1,lr=1e-9",
        "--weights",
        "w.safetensors",
    )
    assert "accuracy" in out


def test_training_that_diverges_fails_and_writes_no_weights(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = "digits:epochs=2,lr=1e12,warmup_epochs=0"
    document = run_json(
        capsys, "train", "lenet-300-100", "--recipe", recipe, "--out", "w.safetensors", code=1
    )
    assert document["accuracy"] is None
    assert document["diverged"]
    assert not Path("w.safetensors").exists()
    assert main(["train", "lenet-300-100", "--recipe", recipe]) == 1
    assert "error: the run diverged in epoch" in capsys.readouterr().err


# compare


def test_compare_shows_tickets_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "prune", *LENET, "--method", "snip", "--sparsity", "0.95", "--out", "mine.ticket.safetensors")
    entrants = ("mine.ticket.safetensors", "snip", "magnitude", "dense")
    out = run(capsys, "compare", *LENET, *entrants, "--sparsity", "0.95")
    assert "Density of each layer" in out
    document = run_json(capsys, "compare", *LENET, *entrants, "--sparsity", "0.95")
    names = [row["entrant"] for row in document["entrants"]]
    assert names == ["mine", "snip", "magnitude", "dense"]
    overlaps = {tuple(o["entrants"]): o for o in document["overlaps"]}
    assert overlaps.keys() == {(0, 1), (0, 2), (1, 2)}
    assert overlaps[0, 1]["iou"] == 1.0
    assert 0 < overlaps[0, 1]["chance"] < 0.2


def test_compare_at_several_sparsities_never_overlaps_one_with_another(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = (
        "compare",
        "lenet-300-100",
        "random",
        "magnitude",
        "--sparsity",
        "0.5",
        "--sparsity",
        "0.9",
        "--seeds",
        "2",
    )
    document = run_json(capsys, *line)
    rows = [(row["entrant"], row["sparsity"]) for row in document["entrants"]]
    assert rows == [("random", 0.5), ("magnitude", 0.5), ("random", 0.9), ("magnitude", 0.9)]
    pairs = [o["entrants"] for o in document["overlaps"]]
    assert pairs == [[0, 1], [2, 3]]
    out = run(capsys, *line)
    assert "at sparsity 0.5" in out
    assert "at sparsity 0.9" in out


def test_compare_trains_what_train_would(capsys: pytest.CaptureFixture[str]) -> None:
    document = run_json(
        capsys,
        "compare",
        "lenet-300-100",
        "dense",
        "snip:rounds=2",
        "--sparsity",
        "0.9",
        "--train",
        QUICK[1],
        "--seeds",
        "2",
    )
    dense, snip = document["entrants"]
    alone = [
        run_json(capsys, "train", "lenet-300-100", *QUICK, "--seed", str(seed))["accuracy"] for seed in (0, 1)
    ]
    assert [one["accuracy"] for one in dense["runs"]] == alone
    assert dense["accuracy"] == pytest.approx(sum(alone) / 2)
    assert dense["accuracy_sd"] == pytest.approx(abs(alone[0] - alone[1]) / 2**0.5)
    run(
        capsys,
        "prune",
        *LENET,
        "--method",
        "snip",
        "--sparsity",
        "0.9",
        "--rounds",
        "2",
        "--out",
        "s.safetensors",
    )
    on_ticket = run_json(capsys, "train", "lenet-300-100", *QUICK, "--ticket", "s.safetensors")
    assert snip["runs"][0]["accuracy"] == on_ticket["accuracy"]


def test_the_best_ticket_is_bold(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR")
    line = (
        "compare",
        "lenet-300-100",
        "dense",
        "random",
        "magnitude-uniform",
        "--sparsity",
        "0.95",
        "--train",
        QUICK[1],
    )
    shown = run(capsys, *line, "--seeds", "1")
    bold = [row for row in shown.splitlines() if "\x1b[1;32m" in row]
    assert len(bold) == 1
    document = run_json(capsys, *line, "--seeds", "1")
    pruned = [row for row in document["entrants"] if row["sparsity"]]
    assert max(pruned, key=lambda row: row["accuracy"])["entrant"] in bold[0]


def test_one_entrant_that_fails_does_not_end_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    disbud.prune(build("lenet-300-100"), "magnitude", sparsity=0.9).save("other.ticket.safetensors")
    line = [
        "compare",
        "lenet-300-100",
        "other.ticket.safetensors",
        "random",
        "--sparsity",
        "0.5",
        "--train",
        QUICK[1],
    ]
    assert main([*line, "--seeds", "1"]) == 1
    out, err = capsys.readouterr()
    rows = {cells[0]: cells for cells in map(str.split, out.splitlines()) if cells}
    assert "failed" in rows["other"]
    assert float(rows["random"][4]) > 20
    assert "error: other, seed 0: the ticket does not fit the model" in err


def test_a_run_that_diverges_fails_the_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    document = run_json(
        capsys,
        "compare",
        "lenet-300-100",
        "dense",
        "--train",
        "digits:epochs=1,lr=1e12,warmup_epochs=0",
        code=1,
    )
    (dense,) = document["entrants"]
    assert dense["accuracy"] is None
    assert [("diverged" in run["error"]) for run in dense["runs"]] == [True] * 3


def test_many_entrants_are_shown_in_blocks_that_fit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    methods = [
        "random",
        "random-uniform",
        "random-er",
        "random-erk",
        "random-igq",
        "magnitude",
        "magnitude-uniform",
    ]
    methods += ["magnitude-erk", "smart-ratio", "synflow:rounds=2"]
    out = run(capsys, "compare", "lenet-300-100", *methods, "--sparsity", "0.5")
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    heads = [line for line in out.splitlines() if line.startswith("layer ")]
    assert len(heads) > 1
    assert [name for head in heads for name in head.split()[1:]] == methods


def test_overlap_is_that_of_the_layers_both_tickets_prune() -> None:
    one = disbud.Ticket(
        {"a": torch.tensor([True, True, False, False]), "b": torch.tensor([True, False, False])}
    )
    other = disbud.Ticket(
        {"a": torch.tensor([False, True, True, True]), "c": torch.tensor([True, True, False])}
    )
    found = overlap(one, other)
    assert found is not None
    assert found.iou == pytest.approx(1 / 4)
    assert 0 < found.chance < 1
    assert overlap(one, disbud.Ticket({"c": torch.ones(2, dtype=torch.bool)})) is None
