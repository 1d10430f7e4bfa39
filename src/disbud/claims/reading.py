"""Reading a rule off paired differences, at one look or at several."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from disbud.claims.rules import Rule, Verdict, sides
from disbud.claims.sequential import Looks
from disbud.claims.student import Array, t_bounds


@dataclass(frozen=True)
class Reading:
    """The verdict, the number of pairs it was reached with, and p-values valid over all looks taken."""

    verdict: Verdict
    pairs: int
    p_supported: float
    p_contradicted: float


def bounds(values: Array, level: float, looks: Looks | None) -> tuple[Array, Array]:
    """The t interval along the last axis: repeated, where one looks several times."""
    return t_bounds(values, level if looks is None else looks.level_a_look(level))


def decide(rule: Rule, values: Array, looks: Looks | None) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether the values, along the last axis, support and contradict."""
    return (
        rule.supported(*bounds(values, rule.support_level, looks)),
        rule.contradicted(*bounds(values, rule.contradiction_level, looks)),
    )


def read(rule: Rule, values: Array, looks: Looks | None) -> Reading:
    """The first decision of all looks that the values allow; what would both support and contradict supports."""
    n = len(values)
    stops = [n] if looks is None else [look for look in looks.seeds if look <= looks.last_done(n)]
    verdict, stop = Verdict.UNDECIDED, stops[-1]
    for stop in stops:
        supported, contradicted = decide(rule, values[:stop], looks)
        if supported or contradicted:
            verdict = Verdict.SUPPORTED if supported else Verdict.CONTRADICTED
            break
    # A decision stands at the look that made it; p-values may grow sharper at later ones.
    p_supported = _p([float(rule.p_supported(values[:k])) for k in stops], rule.support_level, looks)
    p_contradicted = _p(
        [float(rule.p_contradicted(values[:k])) for k in stops], rule.contradiction_level, looks
    )
    if verdict is Verdict.SUPPORTED:
        p_contradicted = 1.0
    elif verdict is Verdict.CONTRADICTED:
        p_supported = 1.0
    return Reading(verdict, stop, p_supported, p_contradicted)


def _p(one_sided: list[float], level: float, looks: Looks | None) -> float:
    """The p-value whose .05 is the interval's level, valid at any stop."""
    least = min(one_sided)
    return min(sides(level) * (least if looks is None else looks.overall_p(least)), 1.0)
