"""Which seeds a study adds, look by look, and the claims it refuses before anything is run."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from disbud import DisbudError
from disbud.claims import Beats, Looks, Margin, Pairs, Verdict, judge
from disbud.study import Trial
from disbud.study.deciding import Setting, check, decide, decide_in_looks
from disbud.study.deciding.needs import needed_by
from disbud.study.frame import Frame, variant_of
from disbud.study.specification import grid_of, study_of
from disbud.study.trial import DENSE
from study_frames import BASE, GRID, SHUFFLE, frame_of

TURNED = {"left": {"intervention": "none"}, "right": {"intervention": "shuffle"}}

# Seeds, look by look


def test_seeds_are_added_only_where_a_claim_is_open() -> None:
    claims = [
        {
            "name": "clear",
            "says": "x",
            "is": "beats",
            "where": {"method": "snip", "sparsity": 0.9},
            **SHUFFLE,
        },
        {"name": "close", "says": "x", "is": "beats", "by": 0.03, **SHUFFLE}
        | {"where": {"method": "synflow", "sparsity": 0.9}},
    ]
    form = study_of({**BASE, **GRID, "claim": claims})

    def accuracy(trial: Trial) -> float:
        return 0.8 + ({"snip": 0.1, "synflow": 0.03}.get(trial.method, 0.0) if trial.intervention else 0.0)

    asked: dict[Trial, int] = {}

    def frame_for(variants: Sequence[Trial], seeds: int) -> Frame:
        for variant in variants:
            asked[variant] = max(seeds, asked.get(variant, 0))
        return frame_of(form, accuracy, seeds=seeds, scale=0.004)[0]

    decisions = {d.name: d for d in decide_in_looks(form.claim, frame_for, grid_of(form).variants)}
    assert decisions["clear"].verdict is Verdict.SUPPORTED
    assert decisions["clear"].cells[0].seeds == 5
    most = {method: max(n for v, n in asked.items() if v.method == method) for method in ("snip", "synflow")}
    assert most["snip"] == 5
    assert most["synflow"] in Looks().seeds[1:]
    assert {v.method for v in asked} == {"snip", "synflow", DENSE, "random-uniform"}
    assert {variant_of(v) for v in asked} == set(asked)


def test_a_positive_control_gets_its_seeds_too() -> None:
    """Magnitude after training beside its shuffle can show that a setting tells good from bad; as the claims' own."""
    trained = "magnitude-after-training"
    claim = {"name": "1", "says": "x", "is": "beats", "where": {"method": "snip", "sparsity": 0.9}, **SHUFFLE}
    form = study_of({**BASE, **GRID, "methods": ["snip", trained], "claim": [claim]})
    needed = needed_by(form.claim[0], grid_of(form).variants)
    assert {(v.method, v.intervention) for v in needed if v.sparsity == 0.9} == {
        ("snip", None), ("snip", "shuffle"), ("random-uniform", None), (trained, None), (trained, "shuffle"),
    }  # fmt: skip


CALLS: list[int] = []


def called_at(claim: object, setting: Setting, variants: Sequence[Trial]) -> object:
    """A claim of one's own that never decides."""
    CALLS.append(len({seed for row in setting.frame.rows.values() for seed in row if seed < 1001}))
    pairs = Pairs((0, 1, 2, 3, 4), (0.02, -0.02, 0.01, -0.01, 0.0))
    return judge(Beats("a", "b"), pairs, margin=Margin(0.001))


def test_a_claim_without_a_sequential_form_is_judged_once_on_the_first_look() -> None:
    CALLS.clear()
    claim = {"name": "1", "says": "x", "kind": "function", "function": "test_study_looks:called_at"}
    form = study_of({**BASE, **GRID, "claim": [claim]})
    decide_in_looks(
        form.claim, lambda variants, seeds: frame_of(form, lambda t: 0.8, seeds=30)[0], grid_of(form).variants
    )
    assert CALLS == [5]


def test_the_left_side_need_not_say_that_it_is_a_ticket() -> None:
    claim = {"name": "1", "says": "x", "is": "beats", **TURNED}
    form = study_of({**BASE, **GRID, "claim": [claim]})
    check(form, grid_of(form).variants)
    assert {v.method for v in needed_by(form.claim[0], grid_of(form).variants) if v.intervention} == {
        "snip", "synflow", "magnitude",
    }  # fmt: skip


def test_dense_networks_are_held_to_a_margin_that_is_given() -> None:
    recipes = ["digits:epochs=2", "digits:epochs=4"]
    claim = {
        "name": "1", "says": "x", "is": "at-least", "left": {"recipe": recipes[1]}, "right": {"recipe": recipes[0]},
        "where": {"method": DENSE},
    }  # fmt: skip
    form = study_of({**BASE, **GRID, "recipe": recipes, "claim": [claim]})
    with pytest.raises(DisbudError, match="compares dense networks"):
        check(form, grid_of(form).variants)
    form = study_of({**BASE, **GRID, "recipe": recipes, "claim": [{**claim, "margin": 0.01}]})
    frame, variants = frame_of(form, lambda t: 0.8, seeds=5)
    check(form, variants)
    [decision] = decide(form.claim, frame, variants)
    assert decision.verdict is Verdict.SUPPORTED, decision


# What is refused


def beats(left: str, right: str) -> dict[str, object]:
    return {"name": "1", "says": "x", "is": "beats", "left": {"method": left}, "right": {"method": right}}


FEW = {"name": "1", "says": "x", "kind": "grows", **SHUFFLE, "where": {"sparsity": [0.9, 0.98]}}
NOWHERE = {"name": "1", "says": "x", "kind": "function", "function": "nowhere:at_all"}


def about(**keys: object) -> list[object]:
    return [{"name": "1", "says": "x", **keys}]


ALONG = {
    "kind": "grows",
    "along": "model",
    "where": {"model": ["resnet20"]},
    "left": {"intervention": "shuffle", "model": "lenet-300-100"},
    "right": {"intervention": "none"},
}


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        (
            about(**{"is": "same"}, value="paths.nodes", **SHUFFLE),
            "say within what paths.nodes counts as the same",
        ),
        (about(**{"is": "same"}, margin=0.0, **SHUFFLE), "equal to within 0"),
        (about(**{"is": "at-least"}, margin=5.0, **SHUFFLE), "margin = 5 is more than all"),
        (about(**{"is": "beats"}, by=2.0, **SHUFFLE), "by = 2 is more than all"),
        (about(**{"is": "beats"}, value="accurracy", **SHUFFLE), "no value 'accurracy'"),
        (about(**{"is": "beats"}, value="signal.mean", **SHUFFLE), 'needs the measure "signal"'),
        (about(kind="predicts", x="paths.nodes", strata=["sparsty"]), "no stratum 'sparsty'"),
        (about(kind="bound", value="loss", most=1.0, where={"method": "grasp"}), "runs nothing there"),
        (about(kind="predicts", x="loss", where={"method": "grasp"}), "runs no tickets there"),
        (
            about(**{"is": "beats"}, where={"method": ["snip", "synflwo"]}, **SHUFFLE),
            "did you mean 'synflow'",
        ),
        (
            about(**{"is": "beats"}, left={"method": "dense"}, right={"method": "snip"}),
            "claim 1: .* on the left",
        ),
        (about(**ALONG), "`where` does not list lenet-300-100"),
        ([beats("grasp", "snip")], "runs nothing of"),
        ([beats("snip", "grasp")], "does not run; add it"),
        ([beats("snip", "snip")], "are the same"),
        ([beats("snip", "synflow")] * 2, "two claims are called"),
        ([NOWHERE], "no function"),
        ([FEW], "3 sparsities"),
    ],
)
def test_claims_that_could_never_be_judged_are_refused_before_anything_is_run(
    claims: list[object], says: str
) -> None:
    form = study_of({**BASE, **GRID, "measures": ["paths"], "claim": claims})
    with pytest.raises(DisbudError, match=says):
        check(form, grid_of(form).variants)


def test_without_controls_a_claim_needs_a_margin() -> None:
    form = study_of(
        {**BASE, **GRID, "controls": False, "claim": [{"name": "1", "says": "x", "is": "same", **SHUFFLE}]}
    )
    with pytest.raises(DisbudError, match="give margin"):
        check(form, grid_of(form).variants)
