"""Whether a value goes with another over a study's tickets: rank correlation within strata, methods as clusters."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from disbud.claims import Correlation, Decided, Interval, Verdict, cluster_interval, rank_correlation
from disbud.errors import DisbudError
from disbud.study.deciding.bounds import Waiting
from disbud.study.deciding.places import said, selected
from disbud.study.deciding.settings import Setting
from disbud.study.frame import AXES, FIRST_CALIBRATION, value_of
from disbud.study.record import Record
from disbud.study.specification.forms import PredictsForm
from disbud.study.trial import Trial

_LEVEL = 0.95
DENSITIES = "densities"  # the stratum of tickets whose layers keep the same numbers of weights


@dataclass(frozen=True)
class Prediction:
    """A rank correlation within strata, or the difference of two, with its interval over methods as clusters."""

    names: tuple[str, str, str | None]
    correlation: Correlation
    interval: Interval
    verdict: Verdict
    p_supported: float
    p_contradicted: float
    clusters: int
    further: int | None = None

    def __str__(self) -> str:
        x, y, other = self.names
        of = f"{x} with {y}" if other is None else f"{x} with {y}, less that of {other}"
        return (
            f"{of}: {self.correlation}; {self.interval}, {self.clusters} methods as clusters: {self.verdict}"
        )


def predicted(form: PredictsForm, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """Supported: the interval lies wholly on the side that is claimed; contradicted: wholly on the other."""
    found = [v for v in selected(variants, said(form.where)) if v.sparsity is not None]
    records = [
        record
        for variant in found
        for seed, record in setting.frame.rows.get(variant, {}).items()
        if seed < FIRST_CALIBRATION and not record.failed
    ]
    names = [form.x, form.y, *([form.rather_than] if form.rather_than else []), *form.given]
    table = {name: np.array([value_of(record, name) for record in records]) for name in names}
    strata = [tuple(_stratum(record, part) for part in form.strata) for record in records]
    clusters = [record.trial.method for record in records]
    if len(set(clusters)) < 3:
        return Waiting(f"{len(set(clusters))} methods say nothing about others; 3 are the least")
    sign = 1.0 if form.sign == "rises" else -1.0

    def correlation(x: str, rows: NDArray[np.intp] | slice) -> Correlation:
        chosen = strata[rows] if isinstance(rows, slice) else [strata[i] for i in rows]
        given = np.column_stack([table[name][rows] for name in form.given]) if form.given else None
        return rank_correlation(table[x][rows], table[form.y][rows], strata=chosen, given=given)

    def statistic(rows: NDArray[np.intp]) -> float:
        value = correlation(form.x, rows).value
        return value if form.rather_than is None else value - correlation(form.rather_than, rows).value

    return _verdict(form, correlation(form.x, slice(None)), statistic, clusters, sign)


def _verdict(
    form: PredictsForm,
    correlation: Correlation,
    statistic: Callable[[NDArray[np.intp]], float],
    clusters: Sequence[Hashable],
    sign: float,
) -> Decided:
    try:
        interval = cluster_interval(statistic, clusters, level=_LEVEL)
    except DisbudError as problem:
        return Waiting(f"{correlation}; no interval: {problem}")
    count = len(set(clusters))
    critical = float(stats.t.ppf((1 + _LEVEL) / 2, count - 1))
    error = (interval.high - interval.low) / 2 / critical
    middle = sign * (interval.low + interval.high) / 2
    t = middle / error if error > 0 else math.copysign(math.inf, middle)
    p = [min(1.0, 2 * float(stats.t.sf(side * t, count - 1))) for side in (1, -1)]
    low, high = sorted((sign * interval.low, sign * interval.high))
    verdict = Verdict.SUPPORTED if low > 0 else Verdict.CONTRADICTED if high < 0 else Verdict.UNDECIDED
    names = (form.x, form.y, form.rather_than)
    return Prediction(names, correlation, interval, verdict, p[0], p[1], count)


def _stratum(record: Record, part: str) -> Hashable:
    if part in AXES:
        return getattr(record.trial, part)  # type: ignore[no-any-return]
    if part == DENSITIES:
        return _kept(record)
    raise DisbudError(f"there is no stratum {part!r}; it is an axis ({', '.join(AXES)}) or {DENSITIES}")


def _kept(record: Record) -> Hashable:
    """How many weights each layer keeps: the same for a ticket and its shuffles."""
    table: Mapping[str, object] = record.measures.get("paths", {})
    if not table:
        raise DisbudError(f'the stratum {DENSITIES} needs the measure "paths"; add it to measures')
    columns, rows = table["columns"], table["rows"]
    assert isinstance(columns, Sequence)
    assert isinstance(rows, Sequence)
    at = columns.index("kept")
    return tuple(row[at] for row in rows)
