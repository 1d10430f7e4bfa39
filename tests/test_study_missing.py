"""Decisions where evidence is missing, undefined or odd: one claim waits and says why, the others are decided."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from scipy import stats

from disbud.claims import Verdict
from disbud.study import Trial
from disbud.study.deciding import decide
from disbud.study.findings import Decision
from disbud.study.frame import FIRST_CALIBRATION, Frame
from disbud.study.record import Record
from disbud.study.specification import study_of
from disbud.study.trial import DENSE, SMALL_DENSE
from study_frames import BASE, GRID, SHUFFLE, frame_of

BEATS: dict[str, object] = {"name": "beats", "says": "x", "is": "beats", **SHUFFLE}
QUALITY = {"snip": 1, "synflow": 2, "magnitude": 3}


def decided(
    claims: Sequence[dict[str, object]],
    change: Callable[[Record], Record | None],
    *,
    accuracy: Callable[[Trial], float] = lambda t: 0.8 + (0.05 if t.intervention else 0.0),
    seeds: int = 5,
    **study: object,
) -> dict[str, Decision]:
    form = study_of({**BASE, **GRID, "measures": ["paths"], "claim": list(claims), **study})
    measured = {
        "log10_paths": lambda t: 10.0 - (3.0 if t.intervention else 0.0) + t.seeds.init / 10,
        "nodes": lambda t: 100.0 + 10 * QUALITY.get(t.method, 0) + (1 if t.intervention else 0),
    }
    frame, variants = frame_of(form, accuracy, seeds=seeds, measured=measured)
    records = tuple(found for record in frame.records if (found := change(record)) is not None)
    return {d.name: d for d in decide(form.claim, Frame(records, frame.numbers), variants)}


def summary(record: Record, **changes: object) -> Record:
    paths = record.measures["paths"]
    table = {**paths, "summary": {**paths["summary"], **changes}}  # type: ignore[dict-item]
    return replace(record, measures={"paths": table})  # type: ignore[dict-item]


def test_on_part_of_the_trials_what_is_there_is_decided_and_the_rest_waits() -> None:
    found = decided([BEATS], lambda r: r if r.trial.method in ("snip", "random-uniform", DENSE) else None)
    by = {cell.name: cell for cell in found["beats"].cells}
    assert by["snip at 90 %"].verdict is Verdict.SUPPORTED
    assert by["synflow at 90 %"].words == "0 seeds of both sides; 3 are the least"
    nothing = decided([BEATS], lambda r: None)
    assert {cell.verdict for cell in nothing["beats"].cells} == {Verdict.UNDECIDED}


def test_where_the_trials_for_margins_failed_the_error_is_said() -> None:
    def break_dense(record: Record) -> Record:
        if record.trial.method == DENSE and record.trial.seeds.init >= FIRST_CALIBRATION:
            return Record(record.trial, record.identity, error="RuntimeError: no memory left")
        return record

    found = decided([BEATS, {**BEATS, "name": "given", "margin": 0.01}], break_dense)
    assert "failed: RuntimeError: no memory left" in found["beats"].cells[0].words
    assert found["given"].verdict is Verdict.SUPPORTED


@pytest.mark.parametrize("value", ["paths.log10_paths", "paths.nodes"])
def test_a_measure_that_was_not_taken_costs_its_seed_and_no_other_claim(value: str) -> None:
    def untaken(record: Record) -> Record:
        odd = record.trial.method == "snip" and record.trial.seeds.init == 0
        return replace(record, measures={}) if odd else record

    reverse = {
        "left": {"intervention": "none"},
        "right": {"intervention": "shuffle"},
        "where": {"method": "snip"},
    }
    claims = [{**BEATS, **reverse, "name": "paths", "value": value}, BEATS]
    found = decided(claims, untaken)
    assert {cell.seeds for cell in found["paths"].cells} == {4}
    assert found["beats"].verdict is Verdict.SUPPORTED


def test_a_ticket_without_any_path_counts_as_one_path_and_ranks_last() -> None:
    """Its log10 is minus infinity, and null in JSON."""
    cut = lambda r: summary(r, log10_paths=None) if r.trial.intervention and r.trial.seeds.init == 0 else r  # noqa: E731
    where = {"intervention": ["none", "shuffle"]}
    fewer = {"left": {"intervention": "none"}, "right": {"intervention": "shuffle"}}
    claims: list[dict[str, object]] = [
        {"name": "paths", "says": "x", "is": "beats", "value": "paths.log10_paths", **fewer},
        {"name": "predicts", "says": "x", "kind": "predicts", "x": "paths.log10_paths", "where": where},
    ]
    found = decided(claims, cut)
    cell = next(cell for cell in found["paths"].cells if cell.name == "snip at 90 %")
    gaps = [10.0, 3.0, 3.0, 3.0, 3.0]
    assert (cell.estimate, cell.seeds) == (pytest.approx(sum(gaps) / 5), 5)
    interval = stats.t.interval(0.95, 4, loc=sum(gaps) / 5, scale=stats.sem(gaps))
    assert (cell.low, cell.high) == pytest.approx(interval)
    assert found["predicts"].verdict is Verdict.CONTRADICTED  # more paths, less accuracy
    assert "120 points" in found["predicts"].words


def test_runs_that_diverged_are_counted_and_said() -> None:
    def diverge(record: Record) -> Record:
        if record.trial.intervention and record.trial.seeds.init == 0:
            return replace(record, accuracy=0.1, loss=math.inf, diverged="at step 3")
        return record

    bound = {"name": "bound", "says": "x", "kind": "bound", "value": "loss", "most": 1.0}
    where = {"method": "snip", "intervention": "shuffle"}
    found = decided([BEATS, {**bound, "where": where}], diverge)
    assert all("1 diverged run counted in" in cell.words for cell in found["beats"].cells)
    assert all(cell.seeds == 5 for cell in found["bound"].cells)
    assert found["bound"].verdict is Verdict.UNDECIDED  # four of .15, and guessing's 2.3


def test_of_other_values_than_accuracy_it_is_said_which_is_above() -> None:
    claim = {
        **BEATS,
        "name": "loss",
        "value": "loss",
        "left": {"intervention": "none"},
        "right": {"intervention": "shuffle"},
    }
    found = decided([claim], lambda r: r)["loss"]
    assert found.verdict is Verdict.SUPPORTED
    assert "unaltered is above shuffle" in found.cells[0].words


def test_a_narrow_dense_network_is_no_ticket() -> None:
    """It has few nodes and does well: as a ticket it would hide that nodes go with accuracy."""

    def narrow(record: Record) -> Record:
        return summary(record, nodes=1) if record.trial.method == SMALL_DENSE else record

    def accuracy(trial: Trial) -> float:
        return 0.7 + 0.04 * QUALITY[trial.method]

    claim = {"name": "nodes", "says": "x", "kind": "predicts", "x": "paths.nodes"}
    methods = [*QUALITY, SMALL_DENSE]
    given = {"methods": methods, "interventions": "none", "controls": False, "margin": 0.01}
    found = decided([claim], narrow, accuracy=accuracy, **given)["nodes"]
    assert "3 methods as clusters" in found.words
    assert (found.cells[0].estimate or 0) > 0.85


def test_a_correlation_is_shown_as_itself_and_not_as_the_middle_of_its_interval() -> None:
    def accuracy(trial: Trial) -> float:
        return 0.7 + 0.004 * hash_of(trial.method) + (0.002 if trial.intervention else 0)

    def hash_of(method: str) -> int:
        return {"snip": 3, "synflow": 1, "magnitude": 2}.get(method, 0)

    claim = {
        "name": "nodes", "says": "x", "kind": "predicts", "x": "paths.nodes",
        "where": {"method": list(QUALITY), "intervention": ["none", "shuffle"]},
    }  # fmt: skip
    cell = decided([claim], lambda r: r, accuracy=accuracy)["nodes"].cells[0]
    assert cell.estimate is not None
    assert f"rank correlation {cell.estimate:+.2f}" in cell.words


def raises(claim: object, setting: object, variants: Sequence[Trial]) -> object:
    raise KeyError("no such layer")


def says_nothing(claim: object, setting: object, variants: Sequence[Trial]) -> object:
    return "yes"


def test_what_goes_wrong_in_a_function_of_ones_own_costs_no_other_claim() -> None:
    claims = [
        {"name": name, "says": "x", "kind": "function", "function": f"test_study_missing:{name}"}
        for name in ("raises", "says_nothing")
    ]
    found = decided([*claims, BEATS], lambda r: r)
    assert found["raises"].verdict is Verdict.UNDECIDED
    assert "raised KeyError: 'no such layer'" in found["raises"].words
    assert "returned a str without verdict, p_supported" in found["says_nothing"].words
    assert found["beats"].verdict is Verdict.SUPPORTED


def test_cells_of_sparsities_that_lie_close_are_told_apart() -> None:
    sparsities = [0.9999, 0.99994, 0.999]
    claim = {
        "name": "b",
        "says": "x",
        "kind": "bound",
        "value": "accuracy",
        "least": 0.5,
        "where": {"method": "snip"},
    }
    accuracy = {0.9999: 0.9, 0.99994: 0.1, 0.999: 0.9}
    found = decided(
        [claim], lambda r: r, accuracy=lambda t: accuracy[t.sparsity or 0], sparsities=sparsities, seeds=8
    )["b"]
    assert [cell.name for cell in found.cells] == ["at 99.99 %", "at 99.994 %", "at 99.9 %"]
    assert found.verdict is Verdict.CONTRADICTED


@pytest.mark.parametrize("kind", ["grows", "crossover"])
def test_each_right_side_is_a_run_of_its_own(kind: str) -> None:
    """SNIP's lead over SynFlow grows and changes sign; that over magnitude does neither."""

    def accuracy(trial: Trial) -> float:
        step = {0.9: -1, 0.95: 0.2, 0.98: 1}[trial.sparsity or 0.9]
        return {"snip": 0.8 + 0.03 * step, "synflow": 0.8, "magnitude": 0.6 + 0.03 * step}[trial.method]

    claim = {
        "name": "1", "says": "x", "kind": kind, "wanted": "there is",
        "left": {"method": "snip"}, "right": {"method": ["synflow", "magnitude"]},
    }  # fmt: skip
    found = decided([claim], lambda r: r, accuracy=accuracy, seeds=8)["1"]
    by = {cell.name: cell.verdict for cell in found.cells}
    assert set(by) == {"snip against synflow", "snip against magnitude"}
    assert by["snip against synflow"] is Verdict.SUPPORTED
    assert by["snip against magnitude"] is not Verdict.SUPPORTED


def test_a_crossing_has_a_direction() -> None:
    def accuracy(trial: Trial) -> float:
        return 0.8 + (
            {0.9: -0.03, 0.95: 0.01, 0.98: 0.04}[trial.sparsity or 0.9] if trial.intervention else 0
        )

    claim = {"says": "x", "kind": "crossover", "where": {"method": "snip"}, **SHUFFLE}
    ways: list[dict[str, object]] = [{"name": "falls", "sign": "falls"}, {"name": "rises", "sign": "rises"}]
    found = decided([{**claim, **way} for way in ways], lambda r: r, accuracy=accuracy, seeds=8)
    assert found["rises"].verdict is Verdict.SUPPORTED
    assert found["falls"].verdict is Verdict.CONTRADICTED
