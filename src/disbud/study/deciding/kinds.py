"""The claims that a study file can make of pairs and of values: functions from the records to what has a verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from disbud.claims import (
    AtLeast,
    Beats,
    BeatsBy,
    Decided,
    LosesAtMost,
    Margin,
    Pairs,
    Same,
    Statement,
    crossover,
    for_all,
    judge,
    slopes,
    there_is,
)
from disbud.claims.words import Unit
from disbud.errors import DisbudError
from disbud.study.deciding.bounds import Waiting, held, waiting_if
from disbud.study.deciding.places import Pairing, called, pairings, said, selected
from disbud.study.deciding.settings import Setting
from disbud.study.frame import label, varying
from disbud.study.specification.forms import BoundForm, ClaimForm, CompareForm, CrossoverForm, GrowsForm
from disbud.study.trial import Trial

_PLAIN = Margin(0.0, unit="plain")
Table = list[list[float]]  # a row a seed, a column a pair
JudgedRun = Callable[[Sequence[Pairing], Sequence[int], Table, Unit], Decided]


def compared(form: CompareForm, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """Left against right in every cell."""
    return _whole(
        form, {pair.name: waiting_if(_compared, form, setting, pair) for pair in pairings(form, variants)}
    )


def _compared(form: CompareForm, setting: Setting, pair: Pairing) -> Decided:
    pairs = setting.pairs(pair.left, pair.right, form.value)
    if len(pairs) < setting.least:
        return _too_few(len(pairs), setting)
    on_accuracy = form.value == "accuracy"
    if form.margin is not None:
        margin = Margin(form.margin, why="given", unit=pairs.unit)
    else:
        margin = setting.margin(pair.pruned) if on_accuracy else _PLAIN
    controls = setting.controls(pair.pruned, margin) if on_accuracy else None
    judgement = judge(_statement(form, pair), pairs, margin=margin, looks=setting.looks, controls=controls)
    if not on_accuracy:
        return judgement
    sides = (setting.values(side, form.value) for side in (pair.left, pair.right))
    return setting.unless_at_chance(judgement, pair.pruned.data, *(side.values() for side in sides))


def _statement(form: CompareForm, pair: Pairing) -> Statement:
    axes = [axis for axis in varying([pair.left, pair.right]) if axis != "sparsity"]
    left, right = (called(variant, axes) for variant in (pair.left, pair.right))
    if form.verb == "same":
        return Same(left, right)
    if form.verb == "at-least":
        return AtLeast(left, right)
    if form.verb == "loses-at-most":
        return LosesAtMost(left, right, form.by or 0.0)
    return Beats(left, right) if form.by is None else BeatsBy(left, right, form.by)


def grows(form: GrowsForm, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """Each seed's slope of the difference along the axis: a difference to judge."""

    def judged(run: Sequence[Pairing], seeds: Sequence[int], gaps: Table, unit: Unit) -> Decided:
        rise = Pairs(tuple(seeds), slopes(gaps, list(range(len(run)))), unit)
        left, right = _sides(run)
        statement = Beats(f"the gap of {left} to {right}, a step over {_steps(form, run)},", "none")
        return judge(statement, rise, margin=Margin(0.0, unit=unit), looks=setting.looks)

    return _along(form, setting, variants, judged)


def crosses(form: CrossoverForm, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """Where left and right change places; without looks, so it takes the seeds that were planned."""

    def judged(run: Sequence[Pairing], seeds: Sequence[int], gaps: Table, unit: Unit) -> Decided:
        at = [pair.pruned.sparsity or 0.0 for pair in run]
        return crossover(at, gaps, names=_sides(run), direction=form.sign)

    return _along(form, setting, variants, judged)


def _along(
    form: GrowsForm | CrossoverForm, setting: Setting, variants: Sequence[Trial], judged: JudgedRun
) -> Decided:
    """Each run judged on its differences: a row for each seed that all its pairs have, a column for each pair."""

    def one(run: Sequence[Pairing]) -> Decided:
        pairs = [setting.pairs(pair.left, pair.right, form.value) for pair in run]
        shared = sorted(set.intersection(*(set(each.seeds) for each in pairs)))
        if len(shared) < setting.least:
            return _too_few(len(shared), setting)
        columns = [dict(zip(each.seeds, each.differences, strict=True)) for each in pairs]
        gaps = [[column[seed] for column in columns] for seed in shared]
        return judged(run, shared, gaps, pairs[0].unit)

    return _whole(form, {name: waiting_if(one, run) for name, run in runs_of(form, variants).items()})


def _sides(run: Sequence[Pairing]) -> tuple[str, str]:
    left, right = (called(side, ("method", "intervention")) for side in (run[0].left, run[0].right))
    return left, right


def bounded(form: BoundForm, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """The mean over seeds of a value against a number."""

    def one(variant: Trial) -> Decided:
        values = setting.values(variant, form.value)
        return held(values, what=form.value, most=form.most, least=form.least, looks=setting.looks)

    found = bounded_in(form, variants)
    axes = varying(found)
    return _whole(form, {label(variant, axes): waiting_if(one, variant) for variant in found})


def bounded_in(form: BoundForm, variants: Sequence[Trial]) -> list[Trial]:
    """The variants that a bound is about."""
    found = selected(variants, said(form.where))
    if not found:
        raise DisbudError(f"claim {form.name}: the study runs nothing there; mend `where`")
    return found


def runs_of(form: GrowsForm | CrossoverForm, variants: Sequence[Trial]) -> dict[str, list[Pairing]]:
    """Pairs in their order along the axis, a run for each place and right side that differ in anything else."""
    along = form.along if isinstance(form, GrowsForm) else "sparsity"
    runs: dict[str, list[Pairing]] = {}
    for pair in sorted(pairings(form, variants, along=along), key=_order(form, along)):
        runs.setdefault(pair.name, []).append(pair)
    plural = "sparsities" if along == "sparsity" else "models"
    for name, run in runs.items():
        places = [getattr(pair.pruned, along) for pair in run]
        if len(set(places)) < 3:
            raise DisbudError(
                f"claim {form.name}: {name} has fewer than the 3 {plural} that a run needs; add some"
            )
        if len(set(places)) < len(places):
            raise DisbudError(
                f"claim {form.name}: {name} has several pairs at {places[0]}; say in `where` which {plural} are meant"
            )
    return runs


def _order(form: GrowsForm | CrossoverForm, along: str) -> Callable[[Pairing], float]:
    if along == "sparsity":
        return lambda pair: pair.pruned.sparsity or 0.0
    models = form.where.model
    if not isinstance(models, list):
        raise DisbudError(
            f"claim {form.name} goes along models; list them in order, as where = {{ model = [...] }}"
        )

    def place(pair: Pairing) -> int:
        if pair.pruned.model not in models:
            raise DisbudError(
                f"claim {form.name}: `where` does not list {pair.pruned.model} among its models"
            )
        return models.index(pair.pruned.model)

    return place


def _steps(form: GrowsForm, run: Sequence[Pairing]) -> str:
    if form.along == "sparsity":
        return ", ".join(f"{100 * (pair.pruned.sparsity or 0):.4g}" for pair in run) + " %"
    return ", ".join(pair.pruned.model for pair in run)


def _whole(form: ClaimForm, cells: Mapping[str, Decided]) -> Decided:
    return for_all(cells) if form.wanted == "for all" else there_is(cells)


def _too_few(pairs: int, setting: Setting) -> Waiting:
    return Waiting(f"{pairs} seeds of both sides; {setting.least} are the least", setting.least - pairs)
