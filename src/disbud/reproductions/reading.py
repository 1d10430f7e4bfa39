"""What the claims of the reproductions read off a study's records, and the networks that they draw for themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from disbud.data import Dataset, load
from disbud.errors import DisbudError
from disbud.origin import Json
from disbud.study.deciding import Setting
from disbud.study.frame import FIRST_CALIBRATION, label, varying
from disbud.study.record import Record
from disbud.study.tickets import network
from disbud.study.trial import Seeds, Trial

NETWORKS = 12  # where all are alike the sign test judges: after Holm over a study's claims it takes about 10


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


def named(variant: Trial, variants: Sequence[Trial]) -> str:
    """A ticket's method, sparsity and intervention, and whatever else varies in the study: no two have one name."""
    return label(variant, (*varying(variants), "method", "sparsity", "intervention"))


def drawn(place: Trial, count: int = NETWORKS) -> Iterator[tuple[Seeds, nn.Module, Dataset]]:
    """So many networks of a place with their data, before any training; each with the seeds that it is drawn from."""
    for number in range(count):
        seeds = Seeds.all(number)
        dataset = load(place.data, seed=seeds.split)
        trial = Trial(place.model, place.data, place.recipe, seeds=seeds)
        yield seeds, network(trial, dataset), dataset
