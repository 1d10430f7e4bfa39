"""Study files: what they ask for, the trials and seeds they come to, and the sentences about what is wrong in them."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from disbud import DisbudError
from disbud.models import narrowed, parameter_count
from disbud.study import Seeds, Trial
from disbud.study.specification import Grid, grid_of, read_study, seeds_of, study_of
from disbud.study.specification.grid import CALIBRATION
from disbud.study.trial import DENSE, SMALL_DENSE

BASE: dict[str, object] = {
    "name": "mine", "data": "digits", "model": "lenet-300-100", "recipe": "digits:epochs=2", "controls": False,
}  # fmt: skip
PARTS = ("split", "init", "mask", "order")


def grid(**more: object) -> Grid:
    return grid_of(study_of({**BASE, **more}))


def test_every_list_is_an_axis() -> None:
    found = grid(
        model=["lenet-300-100", "mlp"], methods=["snip", "synflow"], sparsities=[0.9, 0.98],
        interventions=["none", "shuffle"],
    )  # fmt: skip
    wanted = {
        Trial(model, "digits", "digits:epochs=2", method, sparsity, altered)
        for model, method, sparsity, altered in product(
            ["lenet-300-100", "mlp"], ["snip", "synflow"], [0.9, 0.98], [None, "shuffle"]
        )
    }
    assert set(found.variants) == wanted
    assert len(found.variants) == 16
    seeds = [Seeds.all(0), Seeds.all(1)]
    assert found.trials(seeds) == [replace(v, seeds=seed) for seed in seeds for v in found.variants]


def test_the_dense_network_is_one_trial_whatever_the_other_axes() -> None:
    found = grid(methods=[DENSE, "snip"], sparsities=[0.9, 0.98], interventions=["none", "reinit"])
    assert [variant.method for variant in found.variants].count(DENSE) == 1
    assert len(found.variants) == 5


def test_a_block_is_off_the_grid_and_takes_the_rest_from_the_study() -> None:
    found = grid(
        methods="snip", sparsities=0.9,
        trial=[{"methods": "synflow", "sparsities": [0.98, 0.99]}, {"methods": "snip", "interventions": "reinit"}],
    )  # fmt: skip
    asked = [(v.method, v.sparsity, v.intervention) for v in found.variants]
    assert asked == [
        ("snip", 0.9, None), ("synflow", 0.98, None), ("synflow", 0.99, None), ("snip", 0.9, "reinit"),
    ]  # fmt: skip


def test_an_empty_list_says_nothing() -> None:
    found = grid(methods="snip", sparsities=0.9, trial=[{"methods": [], "model": [], "sparsities": 0.98}])
    assert [(v.method, v.sparsity) for v in found.variants] == [("snip", 0.9), ("snip", 0.98)]


def test_what_would_only_repeat_another_trial_is_left_out_and_said() -> None:
    found = grid(
        methods=["snip", "synflow"], sparsities=0.9, interventions=["none", "random-labels", "shuffle"]
    )
    assert len(found.variants) == 5
    [(trial, why)] = found.left_out
    assert (trial.method, trial.intervention) == ("synflow", "random-labels")
    assert why == "synflow looks at no data"


def test_every_setting_gets_its_controls_and_seeds_to_find_margins_on() -> None:
    found = grid(methods="snip", sparsities=[0.9, 0.98], model=["lenet-300-100", "mlp"], controls=True)
    for model in ("lenet-300-100", "mlp"):
        here = [v for v in found.variants if v.model == model]
        assert [v.method for v in here].count(DENSE) == 1
        for sparsity in (0.9, 0.98):
            there = {v.method for v in here if v.sparsity == sparsity}
            assert there == {"snip", "random-uniform", "random-erk", SMALL_DENSE}
    margins = [t for t in found.trials([Seeds.all(0)]) if t.seeds in CALIBRATION]
    assert {(t.method, t.sparsity) for t in margins} == {
        (DENSE, None), ("random-uniform", 0.9), ("random-uniform", 0.98),
    }  # fmt: skip
    assert len(margins) == 2 * 2 * 3
    assert not [t for t in grid(methods="snip", sparsities=0.9, controls=True, margin=0.01).calibration]


def test_a_factory_of_ones_own_has_no_small_dense_network() -> None:
    found = grid(methods="snip", sparsities=0.9, controls=True, model="torch.nn:Identity")
    assert SMALL_DENSE not in {v.method for v in found.variants}


@pytest.mark.parametrize(
    ("seeds", "wanted"),
    [
        (3, [Seeds.all(0), Seeds.all(1), Seeds.all(2)]),
        ([7, 2], [Seeds.all(7), Seeds.all(2)]),
        ({"count": 2, "init": 9}, [Seeds(0, 9, 0, 0), Seeds(1, 9, 1, 1)]),
        ({"count": 2, "order": [5, 4], "split": 0}, [Seeds(0, 0, 0, 5), Seeds(0, 1, 1, 4)]),
    ],
)
def test_a_seed_stands_for_four_that_can_be_set_apart(seeds: object, wanted: list[Seeds]) -> None:
    assert seeds_of(study_of({**BASE, "seeds": seeds})) == wanted


def test_further_seeds_follow_the_same_rule_and_repeat_none() -> None:
    listed = seeds_of(study_of({**BASE, "seeds": [7, 2]}), count=5)
    assert listed[:2] == [Seeds.all(7), Seeds.all(2)]
    assert len(set(listed)) == 5
    held = seeds_of(study_of({**BASE, "seeds": {"count": 2, "mask": 3}}), count=4)
    assert held == [Seeds(i, i, 3, i) for i in range(4)]


COMPARE = {"name": "1", "says": "x", "left": {}, "right": {}, "is": "beats"}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"methds": "snip"}, "no key 'methds'; did you mean 'methods'"),
        ({"sparsities": 1.5}, r"sparsities is a fraction from 0 to below 1.*not 1.5"),
        ({"sparsities": [0.5, "x"]}, r"not \[0.5, 'x'\]"),
        ({"seeds": 0}, "seeds is how many there are.*not 0"),
        ({"seeds": {"cont": 3}}, "in seeds: there is no key 'cont'; did you mean 'count'"),
        ({"trial": [{"methos": "x"}]}, "in trial 1: there is no key 'methos'; did you mean 'methods'"),
        ({"trial": {"methods": "x"}}, "each under"),
        ({"claim": [{"name": "1.1", "says": "x", "kind": "compair"}]}, r"claim 1 \(1.1\).*did you mean 'compare'"),
        ({"claim": [{k: v for k, v in COMPARE.items() if k != "is"}]}, "is is missing"),
        ({"claim": [{**COMPARE, "is": "bets"}]}, "'beats'"),
        ({"claim": [{**COMPARE, "left": {"metod": "snip"}}]}, "in left: .*'metod'; did you mean 'method'"),
        ({"claim": [{**COMPARE, "is": "loses-at-most"}]}, "needs `by`"),
        ({"claim": [{**COMPARE, "is": "same", "by": 0.1}]}, "has no `by`"),
        ({"claim": [{"name": "1", "says": "x", "kind": "bound", "value": "loss"}]}, "give `most` or `least`"),
        ({"name": "a/b"}, "files are named by it"),
        ({"controls": "yes"}, "controls is true or false"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_what_would_do(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(DisbudError, match=says) as caught:
        study_of({**BASE, "methods": "snip", "sparsities": 0.9, **wrong})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"methods": "snipp", "sparsities": 0.9}, "did you mean 'snip'"),
        ({"methods": "snip"}, "snip needs sparsities"),
        ({"methods": "snip", "sparsities": 0.9, "interventions": "shufle"}, "did you mean 'shuffle"),
        ({"methods": "snip", "sparsities": 0.9, "recipe": "digitts"}, "did you mean 'digits'"),
        ({"methods": "snip", "sparsities": 0.9, "model": "lenet"}, "did you mean 'lenet"),
        ({}, "asks for no trial"),
        ({"methods": [], "sparsities": 0.9}, "asks for no trial"),
        ({"methods": "snip", "sparsities": 0.9, "model": []}, "names no model"),
        ({"methods": "snip", "sparsities": []}, "snip needs sparsities"),
        ({"methods": "snip:bogus=1", "sparsities": 0.9}, "no setting of method 'snip' called 'bogus'"),
    ],
)
def test_names_are_checked_before_anything_is_run(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(DisbudError, match=says):
        grid(**wrong)


@pytest.mark.parametrize(
    ("seeds", "says"),
    [
        ([1, 1], "1 twice"),
        ([], "none"),
        ([3, 1001], "margins are found on seed 1001"),
        ({"count": 3, "init": [1, 2]}, "lists 2"),
        ({"count": 2, **{part: [1001, 1002] for part in PARTS}}, "margins are found on seed 1001"),
        ({"count": 2, **dict.fromkeys(PARTS, 3)}, "3 twice"),
        (1003, "margins are found on seed 1001"),
        ({"count": 1003}, "margins are found on seed 1001"),
        ({"count": 1002, "init": 0}, "there are 1002 seeds; take at most 1001"),
        ([2**63], "9223372036854775808 is no seed; take a whole number below 2\\^63"),
        ({"count": 2, "mask": 2**70}, "is no seed"),
    ],
)  # fmt: skip
def test_seeds_that_cannot_be_are_refused(seeds: object, says: str) -> None:
    with pytest.raises(DisbudError, match=says):
        seeds_of(study_of({**BASE, "seeds": seeds}))


def test_a_file_that_is_none_says_so(tmp_path: Path) -> None:
    with pytest.raises(DisbudError, match="cannot be read"):
        read_study(tmp_path / "nowhere.toml")
    file = tmp_path / "odd.toml"
    file.write_text("name = [unfinished")
    with pytest.raises(DisbudError, match=r"odd.toml: not TOML: .*line 1"):
        read_study(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(DisbudError, match="cannot be read"):
        read_study(file)


# The small dense network


@pytest.mark.parametrize("model", ["resnet20", "resnet20:width=0.5", "lenet-300-100", "vgg16-bn", "conv-6"])
@pytest.mark.parametrize("density", [0.25, 0.1, 0.02])
def test_a_narrowed_network_has_the_weights_that_a_ticket_keeps(model: str, density: float) -> None:
    shape = (3, 16, 16)
    wanted = density * parameter_count(model, input_shape=shape).prunable
    spec = narrowed(model, density, input_shape=shape)
    found = parameter_count(spec, input_shape=shape).prunable
    assert found == pytest.approx(wanted, rel=0.16)
    name, _, width = spec.partition("width=")
    for factor in (0.97, 1.03):  # no width nearby comes nearer
        other = parameter_count(f"{name}width={factor * float(width):.10g}", input_shape=shape).prunable
        assert abs(found - wanted) <= abs(other - wanted)


def test_narrowing_keeps_all_else_that_was_said() -> None:
    assert narrowed("mlp:hidden=64+32,activation=tanh", 0.5).startswith(
        "mlp:hidden=64+32,activation=tanh,width=0."
    )
    with pytest.raises(DisbudError, match="has no width"):
        narrowed("torch.nn:Identity", 0.5)
    with pytest.raises(DisbudError, match="density"):
        narrowed("resnet20", 0.0)
