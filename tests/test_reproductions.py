"""The reproductions: every size loads and names only what it runs; claims tell what they claim from its opposite."""

from __future__ import annotations

import math
import random
import shlex
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from disbud import DisbudError
from disbud.claims import Verdict
from disbud.reproductions import CATALOGUE, SIZES, loading, reproduction
from disbud.study import Record, Study, Trial
from disbud.study.deciding import decide
from disbud.study.deciding.places import pairings, said
from disbud.study.specification.forms import AnyClaim, CompareForm, CrossoverForm, GrowsForm, Place

EVERY = pytest.mark.parametrize(("name", "size"), [(name, size) for name in CATALOGUE for size in SIZES])
MINE = "mlp:hidden=64+64+64"


def claim_of(study: Study, name: str) -> AnyClaim:
    return next(claim for claim in study.form.claim if claim.name == name)


def places_of(claim: AnyClaim) -> Iterator[tuple[str, tuple[object, ...]]]:
    """Each axis of which a claim names values, with the values."""
    for key in ("where", "left", "right"):
        yield from said(getattr(claim, key, Place())).items()


def names_a_model(name: str) -> set[str]:
    """The claims of a paper's file that are about certain models."""
    claims = tomllib.loads(loading.text_of(name))["claim"]
    return {c["name"] for c in claims if any("model" in c.get(key, {}) for key in ("where", "left", "right"))}


@EVERY
def test_every_size_of_every_paper_is_a_study_whose_claims_can_be_judged(name: str, size: str) -> None:
    study = reproduction(name, size=size)  # checks names, and that each claim finds its trials
    assert study.form.claim
    assert study.trials()
    assert study.command.startswith(f"disbud reproduce {name}")
    tested = [claim for claim in study.form.claim if claim.kind != "untested"]
    assert tested
    assert len({claim.name for claim in study.form.claim}) == len(study.form.claim)


@EVERY
def test_what_a_claim_names_is_run_or_left_out_for_a_reason(name: str, size: str) -> None:
    """Sparsities aside: where the sizes differ in them, a claim lists those of all."""
    study = reproduction(name, size=size)
    reasons = tomllib.loads(loading.text_of(name))["size"][size].get("without", {})
    assert size == "quick" or not reasons
    run = {
        axis: {getattr(variant, axis) for variant in study.grid.variants}
        for axis in ("model", "method", "intervention")
    }
    for claim in study.form.claim:
        for axis, values in places_of(claim):
            assert axis == "sparsity" or set(values) <= run[axis] | reasons.keys(), (claim.name, axis)


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("size", ["default", "full"])
def test_no_side_of_a_comparison_is_dropped_silently(name: str, size: str) -> None:
    study = reproduction(name, size=size)
    for claim in study.form.claim:
        if isinstance(claim, CompareForm | GrowsForm | CrossoverForm):
            sides = Counter(pair.left for pair in pairings(claim, study.grid.variants))
            wanted = math.prod(len(values) for values in said(claim.right).values())
            assert set(sides.values()) == {wanted}, claim.name


@EVERY
def test_a_model_of_one_s_own_is_all_that_is_trained_and_claims_about_others_say_so(
    name: str, size: str
) -> None:
    study, plain = reproduction(name, size=size, model=MINE), reproduction(name, size=size)
    assert {trial.model for trial in study.trials()} == {MINE}
    about_models = names_a_model(name)
    for claim, before in zip(study.form.claim, plain.form.claim, strict=True):
        if claim.name in about_models:
            assert claim.kind == "untested"
            assert MINE in claim.why
        else:
            assert claim == before


def test_some_claims_are_about_certain_models() -> None:
    assert names_a_model("robust") == {"4.7", "4.7 deep", "4.7 gap"}
    assert names_a_model("companions") == {"7.1 width", "7.1 depth"}


def test_a_claim_about_what_a_size_leaves_out_says_what_that_is() -> None:
    quick = {
        claim.name: getattr(claim, "why", None)
        for claim in reproduction("node-path", size="quick").form.claim
    }
    assert (
        quick["3.3 nodes"] == quick["3.5"] == "PHEW is left out of the quick study"
    )  # where; one of several left
    assert quick["3.2 wiring"] == "that shuffle is left out of the quick study"  # left
    assert quick["3.2 below 99"] is None
    missing = reproduction("missing-the-mark", size="quick")
    assert claim_of(missing, "5.3 sign").kind == "untested"
    assert claim_of(missing, "5.1 shuffle").kind == "compare"  # SNIP and others are run
    immunity = reproduction("immunity", size="quick")
    assert claim_of(immunity, "1.7").kind == "untested"  # all of the right


def test_a_size_s_own_names_stand_in_claims() -> None:
    quick = reproduction("missing-the-mark", size="quick")
    claim = claim_of(quick, "5.4")
    assert isinstance(claim, CompareForm)
    against = {pair.right.method for pair in pairings(claim, quick.grid.variants)}
    assert against == {"snip", "synflow:rounds=20", "magnitude"}
    full = reproduction("robust", size="full")
    compared = {
        (pair.left.model, pair.right.model)
        for name in ("4.7", "4.7 deep")
        for pair in pairings(claim_of(full, name), full.grid.variants)  # type: ignore[arg-type]
    }
    assert compared == {("resnet32:stable=true", "resnet32"), ("resnet110:stable=true", "resnet110")}


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("size", SIZES)
def test_the_study_file_that_a_report_shows_asks_for_the_same_study(
    name: str, size: str, tmp_path: Path
) -> None:
    study = reproduction(name, size=size)
    file = tmp_path / "mine.toml"
    file.write_text(study.text)
    again = Study.load(file)
    assert again.form == study.form
    assert again.trials() == study.trials()


def test_other_data_come_with_their_recipe_and_say_so() -> None:
    study = reproduction("immunity", data="cifar100", model="resnet32", seeds=3)
    assert {trial.data for trial in study.trials()} == {"cifar100"}
    assert {trial.recipe for trial in study.trials()} == {"frankle2021"}
    assert len({trial.seeds for trial in study.trials()}) == 3 + 2
    assert study.command == "disbud reproduce immunity --data cifar100 --model resnet32 --seeds 3"


def test_the_command_runs_the_same_study_again() -> None:
    asked = {"data": "digits", "model": MINE, "recipe": "digits:epochs=2", "seeds": 4}
    study = reproduction("robust", size="quick", **asked)  # type: ignore[arg-type]
    program, verb, name, *options = shlex.split(study.command)
    assert (program, verb, name, options.pop(0)) == ("disbud", "reproduce", "robust", "--quick")
    told = dict(zip(options[::2], options[1::2], strict=True))
    assert told == {f"--{key}": str(value) for key, value in asked.items()}


def test_unknown_names_suggest_known_ones() -> None:
    with pytest.raises(DisbudError, match="did you mean 'immunity'"):
        reproduction("imunity")
    with pytest.raises(DisbudError, match="did you mean 'quick'"):
        reproduction("immunity", size="quik")


def test_the_study_files_lie_in_the_package() -> None:
    folder = Path(loading.__file__).parent
    assert {path.stem for path in folder.glob("*.toml")} == set(CATALOGUE)


# Verdicts on accuracies that are made up: what is claimed holds, or the reverse does


def verdict(
    paper: str,
    claim: str,
    accuracy: Callable[[Trial], float],
    *,
    size: str = "quick",
    nodes: Callable[[Trial], float] = lambda trial: 0.0,
) -> Verdict | None:
    """What a paper's claim comes to where every trial has that accuracy, but for a wobble; dense ones have .9."""
    study = reproduction(paper, size=size, seeds=6)
    records = {}
    for i, trial in enumerate(study.trials()):
        wobble = random.Random(i).uniform(-1e-3, 1e-3)
        level = {"dense": 0.9, "random-uniform": 0.5}.get(trial.method) or accuracy(trial)
        paths = {"columns": [], "rows": [], "summary": {"nodes": nodes(trial) + wobble, "log10_paths": 1.0}}
        records[trial] = Record(trial, str(i), accuracy=level + wobble, measures={"paths": paths})
    (decision,) = decide([claim_of(study, claim)], study.frame(records), study.grid.variants, margin=0.005)
    return decision.verdict


def if_shuffled(gain: Callable[[float], float]) -> Callable[[Trial], float]:
    return lambda trial: 0.7 + (gain(trial.sparsity or 0.0) if trial.intervention == "shuffle" else 0.0)


def test_shuffling_that_begins_to_hurt_is_told_from_shuffling_that_ceases_to() -> None:
    hurts, heals = if_shuffled(lambda s: 0.97 - s), if_shuffled(lambda s: s - 0.97)
    assert verdict("node-path", "3.2 crossover", hurts) is Verdict.SUPPORTED
    assert verdict("node-path", "3.2 crossover", heals) is Verdict.CONTRADICTED


@pytest.mark.parametrize(("claim", "worse"), [("1.7", "shuffle-degrees"), ("1.8", "reinit")])
def test_a_control_that_does_worse_does_no_better(claim: str, worse: str) -> None:
    def apart(by: float) -> Callable[[Trial], float]:
        return lambda trial: 0.7 + (by if trial.intervention == worse else 0.0)

    for by, found in ((-0.1, Verdict.SUPPORTED), (0.0, Verdict.SUPPORTED), (0.1, Verdict.CONTRADICTED)):
        assert verdict("immunity", claim, apart(by), size="default") is found


def test_phew_loses_nodes_when_it_is_shuffled_or_gains_them() -> None:
    for gain, found in ((-10.0, Verdict.SUPPORTED), (10.0, Verdict.CONTRADICTED)):
        nodes = if_shuffled(lambda sparsity, gain=gain: gain)  # type: ignore[misc]
        assert verdict("node-path", "3.3 nodes", lambda trial: 0.7, size="default", nodes=nodes) is found


@pytest.mark.parametrize("rival", ["synflow:densities=erk", "random-erk"])
def test_npb_is_held_to_each_ticket_of_its_densities(rival: str) -> None:
    levels = {"npb": 0.8, rival: 0.85}
    assert verdict("node-path", "3.5 common densities", lambda t: levels.get(t.method, 0.7), size="full") is (
        Verdict.CONTRADICTED
    )
    assert verdict(
        "node-path", "3.5 common densities", lambda t: 0.8 if t.method == "npb" else 0.7, size="full"
    ) is (Verdict.SUPPORTED)


def test_methods_that_beat_each_other_in_turn_are_told_from_one_that_dominates() -> None:
    first = {0.9: "snip", 0.98: "synflow:rounds=20"}

    def in_turn(trial: Trial) -> float:
        return 0.8 if trial.method == first.get(trial.sparsity or 0.0) else 0.7

    def dominated(trial: Trial) -> float:
        return 0.8 if trial.method == "magnitude" else in_turn(trial) - 0.1

    assert verdict("missing-the-mark", "5.4 none dominates", in_turn) is Verdict.SUPPORTED
    assert verdict("missing-the-mark", "5.4 none dominates", dominated) is Verdict.CONTRADICTED


@pytest.mark.parametrize("method", ["snip", "grasp", "grasp-abs", "synflow", "magnitude"])
def test_every_early_method_is_held_to_magnitude_after_training(method: str) -> None:
    levels = {"magnitude-after-training": 0.8, method: 0.85}
    found = verdict("missing-the-mark", "5.4", lambda t: levels.get(t.method, 0.7), size="default")
    assert found is Verdict.CONTRADICTED


@pytest.mark.parametrize(("size", "deep"), [("default", "resnet32"), ("full", "resnet110")])
def test_a_lead_that_grows_with_depth_is_told_from_one_that_shrinks(size: str, deep: str) -> None:
    def lead(shallow: float, further: float) -> Callable[[Trial], float]:
        leads = {True: further, False: shallow}
        return lambda t: 0.7 + ("stable" in t.model) * leads[t.model.startswith(deep)]

    assert verdict("robust", "4.7 gap", lead(0.01, 0.05), size=size) is Verdict.SUPPORTED
    assert verdict("robust", "4.7 gap", lead(0.05, 0.01), size=size) is Verdict.CONTRADICTED
    assert verdict("robust", "4.7 deep", lead(0.05, -0.05), size=size) is Verdict.CONTRADICTED
    assert verdict("robust", "4.7", lead(0.05, -0.05), size=size) is Verdict.SUPPORTED


def test_nodes_and_paths_are_held_beside_each_other_at_equal_densities() -> None:
    for size in SIZES:
        study = reproduction("node-path", size=size)
        for name in ("3.4", "3.10 nodes", "3.10 paths", "3.10 effective"):
            claim = claim_of(study, name)
            assert claim.strata == ["sparsity", "densities"]  # type: ignore[union-attr]
            assert claim.where.intervention == ["none", "shuffle", "shuffle-degrees"]
