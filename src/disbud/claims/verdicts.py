"""From a statement, paired differences and a margin to a verdict, in a sentence a person can read."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

from disbud.claims.holm import ALPHA
from disbud.claims.intervals import (
    LEAST_FOR_BOOTSTRAP,
    Interval,
    least_resamples,
    resample_counts,
    studentised_bounds,
)
from disbud.claims.margins import Margin
from disbud.claims.pairs import Pairs
from disbud.claims.planning import MOST_SEEDS, seeds_for_decision
from disbud.claims.reading import bounds, read
from disbud.claims.rules import Rule, Verdict
from disbud.claims.sequential import Looks
from disbud.claims.statements import Statement
from disbud.claims.student import Array, checked, summary
from disbud.claims.words import decimals, listed, number
from disbud.errors import DisbudError


class Decided(Protocol):
    """Whatever has a verdict: a judgement, a claim over many cells, a trend, a crossover.

    `p_supported` and `p_contradicted` are at most .05 where the verdict is that; `further` is the number of seeds more
    that a decision would need, None where there is none to be named.

    >>> from disbud import claims
    >>> def is_open(result: claims.Decided) -> bool:
    ...     return result.verdict is claims.Verdict.UNDECIDED
    """

    @property
    def verdict(self) -> Verdict: ...  # noqa: D102
    @property
    def p_supported(self) -> float: ...  # noqa: D102
    @property
    def p_contradicted(self) -> float: ...  # noqa: D102
    @property
    def further(self) -> int | None: ...  # noqa: D102


@dataclass(frozen=True)
class Judgement:
    """A statement's verdict and what it rests on; prints as a sentence.

    `interval` is that by which the verdict was reached or failed to be; `seeds` those used for it. `further` is the
    number of seeds more that would decide in 4 cases of 5, were mean and spread as they are seen now.

    >>> from disbud import claims
    >>> pairs = claims.Pairs((0, 1, 2, 3, 4), (0.001, -0.006, 0.006, 0.003, -0.007))
    >>> result = claims.judge(claims.Same("shuffle", "none"), pairs, margin=claims.Margin(0.005))
    >>> result.verdict, result.further
    (<Verdict.UNDECIDED: 'undecided'>, 9)
    """

    statement: Statement
    verdict: Verdict
    seeds: int
    estimate: float
    deviation: float
    interval: Interval
    margin: Margin
    p_supported: float
    p_contradicted: float
    further: int | None = None
    remarks: tuple[str, ...] = ()

    def uninformative(self, why: str) -> Judgement:
        """The same numbers, of which it turned out that they can show nothing."""
        return replace(
            self,
            verdict=Verdict.UNINFORMATIVE,
            p_supported=1.0,
            p_contradicted=1.0,
            further=None,
            remarks=(why,),
        )

    def __str__(self) -> str:
        unit, low, high = self.margin.unit, self.interval.low, self.interval.high
        digits = decimals(unit, high - low)
        shown = number(self.estimate, unit, digits)
        shown = f"+{shown}" if float(shown) > 0 else shown
        name = "repeated interval" if self.interval.method == "repeated t" else "interval"
        between = f"{number(low, unit, digits)} to {number(high, unit, digits)}"
        between = between if math.isfinite(high - low) else "unbounded"
        beside = "; ".join([f"{self.seeds} seeds", *self.remarks])
        return (
            f"{self.statement.said(unit)}: difference {shown}{' points' if unit == 'points' else ''}, "
            f"{100 * self.interval.level:g} % {name} {between}, "
            f"margin {number(self.margin.value, unit, max(digits, 1))}: {self.verdict} ({beside})"
        )


def judge(
    statement: Statement,
    pairs: Pairs,
    *,
    margin: Margin,
    looks: Looks | None = None,
    controls: Decided | None = None,
    seed: int = 0,
) -> Judgement:
    """The verdict on a statement about left minus right, by t intervals (its rule: `disbud.claims.statements`).

    Without `looks`, the number of seeds counts as fixed beforehand. With them the seeds were added until decided: there
    is one repeated interval a look (Jennison and Turnbull 1989), the first that decides is the verdict, seeds beyond
    the last look wait for the next, and p-values are valid at any stop. `controls` (see `positive_controls`) say
    whether the setting can show anything at all: until they do, nothing is supported or contradicted, and while they
    are undecided only by a difference beyond the margin, which shows it by itself. From 10 pairs on a studentised
    bootstrap (drawn from `seed`) is held beside, and said where it reads otherwise.

    >>> from disbud import claims
    >>> pairs = claims.Pairs((0, 1, 2, 3, 4), (0.02, 0.03, 0.01, 0.03, 0.02))
    >>> print(claims.judge(claims.Beats("a", "b"), pairs, margin=claims.Margin(0.005), looks=claims.Looks()))
    a beats b: difference +2.2 points, 95 % repeated interval 0.6 to 3.8, margin 0.5: supported (5 seeds)
    """
    _check(pairs, margin)
    values, rule = checked(pairs.differences), statement.rule(margin.value)
    found = read(rule, values, looks)
    used = values[: found.pairs]
    mean, error, _ = summary(used)
    deviation = float(error) * math.sqrt(found.pairs)
    level = rule.level_for(float(mean))
    low, high = (float(bound) for bound in bounds(used, level, looks))
    remarks = [*_doubts(rule, used, found.verdict, looks, seed), *_counted(pairs, found.pairs, looks)]
    if found.verdict is Verdict.SUPPORTED and high < rule.falls_under:
        remarks.insert(0, "by less than the margin")
    verdict, p = found.verdict, (found.p_supported, found.p_contradicted)
    further: int | None = None
    if controls is not None and not _shown(controls, used, margin, looks):
        verdict, remark = _without_control(controls)
        p, further = (1.0, 1.0), controls.further
        remarks.insert(0, remark)
    elif verdict is Verdict.UNDECIDED:
        total = seeds_for_decision(rule, found.pairs, mean=float(mean), deviation=deviation, looks=looks)
        further = None if total is None else total - found.pairs
        remarks.insert(0, _planned(found.pairs, further, looks))
    interval = Interval(low, high, level, "t" if looks is None else "repeated t")
    return Judgement(
        statement, verdict, found.pairs, float(mean), deviation, interval, margin, *p, further, tuple(remarks)
    )


def _check(pairs: Pairs, margin: Margin) -> None:
    if pairs.unit != margin.unit:
        raise DisbudError(
            f"differences in {pairs.unit} cannot be held to a margin in {margin.unit}; give both one unit"
        )
    shared = sorted(margin.seeds & set(pairs.seeds))
    if shared:
        raise DisbudError(
            f"seeds {listed([str(seed) for seed in shared])} were used to find the margin; a claim is tested on others"
        )


def _shown(controls: Decided, used: Array, margin: Margin, looks: Looks | None) -> bool:
    """Whether the setting can show a difference: by its controls, or while these are open by this one."""
    if controls.verdict is not Verdict.UNDECIDED:
        return controls.verdict is Verdict.SUPPORTED
    low, high = bounds(used, 1 - ALPHA, looks)
    return bool(low > margin.value or high < -margin.value)


def _without_control(controls: Decided) -> tuple[Verdict, str]:
    if controls.verdict is Verdict.UNDECIDED:
        return Verdict.UNDECIDED, "no control is yet shown to be worse by more than the margin"
    return Verdict.UNINFORMATIVE, "no control is worse by more than the margin"


def _planned(seeds: int, further: int | None, looks: Looks | None) -> str:
    if further is not None:
        return f"about {further} more would decide it"
    if looks is None:
        return f"at this mean and spread not even {MOST_SEEDS:,} would decide it"
    if looks.next_after(seeds) is None:
        return "that was the last look"
    return f"{looks.next_after(seeds)} are the next look; {looks.seeds[-1]} may not decide it"


def _counted(pairs: Pairs, seeds: int, looks: Looks | None) -> list[str]:
    """What was done with runs beyond the look, and with those that diverged."""
    remarks = []
    if len(pairs) > seeds and looks is not None:
        remarks.append(f"{len(pairs) - seeds} more not looked at")
    if pairs.diverged:
        remarks.append(f"{pairs.diverged} diverged run{'s' if pairs.diverged > 1 else ''} counted in")
    return remarks


def _doubts(rule: Rule, used: Array, verdict: Verdict, looks: Looks | None, seed: int) -> list[str]:
    """Where there is no spread, and where the studentised bootstrap reads otherwise."""
    if summary(used)[2]:
        return ["all differences equal"]
    if len(used) < LEAST_FOR_BOOTSTRAP:
        return []
    levels = [
        level if looks is None else looks.level_a_look(level)
        for level in (rule.support_level, rule.contradiction_level)
    ]
    counts = resample_counts(len(used), seed, max(1999, *(least_resamples(level) for level in levels)))
    supported = rule.supported(*studentised_bounds(used, levels[0], counts))
    contradicted = rule.contradicted(*studentised_bounds(used, levels[1], counts))
    other = Verdict.SUPPORTED if supported else Verdict.CONTRADICTED if contradicted else Verdict.UNDECIDED
    return [] if other is verdict else [f"the bootstrap reads {other}"]
