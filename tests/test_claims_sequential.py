"""Coverage and false positives by simulation, at a number of seeds fixed beforehand and with several looks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from disbud import DisbudError, claims
from disbud.claims.intervals import resample_counts, studentised_bounds
from disbud.claims.reading import bounds, decide
from disbud.claims.student import p_above

RUNS = 10_000
LOOKS = claims.Looks()
D = 0.005


def error(rate: float, runs: int = RUNS) -> float:
    """Three and a half standard errors of a simulated rate."""
    return 3.5 * math.sqrt(rate * (1 - rate) / runs)


def drawn(mean: float, deviation: float, n: int, seed: int = 0, runs: int = RUNS) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(mean, deviation, (runs, n))


def ever(hits: list[NDArray[np.bool_]]) -> float:
    return float(np.logical_or.reduce(hits).mean())


# Levels


@pytest.mark.parametrize(("level", "nominal"), [(0.95, 0.0140), (0.90, 0.0303)])
def test_the_level_a_look_holds_the_whole(level: float, nominal: float) -> None:
    a_look = LOOKS.level_a_look(level)
    assert 1 - a_look == pytest.approx(nominal, abs=5e-5)
    runs = 200_000
    values = drawn(0, 1, 30, runs=runs)
    outside = []
    for n in LOOKS.seeds:
        half = stats.t.ppf((1 + a_look) / 2, n - 1) * values[:, :n].std(1, ddof=1) / math.sqrt(n)
        outside.append(np.abs(values[:, :n].mean(1)) > half)
    assert ever(outside) == pytest.approx(1 - level, abs=error(1 - level, runs))


def two_sided(looks: tuple[int, ...], nominal: float, finer: int = 1) -> float:
    high = [stats.t.isf(nominal / 2, n - 1) for n in looks]
    return claims.chance_of_leaving(looks, [-h for h in high], high, finer=finer)


def test_figures_of_group_sequential_t_tests() -> None:
    assert two_sided(LOOKS.seeds, 0.0135) == pytest.approx(0.0483, abs=1e-4)
    assert two_sided(LOOKS.seeds, 0.05) == pytest.approx(0.1552, abs=1e-4)
    assert two_sided(tuple(range(3, 31)), 0.05) == pytest.approx(0.265, abs=1e-3)  # peeking at every seed


@pytest.mark.parametrize("looks", [(3, 4), (4, 5, 6), (5, 30), (3, 7, 8, 20)])
@pytest.mark.parametrize("bounds_at", [(-2.2, 2.2), (-math.inf, 1.7), (-1.0, 2.5)])
def test_the_integration_agrees_with_simulation(
    looks: tuple[int, ...], bounds_at: tuple[float, float]
) -> None:
    low, high = ([bound] * len(looks) for bound in bounds_at)
    runs = 100_000
    values, outside = drawn(0, 1, looks[-1], seed=looks[-1], runs=runs), []
    for n in looks:
        t = values[:, :n].mean(1) / (values[:, :n].std(1, ddof=1) / math.sqrt(n))
        outside.append((t <= bounds_at[0]) | (t >= bounds_at[1]))
    found = claims.chance_of_leaving(looks, low, high)
    assert found == pytest.approx(ever(outside), abs=error(found, runs))
    assert found == pytest.approx(claims.chance_of_leaving(looks, low, high, finer=2), abs=1e-5)


def test_with_many_pairs_the_bounds_are_those_of_pocock() -> None:
    # Pocock 1977, table 1: the nominal two-sided level of 2 and 5 equally spaced looks at known variance.
    for count, nominal in ((2, 0.0294), (5, 0.0158)):
        looks = claims.Looks(tuple(2000 * (i + 1) for i in range(count)))
        assert 1 - looks.level_a_look(0.95) == pytest.approx(nominal, abs=1e-4)


def test_one_look_is_a_plain_t_test() -> None:
    once = claims.Looks((7,))
    assert once.level_a_look(0.9) == pytest.approx(0.9)
    assert once.overall_p(0.3) == 0.3


def test_the_p_value_at_any_stop() -> None:
    least = np.full(RUNS * 10, 1.0)
    values = drawn(0, 1, 30, seed=4, runs=RUNS * 10)
    for n in LOOKS.seeds:
        least = np.minimum(least, p_above(values[:, :n], 0.0))
    for p in (0.001, 0.01, 0.03, 0.1, 0.3):
        rate = LOOKS.overall_p(p)
        assert (least <= p).mean() == pytest.approx(rate, abs=error(rate, RUNS * 10))
    grid = [0.0, 1e-300, 1e-12, 1e-7, 9.9e-7, 1.1e-6, 1e-4, 0.01, 0.2, 0.49, 0.5, 0.9, 1.0]
    overall = [LOOKS.overall_p(p) for p in grid]
    assert overall == sorted(overall)
    assert all(p <= o <= min(1.0, 5 * p + 1e-12) or p >= 0.2 for p, o in zip(grid, overall, strict=True))


def test_looks_that_cannot_be() -> None:
    for odd in ((), (2, 5), (5, 5), (10, 5)):
        with pytest.raises(DisbudError, match="rising numbers"):
            claims.Looks(odd)
        with pytest.raises(DisbudError, match="rising numbers"):
            claims.chance_of_leaving(odd, [-1.0] * len(odd), [1.0] * len(odd))
    with pytest.raises(DisbudError, match="bound below 0 and one above"):
        claims.chance_of_leaving([5], [0.5], [2.0])
    with pytest.raises(DisbudError, match="do not go with 1 lower"):
        claims.chance_of_leaving([5, 10], [-1.0], [1.0, 1.0])
    with pytest.raises(DisbudError, match="the first look is at 5 seeds, and there are 4"):
        LOOKS.last_done(4)


# Coverage


@pytest.mark.parametrize("n", [2, 3, 5, 10, 30])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_t_intervals_cover(n: int, level: float) -> None:
    low, high = bounds(drawn(0.3, 2, n, seed=n), level, None)
    assert ((low < 0.3) & (high > 0.3)).mean() == pytest.approx(level, abs=error(level))


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_repeated_intervals_cover_at_all_looks_together(level: float) -> None:
    values = drawn(0.3, 2, 30, seed=2)
    covers = np.ones(RUNS, dtype=bool)
    for n in LOOKS.seeds:
        low, high = bounds(values[:, :n], level, LOOKS)
        covers &= (low < 0.3) & (high > 0.3)
    assert covers.mean() >= level - error(level)
    assert covers.mean() <= level + error(level)  # and no wider than that needs


@pytest.mark.parametrize("n", [10, 15, 30])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_studentised_bootstrap_covers_from_ten_pairs_on(n: int, level: float) -> None:
    low, high = studentised_bounds(drawn(0, 1, n, seed=n), level, resample_counts(n, 0, 1999))
    assert ((low < 0) & (high > 0)).mean() >= level - error(level)


def test_a_percentile_interval_would_not_at_five() -> None:
    values, counts = drawn(0, 1, 5), resample_counts(5, 0, 1999)
    low, high = np.quantile(values @ counts.T / 5, [0.025, 0.975], axis=1)
    assert ((low < 0) & (high > 0)).mean() == pytest.approx(0.84, abs=0.015)


def test_with_skewed_differences_the_studentised_bootstrap_covers_better_than_t() -> None:
    values = np.random.default_rng(8).exponential(size=(RUNS, 15)) - 1
    t = bounds(values, 0.95, None)
    boot = studentised_bounds(values, 0.95, resample_counts(15, 0, 1999))
    by_t, by_bootstrap = (float(((low < 0) & (high > 0)).mean()) for low, high in (t, boot))
    assert by_t < 0.92
    assert by_bootstrap > by_t + 0.015


# Wrong verdicts

SUPPORTS_WRONGLY = [  # a true difference at which the statement is just false
    (claims.Same("a", "b"), D),
    (claims.Same("a", "b"), -D),
    (claims.AtLeast("a", "b"), -D),
    (claims.LosesAtMost("a", "b", 0.02), -0.02),
    (claims.Beats("a", "b"), 0.0),
    (claims.BeatsBy("a", "b", 0.01), 0.01),
]
CONTRADICTS_WRONGLY = [  # a true difference at which it is just not contradicted
    (claims.Same("a", "b"), D),
    (claims.Same("a", "b"), -D),
    (claims.AtLeast("a", "b"), -D),
    (claims.LosesAtMost("a", "b", 0.02), -0.02),
    (claims.Beats("a", "b"), D),
    (claims.BeatsBy("a", "b", 0.01), 0.01),
]


@pytest.mark.parametrize("looks", [None, LOOKS], ids=["fixed", "looks"])
@pytest.mark.parametrize("deviation", [0.0005, 0.005, 0.1], ids=["sharp", "middling", "blunt"])
@pytest.mark.parametrize("kind", ["supports", "contradicts"])
def test_wrong_verdicts_are_at_most_five_percent(
    kind: str, deviation: float, looks: claims.Looks | None
) -> None:
    for statement, truth in SUPPORTS_WRONGLY if kind == "supports" else CONTRADICTS_WRONGLY:
        rule = statement.rule(D)
        values = drawn(truth, deviation, 30, seed=11)
        wrong = [
            decide(rule, values[:, :n], looks)[kind == "contradicts"]
            for n in (LOOKS.seeds if looks else (5,))
        ]
        assert ever(wrong) <= 0.05 + error(0.05), statement
        one_sided = (
            0.05 if (rule.support_level, rule.contradiction_level)[kind == "contradicts"] == 0.9 else 0.025
        )
        if deviation == 0.0005:  # the margin's other side is far away: exactly what one side's level says
            assert ever(wrong) == pytest.approx(one_sided, abs=error(one_sided)), statement


def test_the_ninety_percent_interval_would_contradict_sameness_wrongly() -> None:
    # Where the margin is small beside the standard error, both of its sides err: hence 95 % there.
    low, high = bounds(drawn(D, 1.0, 5, seed=3), 0.90, None)
    assert ((low > D) | (high < -D)).mean() > 0.085


def test_looking_at_the_plain_level_would_err_too_often() -> None:
    values = drawn(0.0, 0.01, 30, seed=5)
    rule = claims.Beats("a", "b").rule(D)
    plain = ever([decide(rule, values[:, :n], None)[0] for n in LOOKS.seeds])
    assert plain == pytest.approx(0.1552 / 2, abs=error(0.08))
    assert plain > 0.06


@pytest.mark.slow
@pytest.mark.parametrize("looks", [None, LOOKS], ids=["fixed", "looks"])
def test_twenty_claims_after_holm_are_wrong_together_at_most_in_five_percent(
    looks: claims.Looks | None,
) -> None:
    values = np.random.default_rng(9).normal(0, 1, (RUNS, 20, 30))
    values += np.random.default_rng(10).normal(0, 0.5, (RUNS, 1, 30))  # claims share their seeds
    least = np.min([p_above(values[..., :n], 0.0) for n in (LOOKS.seeds if looks else (10,))], axis=0)
    if looks:  # overall_p by interpolation: 200,000 integrals would take long
        grid = np.geomspace(1e-9, 0.49, 60)
        overall = np.interp(np.log(least), np.log(grid), [looks.overall_p(p) for p in grid], right=1.0)
    else:
        overall = least
    adjusted = np.array([claims.holm(row) for row in np.minimum(2 * overall, 1.0)])
    assert (adjusted <= 0.05).any(1).mean() <= 0.05 + error(0.05)
    assert (2 * overall <= 0.05).any(1).mean() > 0.2  # what would be without Holm


# Until decided


def test_seeds_are_added_only_where_a_claim_is_undecided() -> None:
    asked: list[tuple[str, int]] = []
    means = {"clear": 0.05, "slow": 0.006, "never": 0.0025}

    def result_with(name: str, n: int) -> claims.Judgement:
        asked.append((name, n))
        values = means[name] + np.random.default_rng(1).normal(0, 0.008, 30)[:n]
        pairs = claims.Pairs(tuple(range(n)), tuple(values.tolist()))
        return claims.judge(claims.Beats(name, "x"), pairs, margin=claims.Margin(0.005), looks=LOOKS)

    found = claims.until_decided(list(means), result_with, looks=LOOKS)
    assert [n for name, n in asked if name == "clear"] == [5]
    slow = [n for name, n in asked if name == "slow"]
    assert slow == list(LOOKS.seeds[: len(slow)])
    assert 1 < len(slow) < 5
    assert [n for name, n in asked if name == "never"] == list(LOOKS.seeds)
    assert [found[name].verdict.value for name in means] == ["supported", "supported", "undecided"]
    assert "that was the last look" in str(found["never"].before)


def test_a_claim_decided_only_by_itself_goes_on() -> None:
    seen: dict[str, int] = {}

    def result_with(name: str, n: int) -> claims.Judgement:
        seen[name] = n
        values = (0.0102 if name == "faint" else 0.0) + np.random.default_rng(3).normal(0, 0.008, 30)[:n]
        pairs = claims.Pairs(tuple(range(n)), tuple(values.tolist()))
        return claims.judge(claims.Beats(name, "x"), pairs, margin=claims.Margin(0.005), looks=LOOKS)

    alone = claims.until_decided(["faint"], result_with, looks=LOOKS)["faint"]
    stop = seen["faint"]
    among = claims.until_decided(["faint", *(f"other {i}" for i in range(9))], result_with, looks=LOOKS)[
        "faint"
    ]
    assert alone.verdict is among.verdict is claims.Verdict.SUPPORTED
    assert seen["faint"] > stop
    assert among.before.seeds == stop  # type: ignore[attr-defined]


def test_a_decision_stands_and_seeds_between_looks_wait() -> None:
    values = [0.02, 0.021, 0.019, 0.02, 0.022, 0.021, 0.02]
    found = claims.judge(
        claims.Beats("a", "b"),
        claims.Pairs(tuple(range(7)), tuple(values)),
        margin=claims.Margin(D),
        looks=LOOKS,
    )
    assert (found.seeds, found.interval.method) == (5, "repeated t")
    assert "2 more not looked at" in str(found)
    later = claims.Pairs(tuple(range(10)), (*values[:5], *[-0.05] * 5))
    found = claims.judge(claims.Beats("a", "b"), later, margin=claims.Margin(D), looks=LOOKS)
    assert (found.verdict, found.seeds) == (claims.Verdict.SUPPORTED, 5)
    with pytest.raises(DisbudError, match="run those first"):
        claims.judge(claims.Beats("a", "b"), later.first(4), margin=claims.Margin(D), looks=LOOKS)


def test_further_seeds_are_those_of_a_look() -> None:
    values = np.array([0.02, 0.0, 0.015, -0.004, 0.012])
    pairs = claims.Pairs(tuple(range(5)), tuple(values.tolist()))
    found = claims.judge(claims.Beats("a", "b"), pairs, margin=claims.Margin(D), looks=LOOKS)
    assert found.verdict is claims.Verdict.UNDECIDED
    assert found.further is not None
    assert found.seeds + found.further in LOOKS.seeds
    noisy = claims.Pairs(tuple(range(5)), tuple((values * 10 - 0.08).tolist()))
    found = claims.judge(claims.AtLeast("a", "b"), noisy, margin=claims.Margin(D), looks=LOOKS)
    assert found.further is None
    assert "10 are the next look; 30 may not decide it" in str(found)
