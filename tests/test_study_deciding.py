"""From records to decisions: claims of each kind on numbers made up for them, held to scipy and to what is known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from scipy import stats

from disbud import DisbudError
from disbud.claims import Verdict
from disbud.study import InProcess, Seeds, Study, Trial
from disbud.study.datasets import guessing
from disbud.study.deciding import check, decide
from disbud.study.findings import Decision
from disbud.study.frame import Frame
from disbud.study.record import Record
from disbud.study.specification import study_of
from disbud.study.trial import DENSE
from study_frames import BASE, GRID, LEVEL, SHUFFLE, Accuracy, frame_of, noise


def one(
    claim: dict[str, object],
    accuracy: Accuracy,
    *,
    seeds: int = 8,
    measured: Mapping[str, Accuracy] | None = None,
) -> Decision:
    form = study_of({**BASE, **GRID, "measures": ["paths"], "claim": [{"name": "1", "says": "x", **claim}]})
    frame, variants = frame_of(form, accuracy, seeds=seeds, measured=measured)
    check(form, variants)
    return decide(form.claim, frame, variants)[0]


def constant(trial: Trial) -> float:
    return 0.9


def test_a_cell_is_the_paired_t_interval_of_its_differences() -> None:
    form = study_of({**BASE, **GRID, "claim": [{"name": "1", "says": "x", "is": "beats", **SHUFFLE}]})
    frame, variants = frame_of(form, lambda t: 0.9 + (0.01 if t.intervention else 0.0), seeds=8, scale=0.004)
    [decision] = decide(form.claim, frame, variants)
    assert len(decision.cells) == 9
    assert {cell.name for cell in decision.cells} >= {"snip at 90 %", "magnitude at 98 %"}
    for cell in decision.cells:
        method, _, sparsity = cell.name.partition(" at ")
        base = Trial("lenet-300-100", "digits", "digits:epochs=2", method, float(sparsity[:-2]) / 100)
        values = {r.trial: r.accuracy for r in frame.records}
        gaps = [
            values[replace(base, intervention="shuffle", seeds=Seeds.all(s))]
            - values[replace(base, seeds=Seeds.all(s))]  # type: ignore[operator]
            for s in range(8)
        ]
        wanted = stats.t.interval(0.95, 7, loc=numpy.mean(gaps), scale=stats.sem(gaps))
        assert (cell.low, cell.high) == pytest.approx(wanted, abs=1e-9)
        assert cell.estimate == pytest.approx(numpy.mean(gaps))
        # a tenth of dense less random-uniform on the calibration seeds
        assert cell.margin == pytest.approx(0.028, abs=0.002)


@pytest.mark.parametrize(
    ("verb", "by", "gain", "verdict"),
    [
        ("same", None, 0.0, Verdict.SUPPORTED),
        ("same", None, -0.1, Verdict.CONTRADICTED),
        ("at-least", None, 0.2, Verdict.SUPPORTED),
        ("at-least", None, -0.1, Verdict.CONTRADICTED),
        ("beats", None, 0.01, Verdict.SUPPORTED),
        ("beats", 0.02, 0.05, Verdict.SUPPORTED),
        ("beats", 0.06, 0.03, Verdict.CONTRADICTED),
        ("loses-at-most", 0.02, -0.01, Verdict.SUPPORTED),
        ("loses-at-most", 0.02, -0.04, Verdict.CONTRADICTED),
    ],
)
def test_each_verb_decides(verb: str, by: float | None, gain: float, verdict: Verdict) -> None:
    claim = {"is": verb, **SHUFFLE, **({} if by is None else {"by": by})}
    found = one(claim, lambda t: 0.7 + (gain if t.intervention else 0.0))
    assert found.verdict is verdict
    assert found.p is not None
    assert found.p <= 0.05


def test_for_all_fails_where_one_cell_does_and_there_is_holds() -> None:
    def accuracy(trial: Trial) -> float:
        return 0.8 - (
            0.1 if trial.intervention and trial.method == "snip" and trial.sparsity == 0.98 else 0.0
        )

    claim = {"is": "at-least", **SHUFFLE}
    assert one(claim, accuracy).verdict is Verdict.CONTRADICTED
    assert one({**claim, "wanted": "there is"}, accuracy).verdict is Verdict.SUPPORTED
    assert (
        one({**claim, "where": {"method": ["synflow", "magnitude"]}}, accuracy).verdict is Verdict.SUPPORTED
    )
    assert one({**claim, "where": {"sparsity": [0.9, 0.95]}}, accuracy).verdict is Verdict.SUPPORTED


def test_methods_are_held_beside_each_other_and_to_the_dense_network() -> None:
    def accuracy(trial: Trial) -> float:
        return {"snip": 0.9, "synflow": 0.85, "magnitude": 0.8}[trial.method]

    against = {"left": {"method": "snip"}, "right": {"method": ["synflow", "magnitude"]}, "is": "beats"}
    found = one(against, accuracy)
    assert found.verdict is Verdict.SUPPORTED
    assert {cell.name for cell in found.cells} >= {
        "snip at 90 % against synflow",
        "snip at 98 % against magnitude",
    } or {cell.name for cell in found.cells} >= {"at 90 % against synflow", "at 98 % against magnitude"}
    assert len(found.cells) == 6
    dense = {
        "left": {"method": DENSE},
        "right": {"method": "magnitude", "sparsity": 0.9},
        "is": "beats",
        "by": 0.1,
    }
    assert one(dense, accuracy).verdict is Verdict.SUPPORTED


def test_nothing_is_shown_where_random_pruning_costs_nothing() -> None:
    form = study_of({**BASE, **GRID, "claim": [{"name": "1", "says": "x", "is": "same", **SHUFFLE}]})
    frame, variants = frame_of(form, constant, seeds=6)
    controls = [r for r in frame.records if r.trial.method in LEVEL]
    level = {r.trial: 0.93 + noise(r.trial, 0.0001) for r in controls}
    easy = tuple(replace(r, accuracy=level.get(r.trial, r.accuracy)) for r in frame.records)
    frame = Frame(easy, frame.numbers)
    assert decide(form.claim, frame, variants)[0].verdict is Verdict.UNINFORMATIVE


@pytest.mark.parametrize(
    ("plain", "altered", "verdict"),
    [
        (0.101, 0.101, Verdict.UNINFORMATIVE),
        (0.101, 0.5, Verdict.SUPPORTED),
        (0.5, 0.101, Verdict.CONTRADICTED),
        (0.5, 0.5, Verdict.SUPPORTED),
    ],
)
def test_two_sides_that_only_guess_are_no_evidence_that_they_do_as_well(
    plain: float, altered: float, verdict: Verdict
) -> None:
    found = one({"is": "at-least", **SHUFFLE}, lambda t: altered if t.intervention else plain)
    assert {cell.verdict for cell in found.cells} == {verdict} == {found.verdict}
    if verdict is Verdict.UNINFORMATIVE:
        assert all("neither side is above guessing, 10 %" in cell.words for cell in found.cells)


def test_what_guesses_may_still_be_held_to_other_values() -> None:
    claim = {"is": "beats", "value": "paths.nodes", **SHUFFLE}
    nodes = {"nodes": lambda t: 200.0 if t.intervention else 100.0}
    assert one(claim, lambda t: 0.1, measured=nodes).verdict is Verdict.SUPPORTED


def test_the_chance_of_a_run_study_is_that_of_its_data(tmp_path: Path) -> None:
    claim = {"name": "1", "says": "x", "is": "same", "margin": 0.2, **SHUFFLE}
    study = Study(
        **{**BASE, "recipe": "digits:epochs=1,lr=1e-9"}, methods="magnitude", sparsities=0.9, controls=False,
        interventions=["none", "shuffle"], seeds=3, claim=[claim],
    )  # fmt: skip
    [decision] = study.run(store=tmp_path, engine=InProcess()).decisions
    assert decision.verdict is Verdict.UNINFORMATIVE
    assert "guessing, 10 %" in decision.words
    assert guessing("shapes:classes=4", 0) == 0.25


def test_a_growing_gap_is_told_from_a_steady_one() -> None:
    def growing(trial: Trial) -> float:
        step = {0.9: 0, 0.95: 1, 0.98: 2}[trial.sparsity or 0.9]
        return 0.8 + (0.02 * step if trial.intervention else 0.0)

    claim = {"kind": "grows", **SHUFFLE}
    found = one(claim, growing)
    assert found.verdict is Verdict.SUPPORTED
    assert [cell.name for cell in found.cells] == ["snip", "synflow", "magnitude"]
    assert found.cells[0].estimate == pytest.approx(0.02, abs=0.002)
    assert one(claim, constant).verdict is not Verdict.SUPPORTED
    assert one(claim, lambda t: 1.6 - growing(t)).verdict is Verdict.CONTRADICTED


def test_a_gap_may_grow_along_models_in_the_order_they_are_listed_in() -> None:
    widths = ["mlp:hidden=20", "mlp:hidden=40", "mlp:hidden=80"]

    def accuracy(trial: Trial) -> float:
        return 0.8 + 0.03 * widths.index(trial.model)

    def found(models: list[str]) -> Decision:
        where = {"model": models, "sparsity": 0.9}
        claim = {
            "kind": "grows",
            "along": "model",
            "where": where,
            "left": {"method": "snip"},
            "right": {"method": "random-erk"},
        }
        form = study_of(
            {
                **BASE,
                "model": widths,
                "methods": "snip",
                "sparsities": 0.9,
                "claim": [{"name": "1", "says": "x", **claim}],
            }
        )
        frame, variants = frame_of(form, accuracy, seeds=6)
        check(form, variants)
        return decide(form.claim, frame, variants)[0]

    assert found(widths).verdict is Verdict.SUPPORTED
    assert found(widths[::-1]).verdict is Verdict.CONTRADICTED
    with pytest.raises(DisbudError, match="3 models"):
        found(widths[:2])


def test_a_crossover_is_found_where_it_is() -> None:
    def accuracy(trial: Trial) -> float:
        return 0.8 + (
            {0.9: 0.03, 0.95: 0.01, 0.98: -0.04}[trial.sparsity or 0.9] if trial.intervention else 0.0
        )

    found = one({"kind": "crossover", **SHUFFLE, "where": {"method": "snip"}}, accuracy)
    assert found.verdict is Verdict.SUPPORTED
    [cell] = found.cells
    assert cell.estimate is not None
    assert 0.95 < cell.estimate < 0.98
    assert one({"kind": "crossover", **SHUFFLE}, constant).verdict is not Verdict.SUPPORTED


def test_a_bound_holds_the_mean_over_seeds() -> None:
    measured = {"nodes": lambda t: 100 + 10 * (t.sparsity or 0) + t.seeds.init % 3}
    bound = {"kind": "bound", "value": "paths.nodes", "where": {"method": "snip"}}
    assert one({**bound, "most": 115}, constant, measured=measured).verdict is Verdict.SUPPORTED
    assert one({**bound, "least": 115}, constant, measured=measured).verdict is Verdict.CONTRADICTED
    assert one({**bound, "least": 105}, constant, measured=measured).verdict is Verdict.SUPPORTED


def test_what_predicts_accuracy_within_strata_is_told_from_what_does_not() -> None:
    quality = {"snip": 1, "synflow": 2, "magnitude": 3}

    def accuracy(trial: Trial) -> float:
        return (
            0.9
            - (trial.sparsity or 0) / 4
            + 0.02 * quality[trial.method]
            + (0.005 if trial.intervention else 0)
        )

    measured: dict[str, Accuracy] = {
        "nodes": lambda t: (
            1e4 * (t.sparsity or 0) + 10 * quality.get(t.method, 0) + (2 if t.intervention else 0)
        ),
        "noise": lambda t: noise(replace(t, data="digits"), 1.0),
    }
    where = {"method": list(quality), "intervention": ["none", "shuffle"]}
    claim = {"kind": "predicts", "x": "paths.nodes", "where": where}
    found = one(claim, accuracy, measured=measured)
    assert found.verdict is Verdict.SUPPORTED
    assert one({**claim, "sign": "falls"}, accuracy, measured=measured).verdict is Verdict.CONTRADICTED
    assert one({**claim, "x": "paths.noise"}, accuracy, measured=measured).verdict is Verdict.UNDECIDED
    rather = one({**claim, "rather_than": "paths.noise"}, accuracy, measured=measured)
    assert rather.cells[0].estimate is not None
    assert rather.cells[0].unit == "correlations"
    # without strata, sparsity makes nodes rise as accuracy falls
    assert one({**claim, "strata": []}, accuracy, measured=measured).verdict is not Verdict.SUPPORTED


def counts(claim: object, setting: object, variants: Sequence[Trial]) -> object:
    """A claim of one's own: is imported by its name."""
    from disbud.claims import Margin, Pairs, judge
    from disbud.claims.statements import Beats

    return judge(Beats("a", "b"), Pairs((0, 1, 2, 3), (0.02, 0.021, 0.02, 0.019)), margin=Margin(0.001))


def test_a_function_of_ones_own_decides_and_an_untested_claim_is_listed() -> None:
    found = one({"kind": "function", "function": "test_study_deciding:counts"}, constant)
    assert found.verdict is Verdict.SUPPORTED
    listed = one({"kind": "untested", "why": "no such method yet"}, constant)
    assert listed.verdict is None
    assert listed.words == "no such method yet"


def test_many_claims_are_corrected_together() -> None:
    claims = [
        {"name": str(i), "says": "x", "is": "beats", "where": {"method": "snip", "sparsity": 0.9}, **SHUFFLE}
        for i in range(30)
    ]
    form = study_of({**BASE, **GRID, "claim": claims})

    def accuracy(trial: Trial) -> float:
        return 0.8 + (0.004 if trial.intervention else 0.0)

    frame, variants = frame_of(form, accuracy, seeds=4, scale=0.0018)
    alone = decide(form.claim[:1], frame, variants)[0]
    together = decide(form.claim, frame, variants)[0]
    assert alone.verdict is Verdict.SUPPORTED
    assert alone.p is not None
    assert 0.05 / 30 < alone.p <= 0.05
    assert together.verdict is Verdict.UNDECIDED


def test_failed_trials_are_left_out_and_too_few_seeds_decide_nothing() -> None:
    form = study_of({**BASE, **GRID, "claim": [{"name": "1", "says": "x", "is": "beats", **SHUFFLE}]})
    frame, variants = frame_of(form, lambda t: 0.8 + (0.1 if t.intervention else 0.0), seeds=5)
    snip = [r for r in frame.records if r.trial.method == "snip" and r.trial.intervention]
    failed = {r.trial for r in snip if r.trial.seeds.init < 3}
    broken = Frame(
        tuple(
            Record(r.trial, r.identity, error="it broke") if r.trial in failed else r for r in frame.records
        ),
        frame.numbers,
    )
    [decision] = decide(form.claim, broken, variants)
    by = {cell.name: cell for cell in decision.cells}
    assert by["snip at 90 %"].verdict is Verdict.UNDECIDED
    assert "2 seeds of both sides; 3 are the least" in by["snip at 90 %"].words
    assert by["synflow at 90 %"].verdict is Verdict.SUPPORTED
    assert decision.verdict is Verdict.UNDECIDED


def test_a_diverged_loss_counts_as_guessing() -> None:
    form = study_of(
        {**BASE, **GRID, "claim": [{"name": "1", "says": "x", "is": "beats", "value": "loss", **SHUFFLE}]}
    )
    frame, variants = frame_of(form, constant, seeds=4)
    records = tuple(
        replace(r, accuracy=0.1, loss=math.inf, diverged="at step 3")
        if r.trial.intervention and r.trial.method == "snip"
        else r
        for r in frame.records
    )
    [decision] = decide(form.claim, Frame(records, frame.numbers), variants)
    cell = next(cell for cell in decision.cells if cell.name == "snip at 90 %")
    assert cell.estimate == pytest.approx(-math.log(0.1) - 0.1, abs=0.05)
