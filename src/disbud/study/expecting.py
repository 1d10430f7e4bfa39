"""What trials will probably take: from records of the same kind, else in proportion to a simple count of the work."""

from __future__ import annotations

import bisect
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch

from disbud.catalogue import parse
from disbud.data.catalogue import CATALOGUE as DATA
from disbud.errors import DisbudError
from disbud.measures import cost
from disbud.methods.catalogue import CATALOGUE as METHODS
from disbud.models import CATALOGUE as MODELS
from disbud.models import build
from disbud.study.engines import Expected
from disbud.study.record import Record
from disbud.study.trial import Trial
from disbud.training.recipes import parse_recipe

_EXAMPLES = {"digits": 1438}
_MANY_EXAMPLES = 50_000  # where nothing says how many there are
_LOOKED_AT = 100  # examples a round of pruning
_SOME_SIZE = (10_000_000, 10)  # multiply-adds and layers of a network that disbud does not know
_A_SECOND = 5e10  # multiply-adds
_A_CALL = 4e-4  # seconds that a layer takes for a batch of next to nothing
_SHAPES = {"digits": (1, 8, 8)}
_SOME_SHAPE = (3, 32, 32)
_Kind = tuple[str, str, str, str]


class Expectations:
    """What is to be expected, given the records that there are."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._seconds: dict[_Kind, list[float]] = defaultdict(list)
        self._memory: dict[_Kind, int] = {}
        self._rates: list[float] = []
        for record in records:
            self.learn(record)

    def learn(self, record: Record) -> None:
        """Go by one record more; one that failed, or of a recipe that is not known here, is no measure for others."""
        if record.failed or not record.seconds:
            return
        try:
            amount = work(record.trial)
        except DisbudError:
            return
        kind = _kind(record.trial)
        self._seconds[kind].append(record.seconds)
        self._memory[kind] = max(record.memory, self._memory.get(kind, 0))
        bisect.insort(self._rates, record.seconds / amount)

    def of(self, trial: Trial) -> Expected:
        """The most that a trial of its kind has taken; None where none was run.

        Not the median: a trial whose pre-training another one has done is no measure for one that has to do it.
        """
        kind = _kind(trial)
        return Expected(max(self._seconds[kind], default=None), self._memory.get(kind))

    def seconds(self, trials: Sequence[Trial]) -> float | None:
        """Of all of them on one worker; what is of no known kind counts by its work. None where nothing is known."""
        if trials and not self._rates:
            return None
        return sum(self.weight(trial) for trial in trials)

    def weight(self, trial: Trial) -> float:
        """By which trials are put in order: seconds, where anything is known, else work."""
        known = self._seconds[_kind(trial)]
        return statistics.median(known) if known else work(trial) * self._rate

    @property
    def _rate(self) -> float:
        """The median seconds of a unit of work; 1 while nothing is known."""
        return self._rates[len(self._rates) // 2] if self._rates else 1.0


def longest_first(trials: Sequence[Trial], expectations: Expectations) -> list[Trial]:
    """The order in which to begin: long ones first, and those that others wait for before them.

    Trials whose method trains share their dense pre-training with others of the same network, data and seeds: the first
    of each such group goes ahead of all, so that two workers rarely want the same one. Equals are sorted by the seed of
    their split, which lets a worker keep its data set.
    """
    leaders: dict[tuple[object, ...], Trial] = {}
    for trial in trials:
        if _trains(trial):
            leaders.setdefault((trial.model, trial.data, trial.recipe, trial.seeds), trial)
    first = set(leaders.values())
    return sorted(
        trials,
        key=lambda trial: (trial not in first, -expectations.weight(trial), trial.data, trial.seeds.split),
    )


@lru_cache(maxsize=4096)
def work(trial: Trial) -> float:
    """The seconds on a machine of round numbers, in training and in pruning: this needs neither data nor a clock."""
    recipe = parse_recipe(trial.recipe)
    computed, layers = _size(trial.model, _shape(trial.data))

    def passes(examples: float) -> float:  # forward and back
        return 3 * computed * examples / _A_SECOND + layers * examples / recipe.batch_size * _A_CALL

    trained = passes(_examples(trial.data) * recipe.epochs)
    method = METHODS.get(parse(trial.method).name)
    if method is None:
        return trained
    if method.trains:
        return trained * (1 + _rounds(trial, method.rounds))
    return trained + passes(_LOOKED_AT * _rounds(trial, method.rounds))


def _rounds(trial: Trial, default: int) -> int:
    given = parse(trial.method).settings.get("rounds", default)
    return given if isinstance(given, int) else default


@lru_cache(maxsize=128)
def _size(model: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """What a network that disbud knows by name computes for one example, and in how many layers."""
    if parse(model).name not in MODELS:
        return _SOME_SIZE
    try:
        table = cost(build(model, input_shape=shape), None, example=torch.zeros(1, *shape))
    except DisbudError:  # it takes no images of this shape: running the trial will say so
        return _SOME_SIZE
    return int(str(table.summary["multiply_adds"])), len(table)


def _shape(data: str) -> tuple[int, ...]:
    spec = parse(data)
    known = DATA[spec.name].settings if spec.name in DATA else {}
    size, channels = (spec.settings.get(key, known.get(key)) for key in ("size", "channels"))
    if isinstance(size, int) and isinstance(channels, int):
        return channels, size, size
    return _SHAPES.get(spec.name, _SOME_SHAPE)


def _examples(data: str) -> int:
    spec = parse(data)
    known = DATA[spec.name].settings.get("train") if spec.name in DATA else None
    given = spec.settings.get("train", known)
    return given if isinstance(given, int) else _EXAMPLES.get(spec.name, _MANY_EXAMPLES)


def _trains(trial: Trial) -> bool:
    method = METHODS.get(parse(trial.method).name)
    return method is not None and method.trains


def _kind(trial: Trial) -> _Kind:
    return trial.model, trial.data, trial.recipe, trial.method
