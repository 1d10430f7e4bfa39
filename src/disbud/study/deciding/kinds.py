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
from disbud.study.deciding.bounds import Waiting, held
from disbud.study.deciding.places import Pairing, pairings, said, selected
from disbud.study.deciding.settings import Setting
from disbud.study.frame import FIRST_CALIBRATION, label, varying
from disbud.study.specification.forms import BoundForm, ClaimForm, CompareForm, CrossoverForm, GrowsForm
from disbud.study.trial import Trial

_PLAIN = Margin(0.0, unit="plain")
Table = list[list[float]]  # a row a seed, a column a pair
JudgedRun = Callable[[Sequence[Pairing], Sequence[int], Table, Unit], Decided]


def compared(form: CompareForm, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """Left against right in every cell."""
    cells: dict[str, Decided] = {}
    for pair in pairings(form.name, form.where, form.left, form.right, variants):
        pairs = setting.pairs(pair.left, pair.right, form.value)
        if len(pairs) < setting.least:
            cells[pair.name] = _too_few(pairs, setting)
            continue
        on_accuracy = form.value == "accuracy"
        margin = Margin(form.margin, why="given", unit=pairs.unit) if form.margin is not None else None
        if margin is None:
            margin = setting.margin(pair.pruned) if on_accuracy else _PLAIN
        controls = setting.controls(pair.pruned, margin) if on_accuracy else None
        statement = _statement(form, pair)
        cells[pair.name] = judge(statement, pairs, margin=margin, looks=setting.looks, controls=controls)
    return _whole(form, cells)


def _statement(form: CompareForm, pair: Pairing) -> Statement:
    axes = [axis for axis in varying([pair.left, pair.right]) if axis != "sparsity"]
    left, right = (_called(variant, axes) for variant in (pair.left, pair.right))
    if form.verb == "same":
        return Same(left, right)
    if form.verb == "at-least":
        return AtLeast(left, right)
    if form.verb == "loses-at-most":
        return LosesAtMost(left, right, form.by or 0.0)
    return Beats(left, right) if form.by is None else BeatsBy(left, right, form.by)


def _called(variant: Trial, axes: Sequence[str]) -> str:
    """One side of a pair, by what tells it from the other."""
    if list(axes) == ["intervention"]:
        return str(variant.intervention or "unaltered")
    return label(variant, axes)  # type: ignore[arg-type]


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
        return crossover([pair.pruned.sparsity or 0.0 for pair in run], gaps, names=_sides(run))

    return _along(form, setting, variants, judged)


def _along(
    form: GrowsForm | CrossoverForm, setting: Setting, variants: Sequence[Trial], judged: JudgedRun
) -> Decided:
    """Each run judged on its differences: a row for each seed that all its pairs have, a column for each pair."""
    cells: dict[str, Decided] = {}
    for name, run in runs_of(form, variants).items():
        pairs = [setting.pairs(pair.left, pair.right, form.value) for pair in run]
        shared = sorted(set.intersection(*(set(each.seeds) for each in pairs)))
        if len(shared) < setting.least:
            cells[name] = _too_few(pairs[0].first(len(shared)), setting)
            continue
        columns = [dict(zip(each.seeds, each.differences, strict=True)) for each in pairs]
        gaps = [[column[seed] for column in columns] for seed in shared]
        cells[name] = judged(run, shared, gaps, pairs[0].unit)
    return _whole(form, cells)


def _sides(run: Sequence[Pairing]) -> tuple[str, str]:
    left, right = (_called(side, ("method", "intervention")) for side in (run[0].left, run[0].right))
    return left, right


def bounded(form: BoundForm, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """The mean over seeds of a value against a number."""
    found = selected(variants, said(form.where))
    if not found:
        raise DisbudError(f"claim {form.name}: the study runs nothing there; mend `where`")
    axes = varying(found)
    cells: dict[str, Decided] = {}
    for variant in found:
        values = {s: v for s, v in setting.frame.values(variant, form.value).items() if s < FIRST_CALIBRATION}
        cells[label(variant, axes)] = held(
            values, what=form.value, most=form.most, least=form.least, looks=setting.looks
        )
    return _whole(form, cells)


def runs_of(form: GrowsForm | CrossoverForm, variants: Sequence[Trial]) -> dict[str, list[Pairing]]:
    """Pairs in their order along the axis, one run for each place that differs in anything else."""
    along = form.along if isinstance(form, GrowsForm) else "sparsity"
    pairs = pairings(form.name, form.where, form.left, form.right, variants)
    axes = [axis for axis in varying([pair.pruned for pair in pairs]) if axis != along]
    runs: dict[str, list[Pairing]] = {}
    for pair in sorted(pairs, key=_order(form, along)):
        runs.setdefault(label(pair.pruned, axes) if axes else "all", []).append(pair)
    short = next(
        (name for name, run in runs.items() if len({getattr(p.pruned, along) for p in run}) < 3), None
    )
    if short is not None:
        plural = "sparsities" if along == "sparsity" else "models"
        raise DisbudError(
            f"claim {form.name}: {short} has fewer than the 3 {plural} that a run needs; add some"
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
    return lambda pair: models.index(pair.pruned.model)


def _steps(form: GrowsForm, run: Sequence[Pairing]) -> str:
    if form.along == "sparsity":
        return ", ".join(f"{100 * (pair.pruned.sparsity or 0):.4g}" for pair in run) + " %"
    return ", ".join(pair.pruned.model for pair in run)


def _whole(form: ClaimForm, cells: Mapping[str, Decided]) -> Decided:
    return for_all(cells) if form.wanted == "for all" else there_is(cells)


def _too_few(pairs: Pairs, setting: Setting) -> Waiting:
    return Waiting(
        f"{len(pairs)} seeds of both sides; {setting.least} are the least", setting.least - len(pairs)
    )
