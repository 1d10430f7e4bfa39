"""A monotone trend over ordered conditions, within seeds: Page's test, and a slope for each seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from disbud.claims.holm import ALPHA
from disbud.claims.rules import Verdict
from disbud.claims.student import Array, Values
from disbud.errors import DisbudError


@dataclass(frozen=True)
class Trend:
    """Whether values rise over ordered conditions: Page's test, and the mean over seeds of Spearman's correlation.

    >>> from disbud import claims
    >>> print(claims.rising([[1, 2, 3, 4], [1, 3, 2, 4], [2, 1, 3, 4]], names=["90", "95", "98", "99"]))
    rises over 90, 95, 98, 99: mean rank correlation +0.87, p 0.0058: supported (3 seeds)
    """

    verdict: Verdict
    correlation: float
    p_supported: float
    p_contradicted: float
    seeds: int
    names: tuple[str, ...]
    further: int | None = None

    def __str__(self) -> str:
        p = min(self.p_supported, self.p_contradicted)
        return (
            f"rises over {', '.join(self.names)}: mean rank correlation {self.correlation:+.2f}, p {p:.2g}: "
            f"{self.verdict} ({self.seeds} seeds)"
        )


def rising(values: Array | Sequence[Sequence[float]], *, names: Sequence[str] = ()) -> Trend:
    """Page's test (1963) that a row's values rise with its columns; a row a seed, a column a condition, in order.

    Values are ranked within each seed; p-values are exact where few and untied, else Page's normal approximation (with
    ties it errs on the careful side), and doubled, since one may look at either direction. Contradicted: they fall.
    That *every* step rises is more: `for_all` over the steps, each a `Beats`. How far they rise is said by `slopes`.

    >>> from disbud import claims
    >>> claims.rising([[3, 2, 1]] * 4).verdict
    <Verdict.CONTRADICTED: 'contradicted'>
    """
    table = _table(values)
    seeds, columns = table.shape
    labels = tuple(names) or tuple(str(i + 1) for i in range(columns))
    if len(labels) != columns:
        raise DisbudError(f"{len(labels)} names do not go with {columns} conditions")
    ranks = stats.rankdata(table, axis=1)
    tied = any(len(set(row)) < columns for row in table.tolist())
    method = "asymptotic" if tied else "auto"
    p = [
        min(1.0, 2 * float(stats.page_trend_test(r, ranked=True, method=method).pvalue))
        for r in (ranks, columns + 1 - ranks)
    ]
    verdict = Verdict.UNDECIDED
    if min(p) <= ALPHA:
        verdict = Verdict.SUPPORTED if p[0] <= ALPHA else Verdict.CONTRADICTED
    order = np.arange(1, columns + 1)
    # Page's L, from -1 to 1: the mean of Spearman's correlations where there are no ties.
    page = float((ranks * order).sum())
    correlation = 12 * page / (seeds * columns * (columns**2 - 1)) - 3 * (columns + 1) / (columns - 1)
    return Trend(verdict, correlation, p[0], p[1], seeds, labels)


def slopes(values: Array | Sequence[Sequence[float]], at: Values) -> tuple[float, ...]:
    """Each seed's least-squares slope over its columns' positions `at`: differences to judge, as "the gap grows".

    >>> from disbud import claims
    >>> claims.slopes([[0.01, 0.02, 0.03], [0.0, 0.02, 0.04]], [0, 1, 2])
    (0.01, 0.02)
    """
    table, positions = _table(values), np.asarray(at, dtype=np.float64)
    if positions.shape != (table.shape[1],) or not np.isfinite(positions).all() or np.ptp(positions) == 0:
        raise DisbudError(
            f"`at` is one finite position a column ({table.shape[1]} of them, not all the same), not {at!r}"
        )
    away = positions - positions.mean()
    return tuple(round(float(slope), 15) for slope in table @ away / (away @ away))


def _table(values: Array | Sequence[Sequence[float]]) -> Array:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] < 2 or table.shape[1] < 3:
        raise DisbudError(
            f"a trend needs at least 2 seeds (rows) and 3 conditions (columns), not an array of shape {table.shape}"
        )
    if not np.isfinite(table).all():
        raise DisbudError("values are finite; give a run that diverged the value it counts as")
    return table
