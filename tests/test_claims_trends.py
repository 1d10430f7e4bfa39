"""Rank correlations, clusters and trends: against scipy, closed forms, enumeration and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from claim_cases import error
from disbud import DisbudError, claims

Array = NDArray[np.float64]


# Rank correlation


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [3, 8, 40])
def test_the_rank_correlation_is_that_of_scipy(n: int, ties: bool) -> None:
    stream = np.random.default_rng(n)
    x = stream.normal(size=n)
    y = x + stream.normal(size=n)
    if ties:
        x, y = np.round(x), np.round(y)
    theirs, ours = stats.spearmanr(x, y), claims.rank_correlation(x, y)
    assert (ours.value, ours.p) == pytest.approx((theirs.statistic, theirs.pvalue), rel=1e-9)


def test_a_perfect_correlation_has_p_zero() -> None:
    found = claims.rank_correlation([1, 2, 3, 4], [8, 4, 2, 1])
    assert (found.value, found.p) == (pytest.approx(-1), 0.0)


@pytest.mark.parametrize("held", [1, 3])
def test_the_partial_rank_correlation_is_that_of_the_inverse_correlation_matrix(held: int) -> None:
    stream = np.random.default_rng(held)
    given = stream.normal(size=(30, held))
    x, y = given.sum(1) + stream.normal(size=30), given @ np.arange(1, held + 1) + stream.normal(size=30)
    ours = claims.rank_correlation(x, y, given=given)
    ranks = [stats.rankdata(column) for column in (x, y, *given.T)]
    inverse = np.linalg.inv(np.corrcoef(ranks))
    r = -inverse[0, 1] / math.sqrt(inverse[0, 0] * inverse[1, 1])
    assert ours.value == pytest.approx(r, rel=1e-9)
    free = 30 - 2 - held
    p = 2 * stats.t.sf(abs(r) * math.sqrt(free / (1 - r * r)), free)
    assert ours.p == pytest.approx(p, rel=1e-9)
    assert abs(ours.value - claims.rank_correlation(x, y).value) > 0.1
    repeated = claims.rank_correlation(
        x, y, given=np.hstack([given, given])
    )  # columns that say the same count once
    assert (repeated.value, repeated.p) == pytest.approx((ours.value, ours.p), rel=1e-6)


def test_strata_leave_only_what_varies_within_them() -> None:
    # Within each sparsity more nodes go with less accuracy, over all of them with more.
    nodes, accuracy = [1, 2, 3, 11, 12, 13], [3, 2, 1, 13, 12, 11]
    assert claims.rank_correlation(nodes, accuracy).value > 0.5
    assert claims.rank_correlation(nodes, accuracy, strata=list("aaabbb")).value == pytest.approx(-1)


def test_the_correlation_within_strata_is_its_definition() -> None:
    stream = np.random.default_rng(2)
    x, y, strata = stream.normal(size=15), stream.normal(size=15), [0] * 4 + [1] * 6 + [2] * 5
    top = left = right = 0.0
    for stratum, size in ((0, 4), (1, 6), (2, 5)):
        rows = [i for i in range(15) if strata[i] == stratum]
        rx, ry = (stats.rankdata(v[rows]) / size for v in (x, y))
        top += ((rx - rx.mean()) * (ry - ry.mean())).sum()
        left += ((rx - rx.mean()) ** 2).sum()
        right += ((ry - ry.mean()) ** 2).sum()
    found = claims.rank_correlation(x, y, strata=strata)
    assert found.value == pytest.approx(top / math.sqrt(left * right))
    free = 15 - 3 - 1
    r = found.value
    assert found.p == pytest.approx(2 * stats.t.sf(abs(r) * math.sqrt(free / (1 - r * r)), free))


def test_the_p_value_of_a_partial_correlation_within_strata_is_level() -> None:
    runs, strata = 4_000, [0] * 12 + [1] * 12
    stream = np.random.default_rng(4)
    found = []
    for _ in range(runs):
        held = stream.normal(size=(24, 1))
        x, y = held[:, 0] + stream.normal(size=24), held[:, 0] + stream.normal(size=24)
        found.append(claims.rank_correlation(x, y, strata=strata, given=held).p)
    # Ranks of what is held fixed are not linear in it, so the level is only nearly held.
    assert (np.array(found) <= 0.05).mean() == pytest.approx(0.05, abs=error(0.05, runs) + 0.01)


def test_where_a_correlation_is_undefined() -> None:
    saturated = claims.rank_correlation([7, 7, 3, 3], [1, 2, 3, 4], strata=[0, 0, 1, 1])
    assert math.isnan(saturated.value)
    assert "x is the same within any stratum (4 points in 2 strata)" in str(saturated)
    assert "y is the same everywhere" in str(claims.rank_correlation([1, 2, 3], [5, 5, 5]))
    found = claims.rank_correlation([1, 2, 3, 4, 5], [2, 1, 3, 5, 4], given=[[2], [4], [6], [8], [10]])
    assert "leaves nothing of x" in str(found)


def test_what_has_no_correlation() -> None:
    with pytest.raises(DisbudError, match="at least 5 points are needed"):
        claims.rank_correlation([1, 2, 3, 4], [2, 1, 3, 4], given=[[1, 2], [2, 1], [1, 1], [0, 3]])
    with pytest.raises(DisbudError, match="at least 3"):
        claims.rank_correlation([1, 2], [2, 1])
    with pytest.raises(DisbudError, match="a rank needs a number"):
        claims.rank_correlation([1, 2, math.nan], [2, 1, 3])
    with pytest.raises(DisbudError, match="a row a point"):
        claims.rank_correlation([1, 2, 3], [2, 1, 3], given=[[1, 2, 3]])
    with pytest.raises(DisbudError, match="2 strata do not go with 3 points"):
        claims.rank_correlation([1, 2, 3], [2, 1, 3], strata=[0, 1])


# Clusters


def test_with_few_clusters_of_one_size_the_interval_is_t_over_their_means() -> None:
    stream = np.random.default_rng(0)
    values = stream.normal(size=24)
    clusters = np.repeat(list("abcdef"), 4).tolist()
    found = claims.cluster_interval(lambda rows: float(values[rows].mean()), clusters)
    theirs = stats.ttest_1samp(values.reshape(6, 4).mean(1), 0).confidence_interval(0.95)
    assert (found.low, found.high, found.method) == (
        pytest.approx(theirs.low),
        pytest.approx(theirs.high),
        "jackknife",
    )
    shuffled = stream.permutation(24)
    mixed = claims.cluster_interval(
        lambda rows: float(values[shuffled][rows].mean()), [clusters[i] for i in shuffled]
    )
    assert (mixed.low, mixed.high) == pytest.approx((found.low, found.high))


@pytest.mark.parametrize("count", [5, 12])
def test_cluster_intervals_cover_where_points_of_a_cluster_hang_together(count: int) -> None:
    runs, covered, naive = 300, 0, 0
    clusters = np.repeat(np.arange(count), 4).tolist()
    for run in range(runs):
        stream = np.random.default_rng([count, run])
        values = np.repeat(stream.normal(size=count), 4) + 0.3 * stream.normal(size=4 * count)

        def mean(rows: NDArray[np.intp], values: Array = values) -> float:
            return float(values[rows].sum() / len(rows))

        found = claims.cluster_interval(mean, clusters, level=0.9, seed=run, resamples=99)
        covered += found.low < 0 < found.high
        plain = stats.ttest_1samp(values, 0).confidence_interval(0.9)
        naive += plain.low < 0 < plain.high
    assert covered / runs == pytest.approx(0.9, abs=error(0.9, runs))
    assert naive / runs < 0.75  # points taken for independent


def test_two_correlations_are_compared_by_the_interval_of_their_difference() -> None:
    stream = np.random.default_rng(3)
    accuracy = stream.normal(size=60)
    nodes, paths = accuracy + 0.3 * stream.normal(size=60), stream.normal(size=60)
    methods = np.repeat(np.arange(12), 5).tolist()

    def ahead(rows: NDArray[np.intp]) -> float:
        by_nodes = claims.rank_correlation(nodes[rows], accuracy[rows]).value
        return by_nodes - claims.rank_correlation(paths[rows], accuracy[rows]).value

    found = claims.cluster_interval(ahead, methods, resamples=199)
    assert found.method == "bootstrap"
    assert 0 < found.low < ahead(np.arange(60)) < found.high < 2
    assert found == claims.cluster_interval(ahead, methods, resamples=199)
    assert found != claims.cluster_interval(ahead, methods, resamples=199, seed=1)


@pytest.mark.parametrize("count", [5, 12])
def test_p_values_of_clusters_are_where_the_interval_leaves_zero(count: int) -> None:
    clusters = np.repeat(np.arange(count), 3).tolist()
    values = np.random.default_rng(count).normal(size=3 * count)
    for shift in np.linspace(-1.5, 1.5, 13):

        def mean(rows: NDArray[np.intp], shift: float = shift) -> float:
            return float(values[rows].mean() + shift)

        found = claims.cluster_test(mean, clusters, resamples=199)
        assert found.interval == claims.cluster_interval(mean, clusters, resamples=199)
        assert (found.p_above <= 0.025) == (found.interval.low > 0)
        assert (found.p_below <= 0.025) == (found.interval.high < 0)
    if count == 5:
        theirs = stats.ttest_1samp(values.reshape(count, 3).mean(1), 0, alternative="greater").pvalue
        found = claims.cluster_test(lambda rows: float(values[rows].mean()), clusters)
        assert found.p_above == pytest.approx(theirs)


@pytest.mark.parametrize(("count", "known"), [(3, False), (5, False), (6, True), (12, True)])
def test_clusters_that_all_say_the_same_count_as_signs(count: int, known: bool) -> None:
    """Three methods in the same order by nodes and by accuracy are no certainty: by chance they are in 1 of 8."""
    clusters = np.repeat(np.arange(count), 4).tolist()
    x = np.tile(np.arange(4.0), count)

    def correlation(rows: NDArray[np.intp]) -> float:
        strata = [clusters[row] for row in rows]
        return claims.rank_correlation(x[rows], 2 * x[rows], strata=strata).value

    found = claims.cluster_test(correlation, clusters)
    assert found.estimate == pytest.approx(1)
    assert (found.interval.low, found.interval.high) == pytest.approx(
        (1, 1) if known else (-math.inf, math.inf)
    )
    assert (found.p_above, found.p_below) == (2.0**-count, 1.0)


def test_clusters_that_say_too_little() -> None:
    with pytest.raises(DisbudError, match="2 clusters say nothing"):
        claims.cluster_interval(lambda rows: 0.0, ["a", "b", "a"])
    with pytest.raises(DisbudError, match="undefined over all rows"):
        claims.cluster_interval(lambda rows: math.nan, list("abc"))
    with pytest.raises(DisbudError, match=r"undefined in 1\d\d of 199 resamples"):
        claims.cluster_interval(
            lambda rows: float(rows.mean()) if len(set(rows.tolist())) > 9 else math.nan,
            range(12),
            resamples=199,
        )
    with pytest.raises(DisbudError, match="take 199 or more"):
        claims.cluster_interval(lambda rows: float(rows.mean()), range(12), resamples=50)


# Trends


def test_pages_test_by_enumeration() -> None:
    values = np.array([[1.0, 2.0, 3.0], [2.0, 1.0, 3.0], [1.0, 3.0, 2.0]])
    orders = list(itertools.permutations((1, 2, 3)))
    weights = np.array([np.dot(order, (1, 2, 3)) for order in orders])
    sums = np.array([sum(chosen) for chosen in itertools.product(weights, repeat=3)])
    seen = sum(int(np.dot(stats.rankdata(row), (1, 2, 3))) for row in values)
    found = claims.rising(values)
    assert found.p_supported == pytest.approx(min(1, 2 * (sums >= seen).mean()))
    assert found.p_contradicted == pytest.approx(min(1, 2 * (sums <= seen).mean()))
    correlations = [stats.spearmanr(row, (1, 2, 3)).statistic for row in values]
    assert found.correlation == pytest.approx(np.mean(correlations))


def test_trends_rise_fall_or_are_undecided() -> None:
    up = np.arange(5) + np.random.default_rng(0).normal(0, 0.5, (5, 5))
    assert claims.rising(up).verdict is claims.Verdict.SUPPORTED
    assert claims.rising(-up).verdict is claims.Verdict.CONTRADICTED
    assert claims.rising(up).p_supported == claims.rising(-up).p_contradicted
    assert claims.rising(np.zeros((5, 5))).verdict is claims.Verdict.UNDECIDED
    assert (
        claims.rising(np.exp(up) * 7).p_supported == claims.rising(up).p_supported
    )  # ranks within seeds only
    with pytest.raises(DisbudError, match="at least 2 seeds"):
        claims.rising([[1, 2, 3]])
    with pytest.raises(DisbudError, match="3 conditions"):
        claims.rising([[1, 2], [1, 2]])
    with pytest.raises(DisbudError, match="finite"):
        claims.rising([[1, 2, math.nan], [1, 2, 3]])
    with pytest.raises(DisbudError, match="2 names do not go with 3"):
        claims.rising([[1, 2, 3], [1, 2, 3]], names=["a", "b"])


@pytest.mark.parametrize("tied", [False, True])
def test_trends_are_seen_where_there_is_none_in_at_most_five_percent(tied: bool) -> None:
    runs, stream = 1_500, np.random.default_rng(6)
    wrong = 0
    for _ in range(runs):
        values = stream.normal(size=(6, 4))
        found = claims.rising(np.round(values) if tied else values)
        wrong += found.verdict is not claims.Verdict.UNDECIDED
    assert wrong / runs <= 0.05 + error(0.05, runs)
    assert wrong / runs > 0.01


def test_slopes_are_those_of_least_squares() -> None:
    stream = np.random.default_rng(1)
    at, values = [0.5, 0.9, 0.98, 0.99], stream.normal(size=(6, 4))
    theirs = [np.polyfit(at, row, 1)[0] for row in values]
    assert claims.slopes(values, at) == pytest.approx(theirs)
    pairs = claims.Pairs(tuple(range(6)), claims.slopes(values + 50 * np.array(at), at), unit="plain")
    found = claims.judge(
        claims.BeatsBy("the gap", "no growth", 20.0), pairs, margin=claims.Margin(1.0, unit="plain")
    )
    assert found.verdict is claims.Verdict.SUPPORTED
    for odd in ([1, 2, 3], [1, 1, 1, 1], [1, 2, 3, math.inf]):
        with pytest.raises(DisbudError, match="one finite position a column"):
            claims.slopes(values, odd)
