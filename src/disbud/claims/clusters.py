"""Intervals for a statistic of points that come in clusters, as all tickets of one method do."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from disbud.claims.intervals import LEAST_FOR_BOOTSTRAP, Interval, least_resamples
from disbud.claims.student import check_level
from disbud.errors import DisbudError
from disbud.seeds import derive

Rows = NDArray[np.intp]
MOST_UNDEFINED = 0.05


def cluster_interval(
    statistic: Callable[[Rows], float],
    clusters: Sequence[Hashable],
    *,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 999,
) -> Interval:
    """An interval for statistic(rows), `clusters` naming the cluster of every row (as its method).

    From 10 clusters on, the studentised bootstrap over clusters, each resample's standard error by the jackknife over
    its clusters; from 3 to 9, where a bootstrap covers too little, Student's t with the jackknife over clusters (Tukey
    1958) and one degree of freedom less than clusters. To compare two correlations, let the statistic be their
    difference. Resamples in which the statistic is undefined (NaN) are left out, up to 1 in 20.

    >>> import numpy as np
    >>> from disbud import claims
    >>> values = np.array([1.0, 2.0, 2.0, 3.0, 5.0, 6.0])
    >>> print(claims.cluster_interval(lambda rows: values[rows].mean(), ["snip", "snip", "npb", "npb", "erk", "erk"]))
    95 % interval -2 to 8.34
    """
    check_level(level)
    members = _members(clusters)
    if len(members) < 3:
        raise DisbudError(f"{len(members)} clusters say nothing about others; at least 3 are needed")
    estimate, error = _jackknifed(statistic, members)
    if not (math.isfinite(estimate) and math.isfinite(error)):
        raise DisbudError("the statistic is undefined over all rows, or once one cluster is left out")
    if len(members) < LEAST_FOR_BOOTSTRAP or error == 0:
        half = float(stats.t.ppf((1 + level) / 2, len(members) - 1)) * error
        return Interval(estimate - half, estimate + half, level, "jackknife")
    if resamples < least_resamples(level):
        raise DisbudError(
            f"{resamples} resamples are too few for {100 * level:g} %; take {least_resamples(level)} or more"
        )
    stream = np.random.default_rng(derive(seed, "bootstrap", "clusters"))
    found = []
    for drawn in stream.integers(len(members), size=(resamples, len(members))):
        mean, spread = _jackknifed(statistic, [members[i] for i in drawn])
        if math.isnan(mean) or math.isnan(spread):
            continue
        away = mean - estimate
        found.append(away / spread if spread > 0 else math.copysign(math.inf, away) if away else 0.0)
    if len(found) < (1 - MOST_UNDEFINED) * resamples:
        raise DisbudError(
            f"the statistic is undefined in {resamples - len(found)} of {resamples} resamples of clusters"
        )
    t = np.sort(found)
    rank = max(math.floor((len(t) + 1) * (1 - level) / 2 + 1e-9), 1)
    low, high = estimate - float(t[-rank]) * error, estimate - float(t[rank - 1]) * error
    return Interval(low, high, level, "bootstrap")


def _members(clusters: Sequence[Hashable]) -> list[Rows]:
    rows: dict[Hashable, list[int]] = {}
    for row, cluster in enumerate(clusters):
        rows.setdefault(cluster, []).append(row)
    return [np.array(found, dtype=np.intp) for found in rows.values()]


def _jackknifed(statistic: Callable[[Rows], float], members: list[Rows]) -> tuple[float, float]:
    """The statistic, and its standard error from leaving out one cluster at a time."""
    count = len(members)
    value = float(statistic(np.concatenate(members)))
    without = np.array([statistic(np.concatenate(members[:i] + members[i + 1 :])) for i in range(count)])
    return value, math.sqrt((count - 1) / count * float(((without - without.mean()) ** 2).sum()))
