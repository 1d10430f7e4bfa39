"""Whether a value goes with another over a study's tickets: rank correlation within strata, methods as clusters."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from disbud.claims import (
    Clustered,
    Correlation,
    Decided,
    Interval,
    Verdict,
    cluster_test,
    rank_correlation,
)
from disbud.errors import DisbudError
from disbud.study.deciding.bounds import Waiting
from disbud.study.deciding.places import said, selected
from disbud.study.deciding.settings import Setting
from disbud.study.frame import AXES, FIRST_CALIBRATION, has_value, value_of
from disbud.study.record import Record
from disbud.study.specification.forms import PredictsForm
from disbud.study.trial import SMALL_DENSE, Trial

_LEVEL, _RESAMPLES = 0.95, 1999
DENSITIES = "densities"  # the stratum of tickets whose layers keep the same numbers of weights


@dataclass(frozen=True)
class Prediction:
    """A rank correlation within strata, or how far it is above another, with its interval over methods as clusters.

    `estimate` is what the interval is of; `left_out` how many tickets have no value.
    """

    names: tuple[str, str, str | None]
    correlation: Correlation
    estimate: float
    interval: Interval
    verdict: Verdict
    p_supported: float
    p_contradicted: float
    clusters: int
    left_out: int = 0
    further: int | None = None

    def __str__(self) -> str:
        x, y, other = self.names
        of = f"{x} with {y}: {self.correlation}"
        of += "" if other is None else f"; {self.estimate:+.2f} above that of {other}"
        beside = f", {self.left_out} tickets without a value" if self.left_out else ""
        return f"{of}; {self.interval}, {self.clusters} methods as clusters{beside}: {self.verdict}"


def predicted(form: PredictsForm, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """Supported: the interval lies wholly on the side that is claimed; contradicted: wholly on the other."""
    names = [form.x, form.y, *([form.rather_than] if form.rather_than else []), *form.given]
    asked = [
        record
        for variant in tickets_in(form, variants)
        for seed, record in setting.frame.rows.get(variant, {}).items()
        if seed < FIRST_CALIBRATION and not record.failed
    ]
    records = [record for record in asked if all(_has(record, name) for name in names)]
    clusters = [record.trial.method for record in records]
    if len(set(clusters)) < 3:
        return Waiting(f"{len(set(clusters))} methods say nothing about others; 3 are the least")
    table = {name: np.array([value_of(record, name) for record in records]) for name in names}
    strata = [tuple(_stratum(record, part) for part in form.strata) for record in records]

    def correlation(x: str, rows: NDArray[np.intp]) -> Correlation:
        given = np.column_stack([table[name][rows] for name in form.given]) if form.given else None
        return rank_correlation(
            table[x][rows], table[form.y][rows], strata=[strata[i] for i in rows], given=given
        )

    def statistic(rows: NDArray[np.intp]) -> float:
        value = correlation(form.x, rows).value
        return value if form.rather_than is None else value - correlation(form.rather_than, rows).value

    whole = correlation(form.x, np.arange(len(records)))
    try:
        found = cluster_test(statistic, clusters, level=_LEVEL, resamples=_RESAMPLES)
    except DisbudError as problem:
        return Waiting(f"{whole}; no interval: {problem}")
    return _judged(form, whole, found, len(set(clusters)), len(asked) - len(records))


def tickets_in(form: PredictsForm, variants: Sequence[Trial]) -> list[Trial]:
    """The tickets that a prediction is about; neither the dense network nor a narrow one is a ticket."""
    found = [
        v for v in selected(variants, said(form.where)) if v.sparsity is not None and v.method != SMALL_DENSE
    ]
    if not found:
        raise DisbudError(f"claim {form.name}: the study runs no tickets there; mend `where`")
    return found


def _judged(
    form: PredictsForm, whole: Correlation, found: Clustered, clusters: int, left_out: int
) -> Prediction:
    """The verdict at 95 %: by p-values of 2.5 % on each side."""
    p = [min(1.0, 2 * found.p_above), min(1.0, 2 * found.p_below)]
    p_supported, p_contradicted = p if form.sign == "rises" else reversed(p)
    verdict = Verdict.UNDECIDED
    if min(p) <= 1 - _LEVEL + 1e-12:
        verdict = Verdict.SUPPORTED if p_supported < p_contradicted else Verdict.CONTRADICTED
    names = (form.x, form.y, form.rather_than)
    return Prediction(
        names, whole, found.estimate, found.interval, verdict, p_supported, p_contradicted, clusters, left_out
    )


def _has(record: Record, name: str) -> bool:
    return has_value(record, name) and not math.isnan(value_of(record, name))


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
