"""The sanity check: its trials, its verdicts on outcomes made up for them, methods of one's own, bad requests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import numpy
import pytest
import torch

import disbud
import own_methods
from disbud import DisbudError, Ticket
from disbud.claims import Looks, Margin, Verdict
from disbud.cli import main
from disbud.sanity.checks import ALTERED, AS_IT_IS, CONTROLS, RANDOM, checks_for
from disbud.sanity.findings import Shared, summed_up
from disbud.study import Outcome, Trial

QUICK = "digits:epochs=1"
BASE = Trial("lenet-300-100", "digits", QUICK, "snip", 0.9)


def quick(method: object, folder: Path, **more: object) -> disbud.sanity.SanityCheck:
    settings = {
        "sparsity": 0.9,
        "recipe": QUICK,
        "seeds": 3,
        "workers": 1,
        "margin": 0.01,
        "store": folder,
        **more,
    }
    return disbud.sanity_check("lenet-300-100", method, "digits", **settings)  # type: ignore[arg-type]


# What is compared


def test_a_method_that_looks_at_no_data_is_not_asked_about_data() -> None:
    names = [check.name for check in checks_for("synflow")]
    assert names == [
        "rearranged mask", "permuted values", "smart-ratio random", "ERK random", "uniform random", "dense",
    ]  # fmt: skip
    every = [check.name for check in (*ALTERED, *RANDOM, *CONTROLS)]
    assert [check.name for check in checks_for("snip")] == every
    assert [check.name for check in checks_for("own_methods:largest")] == every
    assert [check.name for check in checks_for("lottery-ticket")] == every
    assert "ERK random" not in [check.name for check in checks_for("random-erk")]


def test_each_check_changes_one_thing() -> None:
    trials = {check.name: check.trial(BASE) for check in checks_for("snip")}
    assert trials["random labels"].intervention == "random-labels"
    assert trials["rearranged mask"].intervention == "shuffle"
    assert trials["smart-ratio random"].method == "smart-ratio"
    assert (trials["dense"].method, trials["dense"].sparsity) == ("dense", None)
    assert len({trial.identity for trial in trials.values()} | {BASE.identity}) == len(trials) + 1
    assert {trial.seeds for trial in trials.values()} == {BASE.seeds}


# Verdicts


def outcomes(differences: Mapping[str, float], seeds: int = 6) -> dict[str, dict[int, Outcome]]:
    """Accuracies around .9 that move together over the seeds; each variant differs by so much, and some noise."""
    stream = numpy.random.default_rng(0)
    level = stream.normal(0.9, 0.02, seeds)
    ticket = Ticket({"w": torch.arange(100) < 50})
    return {
        name: {
            seed: Outcome(float(level[seed] + by + stream.normal(0, 0.0005)), 1.0, (), ticket)
            for seed in range(seeds)
        }
        for name, by in differences.items()
    }


NO_DIFFERENCE = dict.fromkeys([AS_IT_IS, *(check.name for check in (*ALTERED, *RANDOM))], 0.0)


def judged(**differences: float) -> disbud.sanity.SanityCheck:
    given = {name.replace("_", " "): value for name, value in differences.items()}
    known = {**NO_DIFFERENCE, "dense": 0.05, "uniform random": -0.1, **given}
    return summed_up(BASE, checks_for("snip"), outcomes(known), Margin(0.01), None, chance=0.1)


def test_what_does_not_hurt_is_not_needed() -> None:
    found = judged()
    assert {row.outcome for row in found.rows} == {"fail"}
    assert found.words == (
        "snip does not need the labels, labels and images, half of the data, which weights of a layer are kept and "
        "which kept weight has which value; a smart-ratio random ticket and an ERK random ticket do as well."
    )


def test_what_hurts_is_needed() -> None:
    found = judged(random_labels=-0.05, rearranged_mask=-0.03)
    assert found["random labels"].outcome == found["rearranged mask"].outcome == "pass"
    assert found["permuted values"].outcome == "fail"
    assert "snip needs the labels and which weights of a layer are kept" in found.words
    assert found["random labels"].shared.iou == 1.0
    assert found["smart-ratio random"].shared is None
    document = found.to_json()
    assert json.dumps(document)
    assert {check["check"]: check["outcome"] for check in document["checks"]}["random labels"] == "pass"  # type: ignore[union-attr, index, call-overload]


def test_what_lies_at_the_margin_is_undecided_and_says_how_many_seeds_more() -> None:
    found = judged(random_labels=-0.01)
    assert found["random labels"].outcome == "undecided"
    assert "undecided: random labels" in found.words


def test_a_setting_in_which_nothing_matters_shows_nothing() -> None:
    found = judged(dense=0.001, uniform_random=0.0)
    assert {row.verdict for row in found.rows} == {Verdict.UNINFORMATIVE}
    assert "this setting shows nothing" in found.words


def test_what_does_not_train_shows_nothing_of_its_altered_versions() -> None:
    known = {**dict.fromkeys(NO_DIFFERENCE, -0.8), "dense": 0.05, "uniform random": -0.4}
    random = {"smart-ratio random": 0.0, "ERK random": 0.0}
    found = summed_up(BASE, checks_for("snip"), outcomes({**known, **random}), Margin(0.01), None, chance=0.1)
    assert not found.trains
    assert {row.outcome for row in found.rows if row.check not in random} == {"uninformative"}
    assert {row.outcome for row in found.rows if row.check in random} == {"fail"}
    assert "tickets of snip train no better than guessing here" in found.words
    assert judged().trains


# Running


def test_a_check_runs_resumes_and_repeats_itself(tmp_path: Path) -> None:
    found = quick("magnitude", tmp_path)
    assert found.seeds == 3
    assert set(found.accuracies) == {AS_IT_IS, *(check.name for check in checks_for("magnitude"))}
    rearranged = found["rearranged mask"]
    assert rearranged.shared is not None
    assert rearranged.shared.chance == pytest.approx(rearranged.shared.iou, abs=0.02)
    assert found["permuted values"].shared == Shared(1.0, pytest.approx(rearranged.shared.chance), 0.0)  # type: ignore[arg-type]
    assert found.redrawn is None
    with mock.patch("disbud.study.performing.run", side_effect=AssertionError("run again")):
        again = quick("magnitude", tmp_path)
    assert again.accuracies == found.accuracies
    assert str(again) == str(found)


def test_a_method_of_ones_own_is_checked_like_any_other(tmp_path: Path) -> None:
    found = quick(own_methods.looks_at_labels, tmp_path)
    assert found.trial.method == "own_methods:looks_at_labels"
    shared = found["labels and pixels"].shared
    assert shared is not None
    assert shared.iou < 0.9


def test_masks_of_another_batch_are_what_corrupted_data_are_held_to(tmp_path: Path) -> None:
    found = quick("snip", tmp_path)
    overlaps = []
    for seed in range(3):
        data = disbud.data.load("digits", seed=seed)
        model = disbud.models.build("lenet-300-100", classes=10, input_shape=(1, 8, 8), seed=seed)
        one, other = (
            disbud.prune(model, "snip", sparsity=0.9, batches=data.batches(seed=draw), seed=draw)
            for draw in (seed, seed + 10_000)
        )
        overlaps.append(disbud.measures.overlap(one, other).iou)
    assert found.redrawn is not None
    assert found.redrawn.iou == pytest.approx(sum(overlaps) / 3)  # type: ignore[arg-type]
    assert found["random labels"].shared.iou < found.redrawn.iou  # type: ignore[union-attr]
    assert found.to_json()["another_batch"]["iou"] == found.redrawn.iou  # type: ignore[index, call-overload]


def test_the_command_prints_the_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DISBUD_STORE", str(tmp_path))
    asked = ["sanity", "snip", "--sparsity", "0.9", "--recipe", QUICK, "--seeds", "3", "--workers", "1"]
    assert main(asked) == 0
    out = capsys.readouterr().out
    assert "rearranged mask" in out
    assert "snip at sparsity 0.9" in out
    assert "another true batch" in out
    assert main([*asked, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["seeds"] == 3
    assert main(["sanity", "magnitude"]) == 2
    assert "give --sparsity" in capsys.readouterr().err


def test_until_decided_ends_where_nothing_is_undecided(tmp_path: Path) -> None:
    """With so wide a margin dense training is not ahead of random tickets: more seeds cannot tell anything."""
    found = disbud.sanity_check(
        "mlp:hidden=8", "magnitude", "digits", sparsity=0.5, recipe=QUICK, until_decided=True, margin=0.9, workers=1,
        store=tmp_path,
    )  # fmt: skip
    assert {row.outcome for row in found.rows} == {"uninformative"}
    assert found.seeds == Looks().seeds[0]


def test_an_interval_without_bounds_is_said_in_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every network diverges and so counts as guessing: differences of no spread, of too few seeds for a sign test."""
    monkeypatch.setenv("DISBUD_STORE", str(tmp_path))
    asked = ["--model", "mlp:hidden=8", "--sparsity", "0.9", "--recipe", f"{QUICK},lr=1e30"]
    assert main(["sanity", "magnitude", *asked, "--seeds", "3", "--workers", "1"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("rearranged mask")]
    assert "+0.00  no bounds" in line


def test_the_command_prints_before_it_draws(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What took hours of training is shown although the picture cannot be made."""
    monkeypatch.setenv("DISBUD_STORE", str(tmp_path))
    asked = ["sanity", "magnitude", "--sparsity", "0.9", "--recipe", QUICK, "--seeds", "3", "--workers", "1"]
    failing = mock.patch("disbud.report.sanity_picture.draw_checks", side_effect=DisbudError("no picture"))
    for more, says in (((), "magnitude at sparsity 0.9"), (("--json",), '"checks"')):
        with failing:
            assert main([*asked, "--plot", str(tmp_path / "checks.svg"), *more]) == 2
        printed = capsys.readouterr()
        assert says in printed.out
        assert "no picture" in printed.err


@pytest.mark.parametrize(
    ("method", "more", "says"),
    [
        ("snipp", {}, "did you mean 'snip'"),
        ("dense", {}, "no pruning method"),
        ("snip", {"seeds": 2}, "at least 3 seeds"),
        ("own_methods:not_a_number", {}, "NaN or infinite"),
        ("own_methods:changes_the_model", {}, "changed the model"),
        (lambda model, batches: {}, {}, "cannot be imported by that name"),
        ("snip", {"recipe": "nothing"}, "nothing"),
    ],
)
def test_what_cannot_be_checked_is_said_before_any_training(
    method: object, more: dict[str, object], says: str, tmp_path: Path
) -> None:
    with (
        mock.patch("disbud.study.running.train", side_effect=AssertionError("trained")),
        pytest.raises(DisbudError, match=says),
    ):
        quick(method, tmp_path, **more)


def test_a_built_model_does_not_do() -> None:
    with pytest.raises(DisbudError, match="a built model does not do"):
        disbud.sanity_check(torch.nn.Linear(2, 2), "snip", "digits", sparsity=0.9)  # type: ignore[arg-type]


def test_data_of_one_class_tell_nothing(tmp_path: Path) -> None:
    with pytest.raises(DisbudError, match="one class only"):
        disbud.sanity_check(
            "lenet-300-100",
            "snip",
            "own_methods:one_class",
            sparsity=0.9,
            recipe=QUICK,
            margin=0.01,
            store=tmp_path,
        )


def test_a_class_with_fewer_examples_than_asked_is_said_before_any_training(tmp_path: Path) -> None:
    """Pruning takes what there is, with a warning; a check would compare tickets of unequal evidence."""

    def check(method: str) -> disbud.sanity.SanityCheck:
        return disbud.sanity_check(
            "lenet-300-100", method, "own_methods:one_rare_class", sparsity=0.9, recipe=QUICK, seeds=3, workers=1,
            store=tmp_path,
        )  # fmt: skip

    with (
        mock.patch("disbud.study.running.train", side_effect=AssertionError("trained")),
        pytest.raises(
            DisbudError,
            match=r"snip on rare.*fewer than 10 examples \(class 2 has \d\); ask for fewer, as in",
        ),
    ):
        check("snip")
    assert check("snip:examples_per_class=2").seeds == 3
