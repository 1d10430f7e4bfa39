"""The records of a study as a frame: a row a variant, a column a seed, values by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from disbud.errors import unknown_name
from disbud.study.record import Record
from disbud.study.trial import Seeds, Trial

if TYPE_CHECKING:
    import pandas

Axis = Literal["model", "data", "recipe", "method", "sparsity", "intervention"]
AXES: tuple[Axis, ...] = ("model", "data", "recipe", "method", "sparsity", "intervention")
OWN = ("accuracy", "loss", "seconds", "memory")
LOG_PATHS = "paths.log10_paths"


@dataclass(frozen=True)
class Frame:
    """Records by variant (a trial whose seeds are all 0) and by the number of the seed.

    `numbers` says which seeds are which number: one number stands for the split, the weights, the mask and the order.
    `chance` is the accuracy of guessing, by data set; none of data that are not known.

    >>> from disbud.study import Record, Seeds, Trial
    >>> from disbud.study.frame import Frame
    >>> trial = Trial("lenet-300-100", "digits", "digits", "snip", 0.9, seeds=Seeds.all(1))
    >>> frame = Frame((Record(trial, "6e1f", accuracy=0.9),), {Seeds.all(1): 1})
    >>> frame.values(frame.variants[0], "accuracy")
    {1: 0.9}
    """

    records: tuple[Record, ...]
    numbers: Mapping[Seeds, int]
    chance: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def rows(self) -> Mapping[Trial, Mapping[int, Record]]:
        """The records of each variant, by seed."""
        found: dict[Trial, dict[int, Record]] = {}
        for record in self.records:
            number = self.numbers.get(record.trial.seeds)
            if number is not None:
                found.setdefault(variant_of(record.trial), {})[number] = record
        return found

    @property
    def variants(self) -> tuple[Trial, ...]:
        """The variants that were run, in the order in which they were asked for."""
        return tuple(self.rows)

    def values(self, variant: Trial, name: str) -> dict[int, float]:
        """By seed: the accuracy, the loss, or what a measure found in all, as `paths.nodes`.

        None of trials that failed, or were not run yet, or whose measure was not taken.
        """
        known = [record for record in self.records if not record.failed]
        if known and not any(has_value(record, name) for record in known):
            value_of(known[0], name)  # says what there is
        row = self.rows.get(variant, {})
        return {
            seed: value_of(record, name) for seed, record in sorted(row.items()) if has_value(record, name)
        }

    def first(self, seeds: int) -> Frame:
        """The frame of the first so many seeds; seeds beyond, as those of margins, stay."""
        early = {drawn: n for drawn, n in self.numbers.items() if n < seeds or n >= FIRST_CALIBRATION}
        return replace(self, numbers=early)

    def to_pandas(self) -> pandas.DataFrame:
        """A row a trial: its axes, its seed, its numbers, and what each measure found in all."""
        import pandas

        return pandas.DataFrame(
            [_flat(record, self.numbers.get(record.trial.seeds)) for record in self.records]
        )


FIRST_CALIBRATION = 1001


def variant_of(trial: Trial) -> Trial:
    """The trial but for its seeds."""
    return replace(trial, seeds=Seeds())


def has_value(record: Record, name: str) -> bool:
    """Whether a record has the value of that name; a measure that failed on it, or was not taken yet, has none."""
    measure, _, entry = name.partition(".")
    summary = record.measures.get(measure, {}).get("summary", {})
    return not record.failed and (name in OWN or (isinstance(summary, Mapping) and entry in summary))


def value_of(record: Record, name: str) -> float:
    """One number of a record by its name: accuracy, loss, or MEASURE.ENTRY as paths.log10_paths; NaN if undefined."""
    if name in OWN:
        value: object = getattr(record, name)
    else:
        measure, _, entry = name.partition(".")
        if measure not in record.measures:
            known = [*OWN, *(f"{found}.…" for found in record.measures)]
            raise unknown_name("value", name, known)
        summary = record.measures[measure]["summary"]
        assert isinstance(summary, Mapping)
        if entry not in summary:
            raise unknown_name("value", name, [f"{measure}.{known}" for known in summary])
        value = summary[entry]
        if value is None and name == LOG_PATHS:  # JSON has no infinity
            return -math.inf
    if isinstance(value, bool) or not isinstance(value, int | float):
        return float("nan") if value is None else float(str(value))
    return float(value)


def varying(variants: Iterable[Trial]) -> tuple[Axis, ...]:
    """The axes along which the variants differ."""
    given = list(variants)
    return tuple(axis for axis in AXES if len({getattr(variant, axis) for variant in given}) > 1)


def label(variant: Trial, axes: Sequence[Axis]) -> str:
    """A variant in a few words: only the axes that tell it from others.

    >>> from disbud.study import Trial
    >>> from disbud.study.frame import label
    >>> label(Trial("lenet-300-100", "digits", "digits", "snip", 0.9), ("method", "sparsity"))
    'snip at 90 %'
    """
    words = []
    for axis in ("model", "method"):
        if axis in axes:
            words.append(str(getattr(variant, axis)))
    if "intervention" in axes and variant.intervention is not None:
        words.append(f"with {variant.intervention}")
    if "sparsity" in axes and variant.sparsity is not None:
        words.append(f"at {100 * variant.sparsity:.10g} %")
    if "data" in axes:
        words.append(f"on {variant.data}")
    if "recipe" in axes:
        words.append(f"by {variant.recipe}")
    return " ".join(words) or str(variant.method)


def _flat(record: Record, seed: int | None) -> dict[str, object]:
    axes: dict[str, object] = {axis: getattr(record.trial, axis) for axis in AXES}
    seeds = {f"{part}_seed": getattr(record.trial.seeds, part) for part in ("split", "init", "mask", "order")}
    numbers = {name: getattr(record, name) for name in (*OWN, "diverged", "error", "finished", "identity")}
    measured = {
        f"{name}.{entry}": value
        for name, table in record.measures.items()
        for entry, value in dict(table["summary"]).items()  # type: ignore[arg-type]
    }
    return {**axes, "seed": seed, **seeds, **numbers, **measured}
