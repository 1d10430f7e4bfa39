"""Can the setting show anything: do its positive controls differ, and are the compared above chance at all?"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping

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


def beats_guessing(accuracies: Iterable[float], *, chance: float, margin: Margin) -> bool:
    """Whether accuracies are better than guessing, in the mean and by more than the margin.

    Two that are not, and so do not differ, are no evidence that they train the same: that is uninformative.

    >>> from disbud import claims
    >>> [claims.beats_guessing(found, chance=0.1, margin=claims.Margin(0.005)) for found in ([0.3, 0.2], [0.1, 0.1])]
    [True, False]
    """
    return statistics.fmean(accuracies) > chance + margin.value
