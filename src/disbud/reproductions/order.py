"""Which of two methods is ahead: at equal effective sparsity (Vysogorets & Kempe 2023), and anywhere at all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise, permutations

from disbud.catalogue import parse
from disbud.claims import Beats, Cells, Decided, Judgement, Pairs, for_all, judge, there_is
from disbud.errors import DisbudError
from disbud.methods.catalogue import CATALOGUE as METHODS
from disbud.study.deciding import Setting
from disbud.study.deciding.bounds import Waiting
from disbud.study.deciding.places import said, selected
from disbud.study.frame import label, varying
from disbud.study.specification.forms import FunctionForm
from disbud.study.trial import Trial

_FROM = 0.99
_FURTHEST = 1.0  # orders of magnitude between two tickets that are read between
_SAME = 1e-9  # of which two tickets of one count may differ
Curve = Sequence[Trial]  # one method's variants, by sparsity


def changes_places(form: FunctionForm, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """10.4: from 99 % on, one method beats another at a sparsity asked, and loses to it at that sparsity effectively.

    A seed's accuracy at an effective sparsity is read off the line between its own two tickets of that method on either
    side, over the logarithm of the effective density; where these are more than a factor of ten apart, it is not known.
    """
    curves = _curves(variants)
    places = sorted({variant.sparsity or 0.0 for curve in curves.values() for variant in curve})
    highest = max(places, default=0.0)
    if highest < _FROM:
        raise DisbudError(
            f"this claim is about sparsities from {_FROM:.0%} on; the highest here is {highest:.1%}"
        )
    cells: dict[str, Decided] = {}
    for sparsity in (sparsity for sparsity in places if sparsity >= _FROM):
        orders: dict[str, Decided] = {}
        asked = {name: variant for name, curve in curves.items() if (variant := _at(curve, sparsity))}
        accuracy = {name: setting.values(variant, "accuracy") for name, variant in asked.items()}
        effective = {name: _at_effective(setting, curves[name], sparsity) for name in asked}
        for one, other in permutations(asked, 2):
            place = asked[one]
            ahead = _judged(setting, place, Beats(one, other), accuracy[one], accuracy[other])
            behind = _judged(setting, place, Beats(other, one), effective[other], effective[one])
            orders[f"{one} before {other}, then after"] = _deciding(
                for_all({"as asked": ahead, "at equal effective sparsity": behind})
            )
        if orders:
            cells[f"at {100 * sparsity:.10g} %"] = _deciding(there_is(orders))
    return there_is(cells)


def none_dominates(form: FunctionForm, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """5.4: every method is beaten by another at some sparsity; `where` says which methods are meant."""
    found = selected(variants, said(form.where))
    axes = [axis for axis in varying(found) if axis != "sparsity"]
    rivals: dict[str, dict[str, Decided]] = {}
    for one, other in permutations(found, 2):
        if replace(other, method=one.method) == one:
            rival = label(other, ("method", "sparsity"))
            ours, theirs = setting.values(other, "accuracy"), setting.values(one, "accuracy")
            ahead = _judged(setting, one, Beats(rival, one.method), ours, theirs)
            rivals.setdefault(label(one, axes), {})[rival] = ahead
    return for_all({name: _deciding(there_is(cells)) for name, cells in rivals.items()})


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


def _at(curve: Curve, sparsity: float) -> Trial | None:
    return next((variant for variant in curve if variant.sparsity == sparsity), None)


def _at_effective(setting: Setting, curve: Curve, sparsity: float) -> dict[int, float]:
    """By seed, the accuracy where the effective sparsity is that; none where no two tickets are near enough to it."""
    points: dict[int, list[tuple[float, float]]] = {}
    for variant in curve:
        sparsities = setting.values(variant, "paths.effective_sparsity")
        for seed, accuracy in setting.values(variant, "accuracy").items():
            if sparsities.get(seed, 1.0) < 1:
                points.setdefault(seed, []).append((_removal(sparsities[seed]), accuracy))
    at = _removal(sparsity)
    read = {seed: _read_off(sorted(pairs), at) for seed, pairs in points.items()}
    return {seed: accuracy for seed, accuracy in read.items() if accuracy is not None}


def _read_off(points: Sequence[tuple[float, float]], at: float) -> float | None:
    """The line between the points on either side; None where there are none, or they are too far apart to tell."""
    for x, y in points:
        if abs(at - x) < _SAME:
            return y
    for (x, y), (further, z) in pairwise(points):
        if x < at < further and further - x <= _FURTHEST + _SAME:
            return y + (at - x) / (further - x) * (z - y)
    return None


def _removal(sparsity: float) -> float:
    """Orders of magnitude by which the weights are fewer."""
    return -math.log10(1 - sparsity)


def _judged(
    setting: Setting, place: Trial, claimed: Beats, ours: Mapping[int, float], theirs: Mapping[int, float]
) -> Decided:
    """Accuracies by seed, with the margin and the controls of a place."""
    seeds = tuple(sorted(ours.keys() & theirs.keys()))
    if len(seeds) < setting.least:
        return Waiting(f"{len(seeds)} seeds have both", setting.least - len(seeds))
    pairs = Pairs(seeds, tuple(ours[seed] - theirs[seed] for seed in seeds))
    margin = setting.margin(place)
    controls = setting.controls(place, margin)
    judgement = judge(claimed, pairs, margin=margin, looks=setting.looks, controls=controls)
    return setting.unless_at_chance(judgement, place.data, ours.values(), theirs.values())


def _deciding(whole: Cells) -> Decided:
    """The verdict on cells, by the one of them that it hangs on: a page shows an estimate for that, not for several.

    It hangs on the weakest where all have to hold, and on the strongest where one is enough; of several that nothing is
    known of yet, on the one that is known.
    """
    all_must = whole.quantifier == "for all"
    judged = {name: cell for name, cell in whole.results.items() if isinstance(cell, Judgement)}
    if not judged or (all_must and len(judged) < len(whole.results)):
        return whole
    pick = max if all_must else min
    name = pick(judged, key=lambda name: judged[name].p_supported)
    cell = judged[name]
    remark = f"{'weakest' if all_must else 'strongest'} of {len(whole.results)}: {name}"
    return replace(
        cell,
        verdict=whole.verdict,
        p_supported=whole.p_supported,
        p_contradicted=whole.p_contradicted,
        further=whole.further,
        remarks=(*cell.remarks, remark),
    )
