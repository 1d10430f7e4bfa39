"""What the claims of the reproductions read off a study's records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from disbud.errors import DisbudError
from disbud.origin import Json
from disbud.study.deciding import Setting
from disbud.study.frame import FIRST_CALIBRATION
from disbud.study.record import Record
from disbud.study.trial import Trial


def judged_records(setting: Setting, variant: Trial) -> dict[int, Record]:
    """The records of a variant by seed: those that claims are judged on, and that did not fail."""
    return {
        seed: record
        for seed, record in sorted(setting.frame.rows.get(variant, {}).items())
        if seed < FIRST_CALIBRATION and not record.failed
    }


def table_rows(record: Record, measure: str) -> list[Mapping[str, Json]]:
    """The rows of a measure's table, each as a mapping from column to value."""
    table = record.measures.get(measure)
    if table is None:
        raise DisbudError(f'this claim needs the measure "{measure}"; add it to measures')
    columns, rows = table["columns"], table["rows"]
    assert isinstance(columns, Sequence)
    assert isinstance(rows, Sequence)
    return [
        {str(column): value for column, value in zip(columns, row, strict=True)}
        for row in rows
        if isinstance(row, Sequence)
    ]
