"""Rank correlation, within strata and with other quantities held fixed."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from disbud.claims.student import Array, Values
from disbud.errors import DisbudError


@dataclass(frozen=True)
class Correlation:
    """A rank correlation, its two-sided p-value, and what it was taken over; NaN where it is undefined, and `why`.

    >>> from disbud import claims
    >>> print(claims.rank_correlation([1, 2, 3, 4, 5], [2, 1, 3, 5, 4]))
    rank correlation +0.80, p 0.1 (5 points)
    """

    value: float
    p: float
    points: int
    strata: int = 1
    fixed: int = 0
    why: str = ""

    def __str__(self) -> str:
        over = f"{self.points} points"
        over += f" in {self.strata} strata" if self.strata > 1 else ""
        over += f", {self.fixed} held fixed" if self.fixed else ""
        if math.isnan(self.value):
            return f"rank correlation undefined: {self.why} ({over})"
        return f"rank correlation {self.value:+.2f}, p {self.p:.2g} ({over})"


def rank_correlation(
    x: Values,
    y: Values,
    *,
    strata: Sequence[Hashable] | None = None,
    given: NDArray[np.float64] | Sequence[Sequence[float]] | None = None,
) -> Correlation:
    """Spearman's correlation of x and y: of their ranks (ties share theirs), Pearson's.

    With `strata` (as the sparsity, or the layer densities), ranks are taken and centred within each stratum, in parts
    of its size, so that only differences within strata count. With `given` (a row a point, a column a quantity), the
    ranks of those are regressed out of both: the partial rank correlation, which says whether x predicts y beyond them.
    The p-value takes r sqrt(df / (1 - r^2)) for Student's t, with df = points - strata - 1 - columns, and points for
    independent; where methods come as clusters of points, `cluster_interval` is the one to read.

    Undefined where x or y does not vary within any stratum (as N, once it saturates), or only as the given do.

    >>> from disbud import claims
    >>> nodes, accuracy, sparsity = [1, 2, 3, 1, 2, 3], [5, 6, 7, 1, 2, 3], [0.9] * 3 + [0.99] * 3
    >>> print(claims.rank_correlation(nodes, accuracy, strata=sparsity))
    rank correlation +1.00, p 0 (6 points in 2 strata)
    >>> print(claims.rank_correlation([4, 4, 4, 4], [1, 2, 3, 4]))
    rank correlation undefined: x is the same everywhere (4 points)
    """
    rows, groups, fixed = _read(x, y, strata, given)
    points, count = rows.shape[1], int(groups.max()) + 1
    ranks = _ranked(rows, groups)
    sizes = np.linalg.norm(ranks, axis=1)
    within = " within any stratum" if count > 1 else " everywhere"
    for name, size in zip("xy", sizes, strict=False):
        if size == 0:
            return Correlation(math.nan, math.nan, points, count, fixed, f"{name} is the same{within}")
    columns = 0
    if fixed:
        held = ranks[2:].T
        columns = int(np.linalg.matrix_rank(held))
        ranks = ranks[:2] - (held @ np.linalg.lstsq(held, ranks[:2].T, rcond=None)[0]).T
        for name, size, before in zip("xy", np.linalg.norm(ranks, axis=1), sizes, strict=False):
            if size <= 1e-9 * before:
                why = f"what is held fixed leaves nothing of {name}"
                return Correlation(math.nan, math.nan, points, count, fixed, why)
    free = points - count - 1 - columns
    if free < 1:
        raise DisbudError(
            f"{points} points in {count} strata with {columns} quantities held fixed leave nothing to correlate; "
            f"at least {points - free + 1} points are needed"
        )
    a, b = ranks[:2]
    r = float(np.clip(a @ b / math.sqrt((a @ a) * (b @ b)), -1, 1))
    t = abs(r) * math.sqrt(free / (1 - r * r)) if abs(r) < 1 - 1e-15 else math.inf
    return Correlation(r, float(2 * stats.t.sf(t, free)), points, count, fixed)


def _read(
    x: Values, y: Values, strata: Sequence[Hashable] | None, given: Array | Sequence[Sequence[float]] | None
) -> tuple[Array, NDArray[np.intp], int]:
    """x, y and the given quantities as rows; the number of each point's stratum; how many are given."""
    held = np.empty((len(x), 0)) if given is None else np.asarray(given, dtype=np.float64)
    if held.ndim != 2 or not len(x) == len(y) == len(held):
        raise DisbudError(
            f"x, y and `given` say one thing each of every point: {len(x)} and {len(y)} numbers and an array of shape "
            f"{held.shape} do not; `given` has a row a point and a column a quantity"
        )
    if strata is not None and len(strata) != len(x):
        raise DisbudError(f"{len(strata)} strata do not go with {len(x)} points; name one a point")
    rows = np.vstack([np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64), held.T])
    if np.isnan(rows).any():
        raise DisbudError(
            "a rank needs a number, and some are not (NaN); leave those points out of x, y and `given`"
        )
    if rows.shape[1] < 3:
        raise DisbudError(f"{rows.shape[1]} points have no correlation to speak of; at least 3 are needed")
    numbers: dict[Hashable, int] = {}
    groups = [numbers.setdefault(stratum, len(numbers)) for stratum in (strata or [0] * len(x))]
    return rows, np.array(groups, dtype=np.intp), held.shape[1]


def _ranked(rows: Array, groups: NDArray[np.intp]) -> Array:
    """Ranks within each stratum about their mean, in parts of its size."""
    ranks = np.empty_like(rows)
    for group in range(groups.max() + 1):
        members = groups == group
        within = stats.rankdata(rows[:, members], axis=1)
        ranks[:, members] = (within - (members.sum() + 1) / 2) / members.sum()
    return ranks
