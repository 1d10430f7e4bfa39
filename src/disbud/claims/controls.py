"""Positive controls: does the setting show a difference where there is known to be one?"""

from __future__ import annotations

from collections.abc import Mapping

from disbud.claims.cells import Cells, there_is
from disbud.claims.margins import Margin
from disbud.claims.pairs import Pairs
from disbud.claims.sequential import Looks
from disbud.claims.statements import BeatsBy
from disbud.claims.verdicts import judge


def positive_controls(
    controls: Mapping[str, Pairs], *, margin: Margin, looks: Looks | None = None, better: str = "reference"
) -> Cells:
    """Whether the setting can show anything: is a variant known to be worse found worse by more than the margin?

    Each control is what should win minus what should lose, as dense minus random-uniform, or magnitude after training
    minus its shuffle. Supported: at least one is worse by more than d (Holm over the controls). Contradicted: all are
    within d, and claims judged with these controls are uninformative. Undecided: not known yet, so no claim is decided
    but by a difference that is itself beyond d.

    >>> from disbud import claims
    >>> dense_minus_random = claims.Pairs((0, 1, 2, 3), (0.003, 0.002, 0.003, 0.004))
    >>> shown = claims.positive_controls({"random-uniform": dense_minus_random}, margin=claims.Margin(0.005))
    >>> shown.verdict
    <Verdict.CONTRADICTED: 'contradicted'>
    >>> same, pairs = claims.Same("shuffle", "none"), claims.Pairs((0, 1, 2), (0, 0.001, 0.002))
    >>> claims.judge(same, pairs, margin=claims.Margin(0.005), controls=shown).verdict
    <Verdict.UNINFORMATIVE: 'uninformative'>
    """
    return there_is(
        {
            name: judge(BeatsBy(better, name, margin.value), pairs, margin=margin, looks=looks)
            for name, pairs in controls.items()
        }
    )
