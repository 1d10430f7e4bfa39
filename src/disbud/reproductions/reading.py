"""What the claims of the reproductions read off a study's records, and the networks that its seeds draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from disbud.data import Dataset, load
from disbud.errors import DisbudError
from disbud.origin import Json
from disbud.study.deciding import Setting
from disbud.study.frame import FIRST_CALIBRATION
from disbud.study.record import Record
from disbud.study.tickets import network
from disbud.study.trial import Seeds, Trial


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


def drawn(setting: Setting, place: Trial) -> Iterator[tuple[int, Seeds, nn.Module, Dataset]]:
    """For each seed that claims are judged on: its number, and the place's network and data, before any training."""
    for seeds, number in setting.frame.numbers.items():
        if number < FIRST_CALIBRATION:
            dataset = load(place.data, seed=seeds.split)
            trial = Trial(place.model, place.data, place.recipe, seeds=seeds)
            yield number, seeds, network(trial, dataset), dataset
