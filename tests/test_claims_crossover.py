"""Crossover points: against the t tests that define them, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from claim_cases import error
from disbud import DisbudError, claims

Array = NDArray[np.float64]


def lines(at: Array, cross: float, slope: float, noise: float, *, seeds: int, run: int) -> Array:
    stream = np.random.default_rng(run)
    own = stream.normal(0, noise, (seeds, 1)) + stream.normal(0, noise, (seeds, len(at)))
    return slope * (at - cross) + own


@pytest.mark.parametrize("run", range(12))
def test_the_set_is_where_a_t_test_accepts(run: int) -> None:
    at = np.array([0.0, 1.0, 1.5, 3.0, 4.0])
    table = lines(at, 2.2, -1.0 if run % 2 else 0.2, 0.6, seeds=5 + run, run=run)
    found = claims.crossover(at, table)
    fine = np.linspace(0, 4, 4001)
    between = np.array([np.interp(fine, at, row) for row in table])
    inside = stats.ttest_1samp(between, 0).pvalue > 0.05
    pieces = int(inside[0]) + int((np.diff(inside.astype(int)) == 1).sum())
    assert found.parts == pieces
    assert found.low == (None if inside[0] or not pieces else pytest.approx(fine[inside][0], abs=2e-3))
    assert found.high == (None if inside[-1] or not pieces else pytest.approx(fine[inside][-1], abs=2e-3))
    mean = between.mean(0)
    signs = np.flatnonzero(np.diff(np.sign(mean)))
    assert found.points == pytest.approx([float(fine[i]) for i in signs], abs=2e-3)


@pytest.mark.parametrize("slope", [-1.0, -0.15])
def test_intervals_of_crossovers_cover_however_flat_the_curves(slope: float) -> None:
    runs, covered, at = 2_000, 0, np.array([0.0, 1.0, 2.0, 3.0])
    for run in range(runs):
        found = claims.crossover(at, lines(at, 1.4, slope, 0.5, seeds=6, run=run))
        low = found.low if found.low is not None else (-math.inf if found.parts else math.inf)
        high = found.high if found.high is not None else math.inf
        covered += low < 1.4 < high
    assert covered / runs >= 0.95 - error(0.95, runs)
    if slope == -1.0:  # a single piece: exact
        assert covered / runs <= 0.95 + error(0.95, runs)


def test_whether_there_is_a_crossing() -> None:
    at = np.array([0.9, 0.95, 0.98, 0.99])
    falls = lines(at, 0.97, -1.0, 0.001, seeds=6, run=0)
    found = claims.crossover(at, falls, names=("shuffle", "none"))
    assert found.verdict is claims.Verdict.SUPPORTED
    assert str(found).startswith("shuffle falls behind none at 0.9698, 95 % interval 0.969")
    assert "overtakes" in str(claims.crossover(at, -falls))
    above = claims.crossover(at, np.abs(falls) + 0.01)
    assert above.verdict is claims.Verdict.CONTRADICTED
    assert (above.points, above.low, above.high, above.parts) == ((), None, None, 0)
    assert "do not cross from 0.9 to 0.99: contradicted (6 seeds)" in str(above)
    vague = claims.crossover(at, lines(at, 0.97, -1.0, 0.5, seeds=6, run=0))
    assert vague.verdict is claims.Verdict.UNDECIDED
    assert "below 0.9" in str(vague) or "do not cross" in str(vague)


def test_a_crossing_the_other_way_is_not_the_one_that_is_claimed() -> None:
    at = np.array([0.9, 0.95, 0.98, 0.99])
    falls = lines(at, 0.97, -1.0, 0.001, seeds=6, run=0)
    for table, way, other in ((falls, "falls", "rises"), (-falls, "rises", "falls")):
        assert claims.crossover(at, table, direction=way).verdict is claims.Verdict.SUPPORTED
        assert claims.crossover(at, table, direction=other).verdict is claims.Verdict.CONTRADICTED
    above = np.abs(falls) + 0.01
    noise = np.random.default_rng(0).normal(0, 0.001, (6, 1))
    falls_and_rises = np.array([1, -1, -1, 1]) * 0.02 + noise
    for way in ("falls", "rises"):
        assert claims.crossover(at, above, direction=way).verdict is claims.Verdict.CONTRADICTED
        assert claims.crossover(at, falls_and_rises, direction=way).verdict is claims.Verdict.SUPPORTED
    with pytest.raises(DisbudError, match="'rises', 'falls' or None"):
        claims.crossover(at, falls, direction="down")  # type: ignore[arg-type]


def test_errors_of_a_directed_crossing_stay_at_their_level() -> None:
    """At the edge of either hypothesis: a rise whose one end is 0, and differences that are 0 throughout."""
    runs, at = 500, np.array([0.0, 1.0, 2.0, 3.0])
    found = for_it = against = 0
    for run in range(runs):
        draws = np.random.default_rng(run).normal(0, 0.5, (6, 4))
        rises = np.minimum(at - 1, 0) * 3  # below, then exactly 0: no fall
        found += claims.crossover(at, rises + draws, direction="falls").verdict is claims.Verdict.SUPPORTED
        flat = claims.crossover(at, draws, direction="falls").verdict
        for_it += flat is claims.Verdict.SUPPORTED
        falls = np.array([-9.0, 0.0, -1e-9, -9.0]) + draws  # below but for a place: a fall, if only just
        against += claims.crossover(at, falls, direction="falls").verdict is claims.Verdict.CONTRADICTED
    for wrong in (found, for_it, against):
        assert wrong / runs <= 0.05 + error(0.05, runs)


def test_crossings_are_not_found_where_there_are_none() -> None:
    runs, wrong, at = 2_000, 0, np.array([0.0, 1.0, 2.0, 3.0])
    for run in range(runs):
        touching = np.maximum(1.5 - at, 0) * 3  # above, and from 2 on exactly 0: no change of sign
        table = touching + np.random.default_rng(run).normal(0, 0.5, (6, 4))
        wrong += claims.crossover(at, table).verdict is claims.Verdict.SUPPORTED
    assert wrong / runs <= 0.05 + error(0.05, runs)
    assert wrong > 0


def test_a_crossing_on_a_position_and_one_in_log_density() -> None:
    table = np.array([[2.0, 0.0, -1.0], [2.1, 0.1, -1.1], [1.9, -0.1, -0.9]])
    assert claims.crossover([0, 1, 2], table).points == pytest.approx((1.0,))
    flat = np.array([[1.0, 0.0, 1.0], [1.0, 0.1, 1.0], [1.0, -0.1, 1.0]])
    assert claims.crossover([0, 1, 2], flat).points == ()  # touches, and does not cross
    ends = np.array([[1.0, -1.0], [1.1, -1.1], [0.9, -0.9]])
    found = claims.crossover([0.9, 0.99], ends, spacing="log-density")
    assert found.points[0] == pytest.approx(1 - math.sqrt(0.1 * 0.01))
    assert found.low == found.high == found.points[0]  # every seed crosses there
    assert claims.crossover([0.9, 0.99], ends).points[0] == pytest.approx(0.945)
    sizes, offsets = np.array([0.9, 0.95, 1.0, 1.05, 1.1]), np.array([[0], [0.1], [0], [-0.1], [0]])
    twice = claims.crossover([0, 1, 2], np.outer(sizes, [1, -1, 1]) + offsets)
    assert len(twice.points) == twice.parts == 2
    assert "crosses right at 0.5 and 1.5" in str(twice)


def test_what_has_no_crossover() -> None:
    for at in ([0.9], [0.9, 0.9], [0.95, 0.9]):
        with pytest.raises(DisbudError, match="rising positions"):
            claims.crossover(at, np.zeros((3, len(at))))
    with pytest.raises(DisbudError, match="row a seed"):
        claims.crossover([0.9, 0.95], np.zeros((3, 3)))
    with pytest.raises(DisbudError, match="row a seed"):
        claims.crossover([0.9, 0.95], np.zeros((1, 2)))
    with pytest.raises(DisbudError, match="finite"):
        claims.crossover([0.9, 0.95], [[1, math.nan], [1, 1]])
    with pytest.raises(DisbudError, match="from 0 to below 1"):
        claims.crossover([0.9, 1.0], np.zeros((3, 2)), spacing="log-density")
    with pytest.raises(DisbudError, match="'log-density'"):
        claims.crossover([0.9, 1.0], np.zeros((3, 2)), spacing="log")  # type: ignore[arg-type]
