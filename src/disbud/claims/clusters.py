"""Intervals for a statistic of points that come in clusters, as all tickets of one method do."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from disbud.claims.intervals import LEAST_FOR_BOOTSTRAP, Interval, least_resamples
from disbud.claims.student import check_level
from disbud.errors import DisbudError
from disbud.seeds import derive

Rows = NDArray[np.intp]
MOST_UNDEFINED = 0.05
_NO_ERROR = 1e-12  # of the statistic: rounding


@dataclass(frozen=True)
class Clustered:
    """A statistic of points in clusters, its interval, and the one-sided p-values of "it is not above 0", "not below".

    >>> from disbud import claims
    >>> claims.Clustered(0.5, claims.Interval(0.2, 0.9, level=0.95, method="jackknife"), 0.01, 0.99).estimate
    0.5
    """

    estimate: float
    interval: Interval
    p_above: float
    p_below: float


def cluster_interval(
    statistic: Callable[[Rows], float],
    clusters: Sequence[Hashable],
    *,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 999,
) -> Interval:
    """The interval of `cluster_test`.

    >>> import numpy as np
    >>> from disbud import claims
    >>> values = np.array([1.0, 2.0, 2.0, 3.0, 5.0, 6.0])
    >>> print(claims.cluster_interval(lambda rows: values[rows].mean(), ["snip", "snip", "npb", "npb", "erk", "erk"]))
    95 % interval -2 to 8.34
    """
    return cluster_test(statistic, clusters, level=level, seed=seed, resamples=resamples).interval


def cluster_test(
    statistic: Callable[[Rows], float],
    clusters: Sequence[Hashable],
    *,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 999,
) -> Clustered:
    """An interval for statistic(rows), `clusters` naming the cluster of every row (as its method), and p-values.

    From 10 clusters on, the studentised bootstrap over clusters, each resample's standard error by the jackknife over
    its clusters; from 3 to 9, where a bootstrap covers too little, Student's t with the jackknife over clusters (Tukey
    1958) and one degree of freedom less than clusters. Where leaving out any cluster changes nothing, there is no error
    to estimate, and a sign test stands in: the interval is the value from 6 clusters on (at 95 %), unbounded below. To
    compare two correlations, let the statistic be their difference. Resamples in which the statistic is undefined (NaN)
    are left out, up to 1 in 20.

    >>> import numpy as np
    >>> from disbud import claims
    >>> values = np.array([1.0, 2.0, 2.0, 3.0, 5.0, 6.0])
    >>> found = claims.cluster_test(lambda rows: values[rows].mean(), ["snip", "snip", "npb", "npb", "erk", "erk"])
    >>> round(found.estimate, 2), round(found.p_above, 2)
    (3.17, 0.06)
    """
    check_level(level)
    members = _members(clusters)
    if len(members) < 3:
        raise DisbudError(f"{len(members)} clusters say nothing about others; at least 3 are needed")
    estimate, error = _jackknifed(statistic, members)
    if not (math.isfinite(estimate) and math.isfinite(error)):
        raise DisbudError("the statistic is undefined over all rows, or once one cluster is left out")
    if error <= _NO_ERROR * abs(estimate):
        return _by_signs(estimate, len(members), level)
    if len(members) < LEAST_FOR_BOOTSTRAP:
        free = len(members) - 1
        half = float(stats.t.ppf((1 + level) / 2, free)) * error
        p_above, p_below = (float(stats.t.sf(side * estimate / error, free)) for side in (1, -1))
        return Clustered(
            estimate, Interval(estimate - half, estimate + half, level, "jackknife"), p_above, p_below
        )
    if resamples < least_resamples(level):
        raise DisbudError(
            f"{resamples} resamples are too few for {100 * level:g} %; take {least_resamples(level)} or more"
        )
    t = np.sort(_studentised(statistic, members, estimate, seed, resamples))
    rank = max(math.floor((len(t) + 1) * (1 - level) / 2 + 1e-9), 1)
    low, high = estimate - float(t[-rank]) * error, estimate - float(t[rank - 1]) * error
    p_above = (1 + int((t >= estimate / error).sum())) / (len(t) + 1)
    p_below = (1 + int((t <= estimate / error).sum())) / (len(t) + 1)
    return Clustered(estimate, Interval(low, high, level, "bootstrap"), p_above, p_below)


def _by_signs(estimate: float, clusters: int, level: float) -> Clustered:
    """n clusters that all say the same do so by chance in 2^-n, whatever their law."""
    chance = 2.0**-clusters
    half = 0.0 if 2 * chance <= 1 - level else math.inf
    p_above, p_below = (chance if side * estimate > 0 else 1.0 for side in (1, -1))
    return Clustered(
        estimate, Interval(estimate - half, estimate + half, level, "sign test"), p_above, p_below
    )


def _studentised(
    statistic: Callable[[Rows], float], members: list[Rows], estimate: float, seed: int, resamples: int
) -> list[float]:
    """(statistic - estimate) / error, resample by resample of the clusters."""
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
    return found


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
