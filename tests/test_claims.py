"""Verdicts on paired differences: against scipy, closed forms, the rules as they are written, and every odd input."""

from __future__ import annotations

import inspect
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from claim_cases import CONTRADICTED, STATEMENTS, SUPPORTED, UNDECIDED, D, around, runs
from disbud import DisbudError, claims
from disbud.claims import Verdict


def verdict(
    statement: claims.Statement, low: float, high: float, level: float, margin: float = 0.005
) -> Verdict:
    pairs = around((low + high) / 2, (high - low) / 2, 6, level)
    return claims.judge(statement, pairs, margin=claims.Margin(margin)).verdict


# Intervals and p-values, beside scipy


@pytest.mark.parametrize("n", [2, 3, 5, 10, 30])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_t_intervals_are_those_of_scipy(n: int, level: float) -> None:
    values = np.random.default_rng(n).normal(0.3, 2, n)
    theirs = stats.ttest_1samp(values, 0).confidence_interval(level)
    ours = claims.t_interval(values, level=level)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-12)


@pytest.mark.parametrize("n", [2, 5, 12])
def test_p_values_are_those_of_scipy(n: int) -> None:
    stream = np.random.default_rng(n)
    left, right = stream.normal(0.92, 0.01, n), stream.normal(0.91, 0.01, n)
    better = stats.ttest_rel(left, right, alternative="greater").pvalue
    assert claims.superiority_p(left - right) == pytest.approx(min(1, 2 * better), rel=1e-9)
    below = stats.ttest_1samp(left - right, 0.02, alternative="less").pvalue
    above = stats.ttest_1samp(left - right, -0.02, alternative="greater").pvalue
    assert claims.equivalence_p(left - right, margin=0.02) == pytest.approx(max(below, above), rel=1e-9)
    by = stats.ttest_1samp(left - right, 0.003, alternative="greater").pvalue
    assert claims.superiority_p(left - right, by=0.003) == pytest.approx(min(1, 2 * by), rel=1e-9)


def test_the_studentised_bootstrap_is_that_of_its_definition() -> None:
    values = np.array([3.0, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8])
    ours = claims.bootstrap_interval(values, level=0.9, seed=3, resamples=19_999)
    drawn = np.random.default_rng(0).choice(values, (20_000, len(values)))
    found = (drawn.mean(1) - values.mean()) / stats.sem(drawn, axis=1)
    low, high = np.quantile(found, [0.95, 0.05])
    assert ours.low == pytest.approx(values.mean() - low * stats.sem(values), abs=0.08)
    assert ours.high == pytest.approx(values.mean() - high * stats.sem(values), abs=0.08)
    assert ours == claims.bootstrap_interval(values, level=0.9, seed=3, resamples=19_999)
    assert ours != claims.bootstrap_interval(values, level=0.9, seed=4, resamples=19_999)


def test_the_bootstrap_follows_skew_and_leaves_the_global_stream_alone() -> None:
    values = np.random.default_rng(1).exponential(size=15)
    before = np.random.get_state()[1].tolist()
    found = claims.bootstrap_interval(values)
    assert np.random.get_state()[1].tolist() == before
    assert found.high - values.mean() > 1.2 * (values.mean() - found.low)


def test_the_bootstrap_is_offered_from_ten_pairs_on() -> None:
    with pytest.raises(DisbudError, match="9 differences covers too little; it is offered from 10"):
        claims.bootstrap_interval(range(9))
    assert math.isfinite(claims.bootstrap_interval(range(10)).high)
    with pytest.raises(DisbudError, match="take at least 199"):
        claims.bootstrap_interval(range(10), resamples=99)


def test_differences_that_nearly_all_agree_have_an_unbounded_bootstrap() -> None:
    assert claims.bootstrap_interval([0.0] * 9 + [1.0]).high == math.inf
    assert claims.bootstrap_interval([0.5] * 10).low == 0.5
    balanced = claims.bootstrap_interval([0.0] * 8 + [1.0, -1.0])  # resamples of zeros only are at the mean
    assert -math.inf < balanced.low < 0 < balanced.high < math.inf


def test_holm_is_its_definition() -> None:
    stream = np.random.default_rng(0)
    for size in (1, 2, 7):
        p = stream.random(size) ** 3
        adjusted = claims.holm(p)
        order = np.argsort(p)
        for alpha in np.linspace(0.001, 0.999, 77):
            rejected = set()
            for rank, index in enumerate(order):
                if p[index] > alpha / (size - rank):
                    break
                rejected.add(int(index))
            assert {i for i in range(size) if adjusted[i] <= alpha} == rejected
    assert claims.holm([]) == ()
    assert claims.holm([0.02, 0.02]) == (0.04, 0.04)
    for odd in ([1.2], [-0.1], [math.nan], [[0.1]]):
        with pytest.raises(DisbudError, match="from 0 to 1"):
            claims.holm(odd)


# The rules, as they are written


@pytest.mark.parametrize(
    ("statement", "level", "low", "high", "expected"),
    [
        (claims.Same("a", "b"), 0.90, -0.0049, 0.0049, SUPPORTED),
        (claims.Same("a", "b"), 0.90, -0.0051, 0.0049, UNDECIDED),
        (claims.Same("a", "b"), 0.90, -0.0049, 0.0051, UNDECIDED),
        (claims.Same("a", "b"), 0.95, 0.0051, 0.02, CONTRADICTED),
        (claims.Same("a", "b"), 0.95, 0.0049, 0.02, UNDECIDED),
        (claims.Same("a", "b"), 0.95, -0.02, -0.0051, CONTRADICTED),
        (claims.AtLeast("a", "b"), 0.90, -0.0049, 0.3, SUPPORTED),
        (claims.AtLeast("a", "b"), 0.90, -0.0051, 0.3, UNDECIDED),
        (claims.AtLeast("a", "b"), 0.90, -0.1, -0.0051, CONTRADICTED),
        (claims.AtLeast("a", "b"), 0.90, -0.1, -0.0049, UNDECIDED),
        (claims.LosesAtMost("a", "b", 0.02), 0.90, -0.0199, 0.1, SUPPORTED),
        (claims.LosesAtMost("a", "b", 0.02), 0.90, -0.0201, 0.1, UNDECIDED),
        (claims.LosesAtMost("a", "b", 0.02), 0.90, -0.1, -0.0201, CONTRADICTED),
        (claims.LosesAtMost("a", "b", 0.02), 0.90, -0.1, -0.0199, UNDECIDED),
        (claims.Beats("a", "b"), 0.95, 0.0001, 0.1, SUPPORTED),
        (claims.Beats("a", "b"), 0.95, -0.0001, 0.1, UNDECIDED),
        (claims.Beats("a", "b"), 0.95, -0.1, 0.0049, CONTRADICTED),
        (claims.Beats("a", "b"), 0.95, -0.1, 0.0051, UNDECIDED),
        (claims.Beats("a", "b"), 0.95, 0.001, 0.004, SUPPORTED),
        (claims.BeatsBy("a", "b", 0.01), 0.95, 0.0101, 0.1, SUPPORTED),
        (claims.BeatsBy("a", "b", 0.01), 0.95, 0.0099, 0.1, UNDECIDED),
        (claims.BeatsBy("a", "b", 0.01), 0.95, -0.1, 0.0099, CONTRADICTED),
        (claims.BeatsBy("a", "b", 0.01), 0.95, -0.1, 0.0101, UNDECIDED),
        (claims.BeatsBy("a", "b", 0.002), 0.95, -0.1, 0.0049, CONTRADICTED),
    ],
)
def test_verdicts_follow_the_rules(
    statement: claims.Statement, level: float, low: float, high: float, expected: Verdict
) -> None:
    assert verdict(statement, low, high, level) is expected


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("looks", [None, claims.Looks()], ids=["fixed", "looks"])
def test_p_values_are_at_most_five_percent_exactly_where_the_verdict_is(
    statement: claims.Statement, looks: claims.Looks | None
) -> None:
    stream, seen = np.random.default_rng(5), set()
    for _ in range(80):
        n = int(stream.choice([5, 10, 15])) if looks else int(stream.integers(2, 12))
        differences = stream.normal(stream.uniform(-0.02, 0.02), stream.choice([0.0, 0.003, 0.01]), n)
        pairs = claims.Pairs(tuple(range(n)), tuple(differences.tolist()))
        found = claims.judge(statement, pairs, margin=D, looks=looks)
        assert (found.p_supported <= 0.05) == (found.verdict is SUPPORTED)
        assert (found.p_contradicted <= 0.05) == (found.verdict is CONTRADICTED)
        seen.add(found.verdict)
    assert seen == {SUPPORTED, CONTRADICTED, UNDECIDED}


def test_beating_by_less_than_the_margin_is_said() -> None:
    found = claims.judge(claims.Beats("a", "b"), around(0.003, 0.001, 5, 0.95), margin=D)
    assert found.p_contradicted == 1.0
    assert str(found).endswith("margin 0.5: supported (5 seeds; by less than the margin)")
    assert "less" not in str(claims.judge(claims.Beats("a", "b"), around(0.03, 0.001, 5, 0.95), margin=D))


def test_equivalence_needs_a_margin_and_at_least_does_not() -> None:
    zero = claims.Margin(0.0)
    with pytest.raises(DisbudError, match="nothing is shown to be equal to within 0"):
        claims.judge(claims.Same("a", "b"), around(0, 0.1, 5, 0.9), margin=zero)
    with pytest.raises(DisbudError, match="margin above 0"):
        claims.equivalence_p([1, 2], margin=0)
    assert (
        claims.judge(claims.AtLeast("a", "b"), around(0.02, 0.01, 5, 0.9), margin=zero).verdict is SUPPORTED
    )
    assert (
        claims.judge(claims.Beats("a", "b"), around(-0.02, 0.01, 5, 0.95), margin=zero).verdict
        is CONTRADICTED
    )


def test_only_differences_from_zero_on_are_claimed() -> None:
    for odd in (-0.1, math.nan, math.inf):
        with pytest.raises(DisbudError, match="at least 0"):
            claims.BeatsBy("a", "b", odd)
        with pytest.raises(DisbudError, match="at least 0"):
            claims.LosesAtMost("a", "b", odd)


# Sentences


def test_a_judgement_is_a_sentence() -> None:
    found = claims.judge(claims.AtLeast("shuffle", "none"), around(0.003, 0.004, 5, 0.90), margin=D)
    assert str(found) == (
        "shuffle is at least none: difference +0.3 points, 90 % interval -0.1 to 0.7, margin 0.5: supported (5 seeds)"
    )


def test_narrow_intervals_show_more_digits_and_other_units_no_points() -> None:
    found = claims.judge(claims.Same("a", "b"), around(0.00012, 0.0001, 5, 0.90), margin=D)
    assert "difference +0.01 points, 90 % interval 0.00 to 0.02, margin 0.50" in str(found)
    pairs = claims.Pairs((0, 1, 2), (120.0, 130.0, 110.0), unit="plain")
    found = claims.judge(claims.Beats("a", "b"), pairs, margin=claims.Margin(5.0, unit="plain"))
    assert "difference +120.0, 95 % interval 95.2 to 144.8, margin 5.0" in str(found)


def test_the_interval_shown_is_the_one_that_could_decide() -> None:
    near, far = around(0.001, 0.02, 5, 0.9), around(0.012, 0.02, 5, 0.95)
    assert claims.judge(claims.Same("a", "b"), far.reversed(), margin=D).interval.level == 0.95
    shown = [claims.judge(claims.Same("a", "b"), pairs, margin=D).interval for pairs in (near, far)]
    assert [(i.level, i.low, i.high) for i in shown] == [
        pytest.approx((0.9, -0.019, 0.021)),
        pytest.approx((0.95, -0.008, 0.032)),
    ]


def test_the_bootstrap_is_heard_where_it_reads_otherwise() -> None:
    skewed = [0.0, 0.0, 0.0001, 0.0, 0.0002, 0.0001, 0.0003, 0.0001, 0.0, 0.012]
    found = claims.judge(claims.Same("a", "b"), claims.Pairs(tuple(range(10)), tuple(skewed)), margin=D)
    assert found.verdict is SUPPORTED
    assert "the bootstrap reads undecided" in found.remarks
    calm = claims.judge(claims.Same("a", "b"), around(0.0, 0.003, 12, 0.9), margin=D)
    assert calm.remarks == ()


# Odd differences


def test_equal_differences_decide_as_a_sign_test_does() -> None:
    for n in range(2, 12):
        pairs = claims.Pairs(tuple(range(n)), (0.002,) * n)
        same = claims.judge(claims.Same("a", "b"), pairs, margin=D)
        assert same.verdict is (SUPPORTED if n >= 5 else UNDECIDED)
        assert same.p_supported == min(1.0, stats.binomtest(n, n, alternative="greater").pvalue)
        beats = claims.judge(claims.Beats("a", "b"), pairs, margin=D)
        assert beats.verdict is (SUPPORTED if n >= 6 else UNDECIDED)
        assert "all differences equal" in str(beats)
    assert claims.judge(claims.Same("a", "b"), claims.Pairs((0, 1), (0.0, 0.0)), margin=D).further == 3
    looked = [
        claims.judge(
            claims.Same("a", "b"), claims.Pairs(tuple(range(n)), (0.0,) * n), margin=D, looks=claims.Looks()
        )
        for n in (5, 10)
    ]
    assert [found.verdict for found in looked] == [UNDECIDED, SUPPORTED]


def test_rounding_makes_no_spread() -> None:
    left, right = runs(*[0.1 + 0.2, 0.3, 0.7, 0.9, 0.5]), runs(*[0.2, 0.1 + 0.1, 0.6, 0.8, 0.4])
    assert set(claims.paired(left, right).differences) == {0.1}
    assert claims.t_interval([0.1 + 0.2, 0.3, 0.3]).high == math.inf


def test_few_pairs() -> None:
    for few in ([], [0.1]):
        with pytest.raises(DisbudError, match=f"{len(few)} paired differences given; at least 2"):
            claims.t_interval(few)
        with pytest.raises(DisbudError, match="at least 2"):
            claims.judge(claims.Same("a", "b"), claims.Pairs(tuple(range(len(few))), tuple(few)), margin=D)
    assert claims.t_interval([0.0, 1.0]).high == pytest.approx(0.5 + 12.7062 * 0.5, abs=1e-3)


def test_pairs_need_the_same_seeds() -> None:
    with pytest.raises(DisbudError, match="shuffle has no seed 3; none has no seed 1 and 2"):
        claims.paired({0: 0.5, 1: 0.5, 2: 0.5}, {0: 0.5, 3: 0.5}, names=("shuffle", "none"))
    found = claims.paired({2: 0.9, 0: 0.5}, {0: 0.25, 2: 0.5})
    assert found.seeds == (0, 2)
    assert found.differences == (0.25, 0.4)
    assert found.reversed().differences == (-0.25, -0.4)


def test_diverged_runs_count_as_what_is_said_and_are_never_left_out() -> None:
    left, right = runs(0.9, math.nan, 0.9), runs(0.8, 0.8, -math.inf)
    with pytest.raises(DisbudError, match=r"left diverged at seed 1; say what .* diverged=0.1"):
        claims.paired(left, right)
    found = claims.paired(left, right, diverged=0.1)
    assert found.differences == (0.1, -0.7, 0.8)
    assert "2 diverged runs counted in" in str(claims.judge(claims.Beats("a", "b"), found, margin=D))
    with pytest.raises(DisbudError, match="2 of 3 differences are not finite"):
        claims.t_interval([0.1, math.nan, math.inf])
    with pytest.raises(DisbudError, match="differences are finite"):
        claims.Pairs((0,), (math.nan,))


def test_percentages_are_no_fractions() -> None:
    with pytest.raises(DisbudError, match=r"fractions from 0 to 1, not 98.2; divide percentages by 100"):
        claims.paired(runs(98.2), runs(97.9))
    with pytest.raises(DisbudError, match="between -1 and 1"):
        claims.Pairs((0,), (3.0,))
    assert claims.paired(runs(98.2), runs(97.9), unit="plain").differences[0] == pytest.approx(0.3)
    for odd in (-0.1, math.nan, 1.5):
        with pytest.raises(DisbudError, match=r"0.005: half a point"):
            claims.Margin(odd)
    with pytest.raises(DisbudError, match="give both one unit"):
        claims.judge(claims.Same("a", "b"), claims.Pairs((0, 1), (3.0, 1.0), unit="plain"), margin=D)
    with pytest.raises(DisbudError, match="'points'"):
        claims.Pairs((0,), (0.1,), unit="percent")  # type: ignore[arg-type]


def test_pairs_are_one_a_seed() -> None:
    with pytest.raises(DisbudError, match="2 seeds do not go with 1"):
        claims.Pairs((0, 1), (0.1,))
    with pytest.raises(DisbudError, match="twice there: 1"):
        claims.Pairs((1, 0, 1), (0.1, 0.1, 0.1))
    with pytest.raises(DisbudError, match=r"coverage, from 0\.5"):
        claims.t_interval([1, 2], level=95)


# The face


@pytest.mark.parametrize("name", claims.__all__)
def test_every_public_name_has_an_example(name: str) -> None:
    assert ">>> " in (inspect.getdoc(getattr(claims, name)) or ""), name


def test_no_torch_is_imported() -> None:
    code = "import disbud.claims, sys; print({'torch', 'pandas', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
