"""Trials: their identity, running them, tickets shared between them, methods of one's own."""

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
from disbud.study import Seeds, Trial, datasets, run, tickets
from disbud.study.tickets import corrupted

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


def test_a_diverged_trial_counts_as_chance() -> None:
    outcome = run(dataclasses.replace(LENET, recipe="digits:epochs=1,lr=1e9"))
    assert (outcome.accuracy, outcome.loss) == (0.1, float("inf"))
    assert outcome.diverged is not None
    assert outcome.weights is None


def test_the_small_dense_network_has_as_many_weights_as_the_ticket_keeps() -> None:
    small, ticket = run(dataclasses.replace(LENET, method="small-dense")), run(LENET).ticket
    assert small.weights is not None
    assert small.ticket is None
    assert ticket is not None
    weights = sum(tensor.numel() for tensor in small.weights.values() if tensor.dim() > 1)
    assert weights == pytest.approx(ticket.kept, rel=0.05)
    assert small.accuracy > 0.2


def test_the_trained_weights_are_those_of_the_reported_accuracy() -> None:
    outcome = run(LENET)
    data = disbud.data.load("digits", seed=1)
    network = disbud.models.build("lenet-300-100", classes=10, input_shape=data.input_shape, seed=9)
    assert outcome.weights is not None
    network.load_state_dict(dict(outcome.weights))
    network.eval()
    with torch.no_grad():
        images = data.normalise(data.test.images)
        right = (network(images).argmax(1) == data.test.labels).float().mean()
    assert float(right) == pytest.approx(outcome.accuracy)
    assert outcome.ticket is not None
    for name, mask in outcome.ticket.masks.items():
        assert not outcome.weights[name][~mask].any()


# Sharing


SYNFLOW = dataclasses.replace(LENET, method="synflow")


@pytest.mark.parametrize(
    "method", ["synflow", "lottery-ticket:rounds=2", "lottery-ticket:rounds=1,rewind=0.5"]
)
def test_a_ticket_that_takes_long_is_made_once_for_all_that_is_done_to_it(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = [
        dataclasses.replace(LENET, method=method, intervention=name)
        for name in (None, "shuffle", "permute-values")
    ]
    apart = []
    for number, trial in enumerate(trials):
        monkeypatch.setenv("DISBUD_CACHE", str(tmp_path / str(number)))
        apart.append(run(trial))
    monkeypatch.setenv("DISBUD_CACHE", str(tmp_path / "shared"))
    with mock.patch.object(tickets, "prune", wraps=tickets.prune) as pruned:
        together = [run(trial) for trial in trials]
    assert pruned.call_count == 1
    assert together == apart
    for one, other in zip(together, apart, strict=True):
        assert one.weights is not None
        assert other.weights is not None
        assert all(torch.equal(tensor, other.weights[name]) for name, tensor in one.weights.items())
        assert one.ticket is not None
        assert other.ticket is not None
        assert one.ticket.origin == other.ticket.origin
        assert one.ticket.start == other.ticket.start


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(SYNFLOW, method="synflow:rounds=99"),
        dataclasses.replace(SYNFLOW, sparsity=0.8),
        dataclasses.replace(SYNFLOW, model="lenet-300-100:width=0.5"),
        dataclasses.replace(SYNFLOW, seeds=dataclasses.replace(LENET.seeds, init=7)),
    ],
)
def test_other_settings_make_another_ticket(
    other: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISBUD_CACHE", str(tmp_path / "one"))
    alone = run(other)
    monkeypatch.setenv("DISBUD_CACHE", str(tmp_path / "two"))
    run(SYNFLOW)
    assert run(other).ticket == alone.ticket != run(SYNFLOW).ticket


def test_a_ticket_that_learned_from_the_recipe_is_not_that_of_another_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISBUD_CACHE", str(tmp_path))
    learned = dataclasses.replace(LENET, method="lottery-ticket:rounds=1")
    assert run(learned).ticket != run(dataclasses.replace(learned, recipe="digits:epochs=2")).ticket
    kept = len([path for path in tmp_path.iterdir() if path.is_dir()])
    run(SYNFLOW)
    run(dataclasses.replace(SYNFLOW, recipe="digits:epochs=2"))  # synflow does not train: one ticket for both
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == kept + 1


def test_a_ticket_of_corrupted_data_is_not_that_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISBUD_CACHE", str(tmp_path))
    many = dataclasses.replace(LENET, method="snip:rounds=60")
    corrupted = dataclasses.replace(many, intervention="random-labels")
    assert run(many).ticket != run(corrupted).ticket
    assert run(corrupted).ticket == run(corrupted).ticket


def test_the_fingerprint_of_drawn_data_is_kept_and_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISBUD_CACHE", str(tmp_path))
    spec = "shapes:size=8,train=40,test=20"
    datasets.forget_data()
    assert not datasets.knows_fingerprint(spec, 3)
    first = datasets.fingerprint(spec, 3)
    assert first == disbud.data.load(spec, seed=3).fingerprint != datasets.fingerprint(spec, 4)
    datasets.forget_data()
    assert datasets.knows_fingerprint(spec, 3)
    with mock.patch.object(datasets, "load", side_effect=AssertionError("drawn again")):
        assert datasets.fingerprint(spec, 3) == first
