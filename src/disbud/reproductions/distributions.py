"""How far the kept weights of two trials lie apart, layer by layer, from the quantiles that the records hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from disbud.reproductions.reading import table_rows
from disbud.study.record import Record
from disbud.study.trial_measures import QUANTILES


@dataclass(frozen=True)
class Kept:
    """The kept weights of one layer: how many of how many, their deviation, and equally likely values of theirs."""

    kept: int
    total: int
    deviation: float
    values: NDArray[np.float64]


def kept_weights(record: Record, when: str) -> dict[str, Kept]:
    """By layer, "start" or "trained"; layers of which nothing is kept are left out."""
    return {
        str(row["layer"]): Kept(
            _whole(row["kept"]), _whole(row["total"]), float(str(row["deviation"])),
            np.array([float(str(row[f"q{i + 1}"])) for i in range(QUANTILES)]),
        )
        for row in table_rows(record, "weights")
        if row["when"] == when and row["kept"]
    }  # fmt: skip


def distance(a: Kept, b: Kept, *, zeros: str) -> float:
    """Wasserstein's distance of two layers' weights: of the kept ones, or with zeros in place of the removed ones.

    Quantiles at the middles of 64 equal parts stand for the weights; both sides have the same, so the distance of the
    kept ones is the mean difference of their quantiles.
    """
    if zeros == "out":
        return float(np.abs(a.values - b.values).mean())
    sides = [np.append(side.values, 0.0) for side in (a, b)]
    weights = [
        np.append(np.full(QUANTILES, density / QUANTILES), 1 - density)
        for density in (side.kept / side.total for side in (a, b))
    ]
    return float(stats.wasserstein_distance(sides[0], sides[1], weights[0], weights[1]))


def _whole(value: object) -> int:
    assert isinstance(value, int)
    return value
