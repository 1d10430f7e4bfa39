"""p-values of the two tests a claim of sameness or of superiority rests on."""

from __future__ import annotations

import math

from disbud.claims.student import Values, checked, p_above, p_below
from disbud.errors import DisbudError


def equivalence_p(differences: Values, *, margin: float) -> float:
    """Two one-sided t tests (Schuirmann 1987): the larger p of "mean <= -margin" and of "mean >= margin".

    At most .05 exactly where the 90 % interval lies inside (-margin, margin).

    >>> from disbud import claims
    >>> round(claims.equivalence_p([0.1, -0.2, 0.0, 0.3, -0.1], margin=0.5), 4)
    0.0025
    """
    values = checked(differences)
    if not 0 < margin < math.inf:
        raise DisbudError(
            f"equivalence needs a margin above 0, not {margin!r}: nothing is shown to be equal to within 0"
        )
    return float(max(p_above(values, -margin), p_below(values, margin)))


def superiority_p(differences: Values, *, by: float = 0.0) -> float:
    """Twice the one-sided p of "the mean is at most `by`" in a t test, 1 at most.

    At most .05 exactly where the 95 % interval lies above `by`.

    >>> from disbud import claims
    >>> round(claims.superiority_p([1.0, 2.0, 3.0, 4.0, 5.0]), 4)
    0.0132
    """
    return min(1.0, 2 * float(p_above(checked(differences), by)))
