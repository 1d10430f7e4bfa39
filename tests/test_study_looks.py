"""Which seeds a study adds, look by look, and the claims it refuses before anything is run."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from disbud import DisbudError
from disbud.claims import Looks, Verdict
from disbud.study import Trial
from disbud.study.deciding import check, decide_in_looks
from disbud.study.frame import Frame, variant_of
from disbud.study.specification import grid_of, study_of
from disbud.study.trial import DENSE
from study_frames import BASE, GRID, SHUFFLE, frame_of

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


# What is refused


def beats(left: str, right: str) -> dict[str, object]:
    return {"name": "1", "says": "x", "is": "beats", "left": {"method": left}, "right": {"method": right}}


FEW = {"name": "1", "says": "x", "kind": "grows", **SHUFFLE, "where": {"sparsity": [0.9, 0.98]}}
NOWHERE = {"name": "1", "says": "x", "kind": "function", "function": "nowhere:at_all"}


@pytest.mark.parametrize(
    ("claims", "says"),
    [
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
    form = study_of({**BASE, **GRID, "claim": claims})
    with pytest.raises(DisbudError, match=says):
        check(form.claim, grid_of(form).variants, can_judge=True)


def test_without_controls_a_claim_needs_a_margin() -> None:
    form = study_of(
        {**BASE, **GRID, "controls": False, "claim": [{"name": "1", "says": "x", "is": "same", **SHUFFLE}]}
    )
    with pytest.raises(DisbudError, match="give margin"):
        check(form.claim, grid_of(form).variants, can_judge=False)
