"""Reads the rows of a table of images through the Hugging Face `datasets` library."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

from disbud.data.decode import Form, Pixels, decode
from disbud.errors import DisbudError

if TYPE_CHECKING:
    import datasets

    Table: TypeAlias = datasets.Dataset
    Tables: TypeAlias = Mapping[str, datasets.Dataset]
else:
    Table = Tables = object

_ROWS = 256  # decoded at once
_IMAGES, _LABELS = ("image", "img"), ("label", "labels", "fine_label", "class")


def library(name: str, source: str) -> ModuleType:
    """The module of that name, from the extra `hub`."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DisbudError(f"{source} is read by the library {name}: pip install 'disbud[hub]'") from error


@dataclass(frozen=True)
class Columns:
    """Which column holds the image, which the label, and what the labels stand for."""

    image: str
    label: str
    class_names: tuple[str, ...]

    @classmethod
    def find(cls, source: str, table: Table, *, image: str | None, label: str | None) -> Columns:
        """The columns asked for, else the only ones that can be meant."""
        datasets = library("datasets", source)
        kinds = table.features
        images = [name for name, kind in kinds.items() if isinstance(kind, datasets.Image)]
        labels = [name for name, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)]
        image = _choose(source, "image", image, images or [name for name in _IMAGES if name in kinds], kinds)
        label = _choose(source, "label", label, labels or [name for name in _LABELS if name in kinds], kinds)
        if isinstance(kinds[label], datasets.ClassLabel):
            return cls(image, label, tuple(kinds[label].names))
        values = set(table.unique(label))
        if all(isinstance(value, int) and value >= 0 for value in values):
            return cls(image, label, tuple(str(number) for number in range(max(values) + 1)))
        if all(isinstance(value, str) for value in values):
            return cls(image, label, tuple(sorted(values)))
        raise DisbudError(
            f"{source}: the labels in {label!r} are neither all words nor all numbers from 0 up"
        )


def read_rows(where: str, table: Table, columns: Columns, form: Form) -> Iterator[tuple[str, Pixels, int]]:
    """Every row's place, pixels and label."""
    datasets = library("datasets", where)
    numbers = {name: number for number, name in enumerate(columns.class_names)}
    plain = table.select_columns([columns.image, columns.label])
    plain = plain.cast_column(columns.image, datasets.Image(decode=False))
    at = 0
    for batch in plain.iter(batch_size=_ROWS):
        for image, value in zip(batch[columns.image], batch[columns.label], strict=True):
            row = f"{where}, row {at}"
            if not image or not image.get("bytes"):
                raise DisbudError(
                    f"{row}: there are no bytes in column {columns.image!r}; name another by image="
                )
            label = value if isinstance(value, int) else numbers.get(value)
            if label is None or not 0 <= label < len(numbers):
                raise DisbudError(
                    f"{row}: label {value!r} is none of the {len(numbers)} classes of the training split"
                )
            yield row, decode(image["bytes"], row, form), label
            at += 1


def _choose(
    source: str, what: str, asked: str | None, candidates: list[str], known: Mapping[str, object]
) -> str:
    chosen = [asked] if asked is not None else candidates
    if len(chosen) == 1 and chosen[0] in known:
        return chosen[0]
    found = (
        f"there is no column {asked!r}"
        if asked is not None
        else f"the {what} column could be {candidates or 'none'}"
    )
    raise DisbudError(f"{source}: {found}; set {what}= to one of {', '.join(known)}")
