"""Claims among many: the margins and controls they share, cells and claims held together, and the seeds they need."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from claim_cases import CONTRADICTED, STATEMENTS, SUPPORTED, UNDECIDED, D, around, runs
from disbud import DisbudError, claims
from disbud.claims import Verdict

# Margins and controls


def test_the_margin_is_a_tenth_of_the_gap_and_half_a_point_at_least() -> None:
    wide = claims.calibrated_margin(runs(0.98, 0.96, start=50), runs(0.78, 0.80, start=50))
    assert wide.value == pytest.approx(0.018)
    assert wide.seeds == {50, 51}
    narrow = claims.calibrated_margin(runs(0.982), runs(0.979))
    assert narrow.value == 0.005
    assert str(narrow).startswith("margin 0.5 points (the least; 10 % of the 0.3 points")
    assert claims.calibrated_margin(runs(0.5), runs(0.9)).value == 0.005
    with pytest.raises(DisbudError, match="at least one calibration seed"):
        claims.calibrated_margin({}, {})


def test_no_claim_is_tested_on_the_seeds_of_its_margin() -> None:
    margin = claims.calibrated_margin(runs(0.98, 0.96, start=3), runs(0.78, 0.80, start=3))
    with pytest.raises(DisbudError, match="seeds 3 and 4 were used to find the margin"):
        claims.judge(claims.Same("a", "b"), around(0, 0.01, 5, 0.9), margin=margin)


def test_without_a_control_that_shows_a_difference_nothing_is_decided() -> None:
    same, loses = around(0.0, 0.004, 5, 0.9), around(-0.05, 0.01, 5, 0.9)
    shows, hides, unsure = (
        around(0.1, 0.01, 5, 0.95),
        around(0.002, 0.001, 5, 0.95),
        around(0.01, 0.02, 5, 0.95),
    )

    def judged(pairs: claims.Pairs, **controls: claims.Pairs) -> claims.Judgement:
        shown = claims.positive_controls(controls, margin=D)
        return claims.judge(claims.AtLeast("a", "b"), pairs, margin=D, controls=shown)

    assert judged(same, random=shows).verdict is SUPPORTED
    assert judged(loses, random=shows).verdict is CONTRADICTED
    assert judged(same, random=hides, shuffled=shows).verdict is SUPPORTED
    for pairs in (same, loses):
        found = judged(pairs, random=hides, shuffled=hides)
        assert found.verdict is Verdict.UNINFORMATIVE
        assert (found.p_supported, found.p_contradicted) == (1.0, 1.0)
        assert "uninformative (5 seeds; no control is worse by more than the margin)" in str(found)
    unknown = judged(same, random=hides, shuffled=unsure)
    assert unknown.verdict is UNDECIDED
    assert unknown.further is not None


def test_while_controls_are_open_a_difference_beyond_the_margin_shows_that_the_setting_tells() -> None:
    unsure = claims.positive_controls({"random": around(0.01, 0.02, 5, 0.95)}, margin=D)
    assert unsure.verdict is UNDECIDED

    def judged(statement: claims.Statement, mean: float, deviation: float) -> Verdict:
        pairs = around(mean, deviation, 5, 0.9)
        return claims.judge(statement, pairs, margin=D, controls=unsure).verdict

    assert judged(claims.AtLeast("a", "b"), 0.05, 0.01) is SUPPORTED
    assert judged(claims.AtLeast("a", "b"), -0.05, 0.01) is CONTRADICTED
    assert judged(claims.Same("a", "b"), 0.05, 0.01) is CONTRADICTED
    assert judged(claims.Beats("a", "b"), 0.05, 0.01) is SUPPORTED
    assert judged(claims.Beats("a", "b"), D.value / 2, 0.0005) is UNDECIDED  # above zero, within the margin
    assert judged(claims.Same("a", "b"), 0.0, 0.0005) is UNDECIDED
    assert judged(claims.AtLeast("a", "b"), 0.02, 0.02) is UNDECIDED


# Cells and many claims


def judged(kind: str) -> claims.Judgement:
    pairs = {
        "yes": around(0.0, 0.002, 5, 0.9),
        "no": around(-0.05, 0.005, 5, 0.9),
        "open": around(0.0, 0.03, 5, 0.9),
        "faint no": around(-0.015, 0.0096, 5, 0.9),
        "faint yes": around(0.0, 0.0048, 5, 0.9),
    }
    if kind == "blind":
        control = claims.positive_controls({"c": around(0.0, 0.001, 5, 0.95)}, margin=D)
        return claims.judge(claims.AtLeast("a", "b"), pairs["yes"], margin=D, controls=control)
    return claims.judge(claims.AtLeast("a", "b"), pairs[kind], margin=D)


@pytest.mark.parametrize(
    ("kinds", "every", "some"),
    [
        (["yes", "yes"], SUPPORTED, SUPPORTED),
        (["yes", "open"], UNDECIDED, SUPPORTED),
        (["yes", "no"], CONTRADICTED, SUPPORTED),
        (["no", "no"], CONTRADICTED, CONTRADICTED),
        (["no", "open"], CONTRADICTED, UNDECIDED),
        (["open", "open"], UNDECIDED, UNDECIDED),
        (["yes", "blind"], Verdict.UNINFORMATIVE, SUPPORTED),
        (["no", "blind"], CONTRADICTED, Verdict.UNINFORMATIVE),
        (["open", "blind"], UNDECIDED, UNDECIDED),
        (["blind", "blind"], Verdict.UNINFORMATIVE, Verdict.UNINFORMATIVE),
        (["yes", "faint no"], UNDECIDED, SUPPORTED),
        (["faint yes", "open"], UNDECIDED, UNDECIDED),
        (["faint yes", "faint yes"], SUPPORTED, UNDECIDED),
        (["faint no"], CONTRADICTED, CONTRADICTED),
    ],
)
def test_claims_over_cells(kinds: list[str], every: Verdict, some: Verdict) -> None:
    results = {f"{i}": judged(kind) for i, kind in enumerate(kinds)}
    everywhere, somewhere = claims.for_all(results), claims.there_is(results)
    assert (everywhere.verdict, somewhere.verdict) == (every, some)
    for found in (everywhere, somewhere):
        assert (found.p_supported <= 0.05) == (found.verdict is SUPPORTED)
        assert (found.p_contradicted <= 0.05) == (found.verdict is CONTRADICTED)
        assert bool(found.undecided) == (found.verdict is UNDECIDED)


def test_the_cells_that_more_seeds_could_decide_are_named() -> None:
    results = {"75": judged("yes"), "90": judged("open"), "98": judged("faint no")}
    found = claims.for_all(results)
    assert found.undecided == ("90", "98")
    assert found.further == results["90"].further
    assert found.further > 5
    first = "for all of 3 cells: undecided (supported in 1, contradicted in 1, undecided in 1)"
    assert str(found).splitlines()[0] == first
    assert claims.there_is(results).undecided == ()
    for combine in (claims.for_all, claims.there_is):
        with pytest.raises(DisbudError, match="at least one cell"):
            combine({})


def test_many_claims_are_held_together_by_holm() -> None:
    results = {"a": judged("yes"), "b": judged("faint yes"), "c": judged("no"), "d": judged("open")}
    found = claims.corrected(results)
    assert [found[name].verdict for name in "abcd"] == [SUPPORTED, UNDECIDED, CONTRADICTED, UNDECIDED]
    assert [f.p_supported for f in found.values()] == list(
        claims.holm([r.p_supported for r in results.values()])
    )
    assert str(found["b"]).startswith("undecided (by itself supported), p 0.1")
    assert claims.corrected({"b": results["b"]})["b"].verdict is SUPPORTED
    assert claims.corrected({"b": results["b"], "x": judged("blind")})["x"].verdict is Verdict.UNINFORMATIVE


# Planning


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 0.005), (0.004, 0.002), (-0.012, 0.01), (0.02, 0.01)])
@pytest.mark.parametrize("looks", [None, claims.Looks()], ids=["fixed", "looks"])
def test_the_power_is_that_of_simulation(
    statement: claims.Statement, mean: float, deviation: float, looks: claims.Looks | None
) -> None:
    from disbud.claims.reading import decide

    rule = statement.rule(0.005)
    for n in (5, 20):
        drawn = np.random.default_rng(n).normal(mean, deviation, (10_000, n))
        supported, contradicted = decide(rule, drawn, looks)
        power = claims.chance_of_decision(rule, n, mean=mean, deviation=deviation, looks=looks)
        assert power == pytest.approx((supported | contradicted).mean(), abs=4 * 0.5 / 100)


def test_seventeen_to_thirty_seeds_decide_half_a_point_at_digits_spreads() -> None:
    # Paired standard deviations of .5 and .7 points, as seen of SNIP against its shuffle on digits.
    rule = claims.Same("shuffle", "none").rule(0.005)
    needs = [claims.seeds_for_decision(rule, 2, mean=m, deviation=0.007) for m in (0.0, 0.001, 0.0015)]
    assert needs == sorted(needs)
    assert 17 <= needs[0] <= needs[1] <= 30
    for n in (needs[0] - 1, needs[0]):
        assert (claims.chance_of_decision(rule, n, mean=0.0, deviation=0.007) >= 0.8) == (n == needs[0])


def test_where_no_number_of_seeds_decides() -> None:
    rule = claims.AtLeast("a", "b").rule(0.005)
    assert claims.seeds_for_decision(rule, 5, mean=-0.005, deviation=0.01) is None
    assert claims.seeds_for_decision(rule, 5, mean=0.0, deviation=0.0) == 6
    found = claims.judge(claims.AtLeast("a", "b"), around(-0.005, 0.02, 5, 0.9), margin=D)
    assert "not even 10,000 would decide it" in str(found)


def test_power_grows_with_seeds() -> None:
    for statement in STATEMENTS:
        rule = statement.rule(0.005)
        powers = [claims.chance_of_decision(rule, n, mean=0.002, deviation=0.01) for n in range(8, 200, 12)]
        assert all(b >= a - 1e-9 for a, b in pairwise(powers))
