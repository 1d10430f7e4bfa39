"""The kept weights of each layer before and after training, unaltered and after each intervention."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy
from numpy.typing import NDArray

from disbud.report import study_charts
from disbud.report.anatomy import short_names
from disbud.report.charts import Answers, Choice, Choosable, ChosenCell, Columns
from disbud.report.looks import legend_that_filters, looks
from disbud.report.page import Block, Section, aside
from disbud.report.study_numbers import Overview, Setting, grouped, measured_rows, setting_of, sparsity_of
from disbud.report.words import percent, sentence

if TYPE_CHECKING:
    from disbud.study.record import Record

UNALTERED = "unaltered"
_FINEST, _COARSEST = 49, 17  # places at which a density is drawn
_BYTES = 800_000  # that all curves together may take, at about three a place
_STEPS = 99  # heights of a curve: more than there are pixels
Curve = NDArray[numpy.float64]
Quantiles = dict[tuple[str, str], Curve]  # by layer and "start" or "trained"


def weights(known: Overview) -> Section:
    """A small chart a layer, for a setting, a method and a sparsity that the reader chooses."""
    states = [UNALTERED, *known.interventions]
    found = _by_state(known)
    settings, methods, sparsities = _options(found)
    layers = list(dict.fromkeys(layer for by in found.values() for q in by.values() for layer, _ in q))
    labels = dict(zip(layers, short_names(layers), strict=True))
    curves = sum(len(q) for by in found.values() for q in by.values())
    places = max(_COARSEST, min(_FINEST, _BYTES // (3 * max(1, curves))))
    columns: dict[str, dict[Answers, Columns]] = {layer: {} for layer in layers}
    room, left_out = _BYTES * 1.2, 0
    for (setting, method, sparsity), by in sorted(
        found.items(), key=lambda item: (-item[0][2], -len(item[1]))
    ):
        room -= 3.0 * (places + 1) * sum(map(len, by.values()))
        if room < 0:
            left_out += 1
            continue
        key = (settings.index(setting), methods.index(method), sparsities.index(sparsity))
        for layer in dict.fromkeys(layer for q in by.values() for layer, _ in q):
            columns[layer][key] = _curves(by, layer, states, places)
    choices = [
        Choice("Setting", [known.settings[s] for s in settings]),
        Choice("Method", methods),
        Choice("Sparsity", [percent(s, most=4) for s in sparsities]),
    ]
    shown = looks(states)
    drawn = study_charts.distributions(states, shown)
    cells = [ChosenCell(labels[layer], drawn, by) for layer, by in columns.items() if by]
    lead = sentence(
        "How the kept weights of each layer are distributed: upwards after training, downwards before it, each to its "
        "own height. Quantiles are averaged over seeds. Where the lines below differ and those above agree, training "
        "has made up for what was altered.",
    )
    blocks: list[Block] = [
        legend_that_filters(shown, of="states"),
        Choosable(choices, cells, "Distribution of kept weights"),
    ]
    if left_out:
        blocks.append(aside(
            f"{left_out:,} combinations of method and sparsity, those of the lower sparsities, are left out to keep "
            "the page small."
        ))  # fmt: skip
    return Section("The kept weights, before and after training", [lead], blocks)


def has_weights(known: Overview) -> bool:
    """Whether the distribution of weights was measured in any pruned trial."""
    return any(_mean_quantiles([r]) for r in known.charted if r.trial.sparsity is not None)


def _by_state(known: Overview) -> dict[tuple[Setting, str, float], dict[str, Quantiles]]:
    """Mean quantiles by setting, method and sparsity, then by state."""
    with_weights = (r for r in known.charted if r.trial.sparsity is not None and measured_rows(r, "weights"))
    found: dict[tuple[Setting, str, float], dict[str, Quantiles]] = {}
    for (setting, method, sparsity, altered), records in grouped(
        with_weights,
        lambda r: (setting_of(r), r.trial.method, sparsity_of(r), r.trial.intervention or UNALTERED),
    ).items():
        quantiles = _mean_quantiles(records)
        if quantiles:
            found.setdefault((setting, method, sparsity), {})[altered] = quantiles
    return found


def _options(found: Iterable[tuple[Setting, str, float]]) -> tuple[list[Setting], list[str], list[float]]:
    keys = list(found)
    return (
        list(dict.fromkeys(s for s, _, _ in keys)),
        list(dict.fromkeys(m for _, m, _ in keys)),
        sorted({s for _, _, s in keys}, reverse=True),
    )


def _mean_quantiles(records: Sequence[Record]) -> Quantiles:
    """The mean over seeds of each quantile: a distribution of the seeds' mean place and spread (Vincent 1912)."""
    found: dict[tuple[str, str], list[Curve]] = {}
    for record in records:
        for row in measured_rows(record, "weights"):
            values = [row[column] for column in _quantile_columns(row)]
            if values and all(isinstance(v, int | float) and math.isfinite(v) for v in values):
                found.setdefault((str(row["layer"]), str(row["when"])), []).append(
                    numpy.array(values, dtype=float)
                )
    return {
        key: numpy.mean(curves, axis=0) for key, curves in found.items() if len({len(c) for c in curves}) == 1
    }


def _quantile_columns(row: Mapping[str, object]) -> list[str]:
    return sorted((c for c in row if c[:1] == "q" and c[1:].isdigit()), key=lambda c: int(c[1:]))


def _curves(by: Mapping[str, Quantiles], layer: str, states: Sequence[str], places: int) -> Columns:
    """The densities of a layer's states on one axis, each to its own height."""
    sides = {"a": "trained", "b": "start"}
    all_values = [q[layer, when] for q in by.values() for when in sides.values() if (layer, when) in q]
    widths = [_bandwidth(values) for values in all_values]
    low = min(float(v[0]) - 2 * w for v, w in zip(all_values, widths, strict=True))
    high = max(float(v[-1]) + 2 * w for v, w in zip(all_values, widths, strict=True))
    grid = numpy.linspace(low, high, places) if high > low else numpy.array([low - 1, low, low + 1])
    columns: dict[str, Sequence[float]] = {"x": [float(f"{x:.3g}") for x in grid]}
    for i, state in enumerate(states):
        for side, when in sides.items():
            values = by.get(state, {}).get((layer, when))
            if values is not None:
                columns[f"{side}{i}"] = _density(values, grid)
    return columns


def _density(values: Curve, grid: Curve) -> list[int]:
    """Gaussian kernels on the quantiles, the highest place at _STEPS."""
    width = max(_bandwidth(values), float(grid[1] - grid[0]) / 2)
    heights = numpy.exp(-0.5 * ((grid[:, None] - values[None, :]) / width) ** 2).sum(1)
    return [int(height) for height in numpy.round(_STEPS * heights / heights.max())]


def _bandwidth(values: Curve) -> float:
    """Silverman's rule of thumb (1986, eq. 3.31) with the smaller of deviation and interquartile range, halved: kept
    weights have two humps, which the full width would smear into one."""
    quarter = len(values) // 4
    spread = float(values[-1 - quarter] - values[quarter]) / 1.34
    deviation = float(values.std())
    smaller = min(spread, deviation) if spread > 0 else deviation
    return float(0.45 * smaller * len(values) ** -0.2)
