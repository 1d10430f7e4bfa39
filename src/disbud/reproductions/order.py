"""Whether methods change places when they are compared at equal effective sparsity (Vysogorets & Kempe 2023)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy

from disbud.catalogue import parse
from disbud.claims import Beats, Decided, Pairs, for_all, judge, there_is
from disbud.errors import DisbudError
from disbud.methods.catalogue import CATALOGUE as METHODS
from disbud.study.deciding import Setting
from disbud.study.deciding.bounds import Waiting
from disbud.study.frame import FIRST_CALIBRATION
from disbud.study.specification.forms import FunctionForm
from disbud.study.trial import Trial

_FROM = 0.99
_LEAST_DENSITY = 1e-9  # stands for a ticket of which nothing is effective
Curve = Sequence[Trial]  # one method's variants, by sparsity


def changes_places(form: FunctionForm, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """10.4: some method beats another at the highest sparsity asked, and loses to it at that sparsity effectively.

    A seed's accuracy at an effective sparsity is read off the line between its own tickets of that method, over the
    logarithm of the effective density.
    """
    curves = _curves(variants)
    highest = max((curve[-1].sparsity or 0.0 for curve in curves.values()), default=0.0)
    if highest < _FROM:
        raise DisbudError(
            f"this claim is about sparsities from {_FROM:.0%} on; the highest here is {highest:.1%}"
        )
    ends = {name: curve for name, curve in curves.items() if curve[-1].sparsity == highest and len(curve) > 1}
    asked = {name: _finite(setting, curve[-1], "accuracy") for name, curve in ends.items()}
    effective = {name: _at_effective(setting, curve, highest) for name, curve in ends.items()}
    cells: dict[str, Decided] = {}
    for one, other in permutations(ends, 2):
        place = ends[one][-1]
        ahead = _judged(setting, place, one, other, asked[one], asked[other])
        behind = _judged(setting, place, other, one, effective[other], effective[one])
        cells[f"{one} before {other}, then after"] = for_all({"asked": ahead, "effective": behind})
    return there_is(cells)


def _curves(variants: Sequence[Trial]) -> Mapping[str, Curve]:
    """The unaltered variants of each method in the study's first setting, by rising sparsity."""
    found: dict[str, list[Trial]] = {}
    first = variants[0]
    for variant in variants:
        here = (variant.model, variant.data, variant.recipe) == (first.model, first.data, first.recipe)
        unaltered = variant.sparsity is not None and variant.intervention is None
        if here and unaltered and parse(variant.method).name in METHODS:
            found.setdefault(variant.method, []).append(variant)
    return {name: sorted(curve, key=lambda trial: trial.sparsity or 0.0) for name, curve in found.items()}


def _at_effective(setting: Setting, curve: Curve, sparsity: float) -> dict[int, float]:
    """By seed, the accuracy where the effective sparsity is that; none where no ticket of the seed reaches it."""
    points: dict[int, list[tuple[float, float]]] = {}
    for variant in curve:
        sparsities = _finite(setting, variant, "paths.effective_sparsity")
        for seed, accuracy in _finite(setting, variant, "accuracy").items():
            if seed in sparsities:
                points.setdefault(seed, []).append((_removal(sparsities[seed]), accuracy))
    found = {}
    for seed, pairs in points.items():
        x, y = zip(*sorted(pairs), strict=True)
        if x[0] <= _removal(sparsity) <= x[-1] + 1e-9:
            found[seed] = float(numpy.interp(_removal(sparsity), x, y))
    return found


def _removal(sparsity: float) -> float:
    """Orders of magnitude by which the weights are fewer."""
    return -math.log10(max(1 - sparsity, _LEAST_DENSITY))


def _finite(setting: Setting, variant: Trial, value: str) -> dict[int, float]:
    values = setting.frame.values(variant, value)
    return {seed: x for seed, x in values.items() if seed < FIRST_CALIBRATION and math.isfinite(x)}


def _judged(
    setting: Setting,
    place: Trial,
    left: str,
    right: str,
    ours: Mapping[int, float],
    theirs: Mapping[int, float],
) -> Decided:
    seeds = tuple(sorted(ours.keys() & theirs.keys()))
    if len(seeds) < setting.least:
        return Waiting(f"{len(seeds)} seeds have both", setting.least - len(seeds))
    pairs = Pairs(seeds, tuple(ours[seed] - theirs[seed] for seed in seeds))
    margin = setting.margin(place)
    controls = setting.controls(place, margin)
    return judge(Beats(left, right), pairs, margin=margin, looks=setting.looks, controls=controls)
