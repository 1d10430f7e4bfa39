"""What is claimed of two variants: the same, at least, loses at most, beats, beats by; and what that asks of intervals.

The difference is always left minus right. "Hurts" and "drops" are `Beats` with the names exchanged. With d the margin:

    statement      supported                      contradicted
    Same           90 % interval in (-d, d)       95 % interval wholly beyond -d or d
    AtLeast        90 % lower bound > -d          90 % upper bound < -d
    LosesAtMost x  90 % lower bound > -x          90 % upper bound < -x
    Beats          95 % lower bound > 0           95 % upper bound < d
    BeatsBy x      95 % lower bound > x           95 % upper bound < max(x, d)

A 90 % interval errs by 5 % on each side. `Same` can be contradicted wrongly on both, so there it takes the 95 %
interval: where the margin is small beside the standard error, the 90 % one would contradict a true claim in up to 10 %.
Where both columns of `Beats` hold, the difference is above 0 and below d: supported, by less than the margin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from disbud.claims.rules import Rule
from disbud.claims.words import Unit, amount
from disbud.errors import DisbudError


class Statement(Protocol):
    """What can be claimed of two variants: it knows its rule for a margin, and how it is said.

    >>> from disbud import claims
    >>> statement: claims.Statement = claims.AtLeast("shuffle", "none")
    >>> statement.said("points")
    'shuffle is at least none'
    """

    @property
    def left(self) -> str: ...  # noqa: D102
    @property
    def right(self) -> str: ...  # noqa: D102
    def rule(self, margin: float) -> Rule: ...  # noqa: D102
    def said(self, unit: Unit) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Same:
    """Left is right to within the margin, which must be above 0.

    >>> from disbud import claims
    >>> pairs = claims.Pairs((0, 1, 2), (0.001, 0, -0.001))
    >>> print(claims.judge(claims.Same("a", "b"), pairs, margin=claims.Margin(0.01)))
    a is the same as b: difference 0.0 points, 90 % interval -0.2 to 0.2, margin 1.0: supported (3 seeds)
    """

    left: str
    right: str

    def rule(self, margin: float) -> Rule:
        """Inside (-d, d); contradicted beyond."""
        if margin <= 0:
            raise DisbudError(
                f"{self.left} the same as {self.right}: nothing is shown to be equal to within 0; margin > 0"
            )
        return Rule(0.90, -margin, margin, 0.95, -margin, margin)

    def said(self, unit: Unit) -> str:
        """The statement in words."""
        return f"{self.left} is the same as {self.right}"


@dataclass(frozen=True)
class AtLeast:
    """Left is no worse than right by the margin or more; with margin 0, it is better.

    >>> from disbud import claims
    >>> pairs = claims.Pairs((0, 1, 2, 3, 4), (-0.002, 0.004, 0.009, -0.001, 0.005))
    >>> print(claims.judge(claims.AtLeast("shuffle", "none"), pairs, margin=claims.Margin(0.005)))
    shuffle is at least none: difference +0.3 points, 90 % interval -0.1 to 0.7, margin 0.5: supported (5 seeds)
    """

    left: str
    right: str

    def rule(self, margin: float) -> Rule:
        """Above -d."""
        return Rule(0.90, -margin, math.inf, 0.90, -margin)

    def said(self, unit: Unit) -> str:
        """The statement in words."""
        return f"{self.left} is at least {self.right}"


@dataclass(frozen=True)
class LosesAtMost:
    """Left is worse than right by less than `by`, a fraction (0.02: two points); the margin does not enter.

    >>> from disbud import claims
    >>> pairs = claims.Pairs((0, 1, 2), (-0.01, -0.011, -0.009))
    >>> print(claims.judge(claims.LosesAtMost("a", "b", 0.02), pairs, margin=claims.Margin(0.005)))
    a loses at most 2 points to b: difference -1.0 points, 90 % interval -1.2 to -0.8, margin 0.5: supported (3 seeds)
    """

    left: str
    right: str
    by: float

    def __post_init__(self) -> None:
        _check_by(self.by)

    def rule(self, margin: float) -> Rule:
        """Above -x."""
        return Rule(0.90, -self.by, math.inf, 0.90, -self.by)

    def said(self, unit: Unit) -> str:
        """The statement in words."""
        if unit == "plain":
            return f"{self.left} is below {self.right} by {amount(self.by, unit)} at most"
        return f"{self.left} loses at most {amount(self.by, unit)} to {self.right}"


@dataclass(frozen=True)
class Beats:
    """Left is better than right; contradicted where it is shown to be better by less than the margin, if at all.

    >>> from disbud import claims
    >>> pairs = claims.Pairs((0, 1, 2, 3), (0.021, 0.018, 0.025, 0.02))
    >>> print(claims.judge(claims.Beats("npb", "snip"), pairs, margin=claims.Margin(0.005)))
    npb beats snip: difference +2.1 points, 95 % interval 1.6 to 2.6, margin 0.5: supported (4 seeds)
    """

    left: str
    right: str

    def rule(self, margin: float) -> Rule:
        """Above 0; contradicted below d."""
        return Rule(0.95, 0.0, math.inf, 0.95, margin)

    def said(self, unit: Unit) -> str:
        """The statement in words."""
        return f"{self.left} {_above(unit)} {self.right}"


@dataclass(frozen=True)
class BeatsBy:
    """Left is better than right by more than `by`, a fraction (0.01: a point).

    >>> from disbud import claims
    >>> pairs = claims.Pairs((0, 1, 2, 3), (0.021, 0.018, 0.025, 0.02))
    >>> print(claims.judge(claims.BeatsBy("npb", "snip", 0.03), pairs, margin=claims.Margin(0.005)))
    npb beats snip by 3 points: difference +2.1 points, 95 % interval 1.6 to 2.6, margin 0.5: contradicted (4 seeds)
    """

    left: str
    right: str
    by: float

    def __post_init__(self) -> None:
        _check_by(self.by)

    def rule(self, margin: float) -> Rule:
        """Above x; contradicted below x, or below d where that is more."""
        return Rule(0.95, self.by, math.inf, 0.95, max(self.by, margin))

    def said(self, unit: Unit) -> str:
        """The statement in words."""
        return f"{self.left} {_above(unit)} {self.right} by {amount(self.by, unit)}"


def _above(unit: Unit) -> str:
    """Of accuracies more is better; of other values (a loss, empty layers) it may be worse."""
    return "beats" if unit == "points" else "is above"


def _check_by(by: float) -> None:
    if not 0 <= by < math.inf:
        raise DisbudError(f"`by` is a difference of at least 0, as a fraction (0.01: a point), not {by!r}")
