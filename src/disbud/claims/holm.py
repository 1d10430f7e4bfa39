"""Holm's correction: many p-values, and still at most 5 % chance of any false one among those called significant."""

from __future__ import annotations

import numpy as np

from disbud.claims.student import Values
from disbud.errors import DisbudError

ALPHA = 0.05


def holm(p_values: Values) -> tuple[float, ...]:
    """Holm's step-down adjusted p-values (1979), in the order given: those at most alpha are significant together.

    With p sorted up, max over j <= i of (m - j + 1) p_j, at most 1. Valid however the p-values depend on each other.

    >>> from disbud import claims
    >>> claims.holm([0.01, 0.04, 0.03])
    (0.03, 0.06, 0.06)
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise DisbudError(f"p-values are one row of numbers from 0 to 1, not {p_values!r}")
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(np.minimum(p[order] * np.arange(len(p), 0, -1), 1.0))
    adjusted = np.empty_like(p)
    adjusted[order] = steps
    return tuple(adjusted.tolist())
