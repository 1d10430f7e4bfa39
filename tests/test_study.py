"""Trials: their identity, the same bits from every engine, methods of one's own, workers that die."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from unittest import mock

import pytest
import torch

import disbud
import own_methods
from disbud import DisbudError
from disbud.interventions import on_data, on_mask, on_weights
from disbud.pruning import own_ticket
from disbud.study import Failure, Seeds, Trial, in_process, keeping, kept_or_run, pool, run
from disbud.study.running import corrupted

QUICK = "digits:epochs=1"
LENET = Trial("lenet-300-100", "digits", QUICK, "snip", 0.9, None, Seeds.all(1))


# Identity


def test_identity_depends_on_every_part() -> None:
    others = {
        "model": "lenet-300-100:width=0.5",
        "data": "shapes:size=8",
        "recipe": "digits:epochs=2",
        "method": "snip:rounds=2",
        "sparsity": 0.8,
        "intervention": "shuffle",
    }
    found = {LENET.identity}
    for name, value in others.items():
        found.add(dataclasses.replace(LENET, **{name: value}).identity)
    for name in ("split", "init", "mask", "order"):
        found.add(dataclasses.replace(LENET, seeds=dataclasses.replace(LENET.seeds, **{name: 9})).identity)
    assert len(found) == 1 + len(others) + 4


def test_identity_does_not_depend_on_how_the_settings_are_written() -> None:
    one = dataclasses.replace(LENET, method="grasp")
    assert dataclasses.replace(LENET, method="grasp:temperature=200.0").identity == one.identity
    assert dataclasses.replace(LENET, recipe="digits:epochs=1,lr=0.05").identity != one.identity


def test_a_new_revision_is_another_trial() -> None:
    from disbud.methods.catalogue import CATALOGUE

    newer = dataclasses.replace(CATALOGUE["snip"], revision=CATALOGUE["snip"].revision + 1)
    before = LENET.identity
    with mock.patch.dict(CATALOGUE, {"snip": newer}):
        assert dataclasses.replace(LENET).identity != before


@pytest.mark.parametrize(
    ("part", "text", "says"),
    [
        ("method", "snipp", "did you mean 'snip'"),
        ("model", "lenet-300", "lenet-300-100"),
        ("data", "digit", "did you mean 'digits'"),
        ("recipe", "digit", "digits"),
        ("intervention", "shufle", "did you mean 'shuffle'"),
        ("method", "own_methods:nobody", "names no function"),
    ],
)
def test_a_wrong_name_is_an_error_at_once(part: str, text: str, says: str) -> None:
    with pytest.raises(DisbudError, match=says):
        dataclasses.replace(LENET, **{part: text})


def test_dense_is_not_pruned_and_methods_need_a_sparsity() -> None:
    with pytest.raises(DisbudError, match="neither a sparsity nor an intervention"):
        Trial("lenet-300-100", "digits", QUICK, sparsity=0.9)
    with pytest.raises(DisbudError, match="snip needs a sparsity"):
        Trial("lenet-300-100", "digits", QUICK, "snip")


# Running


def test_a_trial_is_the_same_as_its_parts_by_hand() -> None:
    data = disbud.data.load("digits", seed=1)
    model = disbud.models.build("lenet-300-100", classes=10, input_shape=data.input_shape, seed=2)
    ticket = disbud.prune(
        model, "snip", sparsity=0.9, batches=data.batches(seed=3), example=data.example(), seed=3
    )
    ticket = on_mask(ticket, "shuffle", seed=3, model=model)
    result = disbud.train(model, data, ticket=ticket, recipe=QUICK, seed=4)
    outcome = run(
        dataclasses.replace(LENET, intervention="shuffle", seeds=Seeds(split=1, init=2, mask=3, order=4))
    )
    assert outcome.ticket == ticket
    assert (outcome.accuracy, outcome.loss) == (result.accuracy, result.loss)


def test_weight_interventions_change_the_weights_trained_from() -> None:
    data = disbud.data.load("digits", seed=1)
    model = disbud.models.build("lenet-300-100", classes=10, input_shape=data.input_shape, seed=1)
    ticket = disbud.prune(
        model, "snip", sparsity=0.9, batches=data.batches(seed=1), example=data.example(), seed=1
    )
    state, same = on_weights(model.state_dict(), ticket, "permute-values", seed=1)
    model.load_state_dict(state)
    result = disbud.train(model, data, ticket=same, recipe=QUICK, seed=1)
    outcome = run(dataclasses.replace(LENET, intervention="permute-values"))
    assert outcome.ticket == ticket
    assert outcome.accuracy == result.accuracy
    assert run(dataclasses.replace(LENET, intervention="reinit")).accuracy != run(LENET).accuracy


def test_corrupted_data_is_pruned_with_and_not_trained_on() -> None:
    data = disbud.data.load("digits", seed=1)
    model = disbud.models.build("lenet-300-100", classes=10, input_shape=data.input_shape, seed=1)
    batches = corrupted(data, "random-labels", seed=1).batches(seed=1)
    ticket = disbud.prune(model, "snip", sparsity=0.9, batches=batches, example=data.example(), seed=1)
    outcome = run(dataclasses.replace(LENET, intervention="random-labels"))
    assert outcome.ticket == ticket != run(LENET).ticket
    assert outcome.accuracy == disbud.train(model, data, ticket=ticket, recipe=QUICK, seed=1).accuracy


@pytest.mark.parametrize("name", ["random-labels", "permuted-pixels", "labels-and-pixels", "half-data"])
def test_a_corrupted_data_set_holds_what_the_intervention_makes_of_it(name: str) -> None:
    data = disbud.data.load("digits")
    found = corrupted(data, name, seed=5)
    images = data.train.images.float()
    ((x, y),) = on_data([(images, data.train.labels)], name, seed=5)[:1]
    assert torch.equal(found.train.images.float(), x)
    assert torch.equal(found.train.labels, y)
    assert found.test is data.test
    assert found.fingerprint != data.fingerprint


def test_noise_keeps_the_moments_of_the_images() -> None:
    data = disbud.data.load("digits")
    found = corrupted(data, "noise", seed=5).train.images.float()
    images = data.train.images.float()
    assert found.std() == pytest.approx(float(images.std()), rel=0.25)
    with pytest.raises(DisbudError, match="shuffle changes the mask, not the data"):
        corrupted(data, "shuffle", seed=0)


# Methods of one's own


def model() -> torch.nn.Module:
    return disbud.models.build("lenet-300-100", classes=10, input_shape=(1, 8, 8))


def test_a_function_of_ones_own_prunes_like_any_method() -> None:
    ticket = own_ticket(own_methods.largest, model(), [], sparsity=0.9)
    assert ticket == disbud.prune(model(), "magnitude", sparsity=0.9)
    assert ticket.origin.method == "own_methods:largest"
    assert own_ticket(own_methods.a_ticket, model(), [], sparsity=0.9) == ticket
    one, same, other = (
        own_ticket(own_methods.seeded, model(), [], sparsity=0.9, seed=seed) for seed in (1, 1, 2)
    )
    assert one == same != other
    outcome = run(dataclasses.replace(LENET, method="own_methods:largest"))
    assert outcome.ticket is not None
    assert outcome.ticket.origin.method == "own_methods:largest"
    labels = dataclasses.replace(LENET, method="own_methods:looks_at_labels")
    assert run(labels).ticket != run(dataclasses.replace(labels, intervention="random-labels")).ticket


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (own_methods.too_few, r"kept 266 of 26,60\d weights|kept \d+ of"),
        (own_methods.wrong_shape, r"scored fc1.weight with \(3,\); its shape is"),
        (own_methods.not_a_number, "NaN or infinite"),
        (own_methods.of_no_parameter, "'elsewhere', which is no parameter"),
        (own_methods.nothing, "returned a NoneType; it should return scores"),
        (own_methods.changes_the_model, r"changed the model \(fc1.weight\)"),
    ],
)
def test_a_bad_method_of_ones_own_is_told_so(function: object, says: str) -> None:
    with pytest.raises(DisbudError, match=says):
        own_ticket(function, model(), [], sparsity=0.9)  # type: ignore[arg-type]


# Engines


def test_results_and_failures_come_from_either_engine() -> None:
    for engine in (in_process, pool):
        found = dict(engine(own_methods.square, [3, -1, 4]))
        assert found[3] == 9
        assert found[4] == 16
        failure = found[-1]
        assert isinstance(failure, Failure)
        assert failure.error == "ValueError: no roots"
        assert "own_methods.py" in failure.traceback


def test_a_worker_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    items = [str(tmp_path / name) for name in ("a", "b", "c")]
    assert dict(pool(own_methods.dies_once, items, workers=2)) == dict.fromkeys(items, "alive")
    ((_, failure),) = pool(own_methods.dies_always, ["x"], workers=1)
    assert isinstance(failure, Failure)
    assert "the worker died 3 times" in failure.error


@pytest.mark.slow
def test_every_engine_gives_the_same_bits() -> None:
    trials = [
        LENET,
        dataclasses.replace(LENET, intervention="shuffle"),
        Trial("lenet-300-100", "digits", QUICK),
    ]
    here = dict(in_process(run, trials))
    there = dict(pool(run, trials, workers=2))
    assert here == there
    assert here[trials[0]].ticket == there[trials[0]].ticket


# Keeping


def test_a_trial_that_is_done_is_not_run_again(tmp_path: Path) -> None:
    first = kept_or_run(LENET, tmp_path)
    with mock.patch.object(keeping, "run", side_effect=AssertionError("run again")):
        again = kept_or_run(LENET, tmp_path)
        assert again == first
        assert again.ticket == first.ticket
        with pytest.raises(AssertionError, match="run again"):
            kept_or_run(LENET.with_seed(2), tmp_path)
        with (
            mock.patch.object(keeping, "environment", return_value={"torch": "another"}),
            pytest.raises(AssertionError, match="run again"),
        ):
            kept_or_run(LENET, tmp_path)


def test_a_trial_that_failed_leaves_nothing_behind(tmp_path: Path) -> None:
    with (
        mock.patch.object(keeping, "run", side_effect=RuntimeError("out of memory")),
        pytest.raises(RuntimeError),
    ):
        kept_or_run(LENET, tmp_path)
    assert kept_or_run(LENET, tmp_path) == run(LENET)


def test_a_diverged_trial_counts_as_chance(tmp_path: Path) -> None:
    wild = dataclasses.replace(LENET, recipe="digits:epochs=1,lr=1e9")
    outcome = kept_or_run(wild, tmp_path)
    assert outcome.accuracy == 0.1
    assert outcome.loss == float("inf")
    assert outcome.diverged is not None
    assert kept_or_run(wild, tmp_path) == outcome
