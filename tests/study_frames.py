"""Records of a small study for tests of its decisions: accuracies made up by trial, noise that all of a seed share."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping

import numpy

from disbud.study import Seeds, Trial
from disbud.study.frame import Frame
from disbud.study.record import Record
from disbud.study.specification import grid_of
from disbud.study.specification.forms import StudyForm
from disbud.study.specification.grid import CALIBRATION
from disbud.study.trial import DENSE

BASE: dict[str, object] = {
    "name": "mine",
    "data": "digits",
    "model": "lenet-300-100",
    "recipe": "digits:epochs=2",
}
GRID = {
    "methods": ["snip", "synflow", "magnitude"],
    "sparsities": [0.9, 0.95, 0.98],
    "interventions": ["none", "shuffle"],
}
LEVEL = {DENSE: 0.98, "random-uniform": 0.7, "random-erk": 0.85, "small-dense": 0.8}
SHUFFLE = {"left": {"intervention": "shuffle"}, "right": {"intervention": "none"}}
Accuracy = Callable[[Trial], float]


def noise(trial: Trial, scale: float) -> float:
    """A part that all variants of a seed share, and one of each trial's own."""
    shared = numpy.random.default_rng(trial.seeds.init).normal(0, 0.02)
    own = numpy.random.default_rng(zlib.crc32(str(trial).encode())).normal(0, scale)
    return float(shared + own)


def frame_of(
    form: StudyForm,
    accuracy: Accuracy,
    *,
    seeds: int,
    scale: float = 0.001,
    measured: Mapping[str, Accuracy] | None = None,
) -> tuple[Frame, tuple[Trial, ...]]:
    grid = grid_of(form)
    drawn = [Seeds.all(i) for i in range(seeds)]
    records = []
    for trial in grid.trials(drawn):
        level = LEVEL[trial.method] if trial.method in LEVEL and not trial.intervention else accuracy(trial)
        found = {name: function(trial) for name, function in (measured or {}).items()}
        tables = {"paths": {"columns": ["kept"], "rows": [[1]], "summary": found}}
        value = min(1.0, max(0.0, level + noise(trial, scale)))
        records.append(Record(trial, str(trial), accuracy=value, loss=1 - value, measures=tables))
    numbers = {seed: i for i, seed in enumerate(drawn)} | {seed: seed.init for seed in CALIBRATION}
    return Frame(tuple(records), numbers, {"digits": 0.1}), grid.variants
