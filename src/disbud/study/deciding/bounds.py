"""Whether the mean of a value over seeds lies below, or above, a number; and what stands where nothing is judged."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from disbud.claims import Beats, Decided, Looks, Margin, Pairs, Rule, Verdict, judge
from disbud.errors import DisbudError

LEAST_PAIRS = 3


@dataclass(frozen=True)
class Waiting:
    """A cell that cannot be judged yet: too few seeds, or failed trials."""

    why: str
    further: int | None = None
    verdict: Verdict = Verdict.UNDECIDED
    p_supported: float = 1.0
    p_contradicted: float = 1.0

    def __str__(self) -> str:
        return self.why


def waiting_if(judged: Callable[..., Decided], *given: object) -> Decided:
    """What is judged of the given; where that cannot be, why: one cell must not take the others with it."""
    try:
        return judged(*given)
    except DisbudError as problem:
        return Waiting(str(problem))


@dataclass(frozen=True)
class Bounded:
    """That a value stays below a number, or above it: judged on its distance from the number."""

    left: str
    right: str
    side: str

    def rule(self, margin: float) -> Rule:
        """The distance is above 0."""
        return Beats(self.left, self.right).rule(margin)

    def said(self, unit: str) -> str:
        """The statement in words."""
        return f"{self.left} lies {self.side} {self.right}"


def held(
    values: Mapping[int, float],
    *,
    what: str,
    most: float | None = None,
    least: float | None = None,
    looks: Looks | None = None,
) -> Decided:
    """Judge a value, by seed, against the most or the least that it may be on average; seeds without one do not count.

    >>> from disbud.study.deciding import held
    >>> print(held({0: 0.02, 1: 0.03, 2: 0.02, 3: 0.025}, what="the change", most=0.1))
    the change lies below 0.1: difference +0.08, 95 % interval 0.07 to 0.08, margin 0.00: supported (4 seeds)
    """
    limit, sign, side = (least, -1, "above") if most is None else (most, 1, "below")
    if limit is None:
        raise ValueError("held() needs `most` or `least`")
    gaps = {seed: sign * (limit - value) for seed, value in values.items() if math.isfinite(value)}
    needed = LEAST_PAIRS if looks is None else looks.seeds[0]
    if len(gaps) < needed:
        return Waiting(f"{len(gaps)} seeds; {needed} are the least", needed - len(gaps))
    pairs = Pairs(tuple(gaps), tuple(gaps.values()), "plain")
    return judge(Bounded(what, f"{limit:g}", side), pairs, margin=Margin(0.0, unit="plain"), looks=looks)
