"""From the records of a study to what is drawn: settings, means over seeds with their intervals, paired differences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from disbud.claims import t_interval
from disbud.report.looks import DENSE
from disbud.study.specification.grid import CALIBRATION

if TYPE_CHECKING:
    from disbud.origin import Json
    from disbud.study.record import Record
    from disbud.study.trial import Seeds

Key = TypeVar("Key")


@dataclass(frozen=True, order=True)
class Setting:
    """What is trained on what, and how: trials of one setting can be compared."""

    data: str
    model: str
    recipe: str


@dataclass(frozen=True)
class Mean:
    """The mean over seeds, and its 95 % interval by Student's t where two or more seeds tell how they spread."""

    value: float
    low: float | None
    high: float | None
    seeds: int

    def scaled(self, factor: float) -> Mean:
        """In another unit."""
        low = None if self.low is None else factor * self.low
        high = None if self.high is None else factor * self.high
        return Mean(factor * self.value, low, high, self.seeds)


@dataclass(frozen=True)
class Overview:
    """The records of a study, and the names found in them in the order of their first trial.

    Charts and means are of those in `charted`; `plain`, `dense` and `differences` are parts of it.
    """

    records: Sequence[Record]

    @cached_property
    def done(self) -> list[Record]:
        """The trials that have numbers."""
        return [r for r in self.records if not r.failed and r.accuracy is not None]

    @cached_property
    def failed(self) -> list[Record]:
        """The trials that raised, or whose worker died."""
        return [r for r in self.records if r.failed]

    @cached_property
    def charted(self) -> list[Record]:
        """The trials with numbers, but those that only fix margins and those that 1 / density has no place for."""
        return [r for r in self.done if not for_margins(r) and keeps_weights(r)]

    @cached_property
    def seeds(self) -> list[Seeds]:
        """The seeds that claims are tested on."""
        return list(dict.fromkeys(r.trial.seeds for r in self.records if not for_margins(r)))

    @cached_property
    def settings(self) -> dict[Setting, str]:
        """Each setting with its name, which says the recipe only where there are several."""
        found = list(dict.fromkeys(map(setting_of, self.records)))
        pairs = [(s.model, s.data) for s in found]
        return {
            s: f"{s.model} on {s.data}" + (f", {s.recipe}" if pairs.count((s.model, s.data)) > 1 else "")
            for s in found
        }

    @cached_property
    def methods(self) -> list[str]:
        """The methods that prune, with their settings."""
        return list(dict.fromkeys(r.trial.method for r in self.records if r.trial.method != DENSE))

    @cached_property
    def sparsities(self) -> list[float]:
        """The sparsities, from the lowest."""
        pruned = (r for r in self.records if r.trial.sparsity is not None and keeps_weights(r))
        return sorted(set(map(sparsity_of, pruned)))

    @cached_property
    def interventions(self) -> list[str]:
        """What was altered in some trials."""
        return list(dict.fromkeys(r.trial.intervention for r in self.records if r.trial.intervention))

    @cached_property
    def plain(self) -> list[Record]:
        """The pruned trials that nothing was altered in."""
        return [r for r in self.charted if r.trial.method != DENSE and r.trial.intervention is None]

    @cached_property
    def dense(self) -> dict[Setting, list[Record]]:
        """The trials that nothing was pruned in."""
        return grouped((r for r in self.charted if r.trial.method == DENSE), setting_of)

    @cached_property
    def plain_points(self) -> dict[tuple[Setting, str, float], list[Record]]:
        """The trials without intervention by setting, method and sparsity."""
        return grouped(self.plain, lambda r: (setting_of(r), r.trial.method, sparsity_of(r)))

    @cached_property
    def differences(self) -> dict[tuple[Setting, str, str, float], list[float]]:
        """Accuracy with each intervention minus without it, a difference a seed, by setting, method and sparsity."""
        without = {r.trial: r for r in self.charted if r.trial.intervention is None}
        found: dict[tuple[Setting, str, str, float], list[float]] = {}
        for record in self.charted:
            altered = record.trial.intervention
            other = without.get(replace(record.trial, intervention=None)) if altered else None
            if altered is None or other is None or record.accuracy is None or other.accuracy is None:
                continue
            key = (setting_of(record), altered, record.trial.method, sparsity_of(record))
            found.setdefault(key, []).append(record.accuracy - other.accuracy)
        return found


def setting_of(record: Record) -> Setting:
    """The setting of a trial."""
    return Setting(record.trial.data, record.trial.model, record.trial.recipe)


def sparsity_of(record: Record) -> float:
    """The sparsity of a trial; that of a dense network is 0."""
    return record.trial.sparsity or 0.0


def for_margins(record: Record) -> bool:
    """Whether a trial is there only to fix margins: no claim is tested on its seed, and few methods are run with it."""
    return record.trial.seeds in CALIBRATION


def keeps_weights(record: Record) -> bool:
    """Whether a ticket keeps anything, so that it has a place on the axis of 1 / density."""
    return sparsity_of(record) < 1


def grouped(records: Iterable[Record], key: Callable[[Record], Key]) -> dict[Key, list[Record]]:
    """The records by what the key makes of them, in their order."""
    found: dict[Key, list[Record]] = {}
    for record in records:
        found.setdefault(key(record), []).append(record)
    return found


def mean(values: Iterable[float | None]) -> Mean | None:
    """The mean and its interval; None where there is no value, or one is infinite, as the loss of a run that diverged.

    >>> mean([0.5, 0.7]).value, mean([0.5]).low, mean([0.5, float("inf")])
    (0.6, None, None)
    """
    known = [value for value in values if value is not None]
    if not known or not all(map(math.isfinite, known)):
        return None
    low = high = None
    if len(known) > 1:
        interval = t_interval(known)
        if math.isfinite(interval.high - interval.low):
            low, high = interval.low, interval.high
    return Mean(math.fsum(known) / len(known), low, high, len(known))


def accuracies(records: Iterable[Record]) -> Mean | None:
    """The mean accuracy."""
    return mean(record.accuracy for record in records)


def measured(record: Record, measure: str, entry: str) -> float | None:
    """One number from the summary of a measure; None where it was not measured or is not defined."""
    summary = record.measures.get(measure, {}).get("summary")
    value = summary.get(entry) if isinstance(summary, dict) else None
    return float(value) if isinstance(value, int | float) else None


def measured_rows(record: Record, measure: str) -> list[dict[str, Json]]:
    """The rows of a measure, each by its columns; none where it was not measured."""
    table = record.measures.get(measure, {})
    columns, rows = table.get("columns"), table.get("rows")
    if not isinstance(columns, list | tuple) or not isinstance(rows, list | tuple):
        return []
    return [dict(zip(map(str, columns), row, strict=True)) for row in rows if isinstance(row, list | tuple)]


def number(value: object) -> float | None:
    """A finite number out of a measure's row, or None."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain and math.isfinite(value) else None  # type: ignore[arg-type]


def kept_one_in(sparsity: float) -> float:
    """1 / density: of so many weights one is kept, the axis on which the sparsities of the field lie evenly."""
    return 1 / (1 - sparsity)


def apart(sparsities: Sequence[float], place: int, of: int) -> float:
    """The factor that moves one of so many series aside on the axis of 1 / density, so that none hides another.

    Together they take up to a third of the room between the sparsities that are closest to each other.

    >>> [round(apart([0.9, 0.99], place, 3), 2) for place in range(3)]
    [0.97, 1.0, 1.03]
    """
    logs = [math.log(kept_one_in(s)) for s in sparsities]
    room = min((b - a for a, b in itertools.pairwise(logs)), default=0.3)
    gap = min(room / 3 / of, 0.012 * max(logs[-1] - logs[0], 0.3))
    return math.exp(gap * (place - (of - 1) / 2))


def columns_of(
    rows: Sequence[Mapping[str, str | float | int | None]],
) -> dict[str, list[str | float | int | None]]:
    """The rows as columns, numbers to five digits: more cannot be seen, and they would make the page large."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    return {name: [_short(row.get(name)) for row in rows] for name in names}


def _short(value: str | float | int | None) -> str | float | int | None:
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    short = float(f"{value:.5g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
