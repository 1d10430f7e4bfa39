"""From the claims of a study and its records to decisions: each judged, then all corrected for being many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from disbud.catalogue import resolve
from disbud.claims import (
    Cells,
    Corrected,
    Crossover,
    Decided,
    Judgement,
    Looks,
    Verdict,
    corrected,
    until_decided,
)
from disbud.errors import DisbudError
from disbud.study.deciding.bounds import waiting_if
from disbud.study.deciding.kinds import bounded, compared, crosses, grows
from disbud.study.deciding.needs import needed_by, tested
from disbud.study.deciding.prediction import Prediction, predicted
from disbud.study.deciding.settings import Setting
from disbud.study.findings import Cell, Decision
from disbud.study.frame import Frame
from disbud.study.specification.forms import (
    AnyClaim,
    BoundForm,
    CompareForm,
    CrossoverForm,
    FunctionForm,
    GrowsForm,
    PredictsForm,
    UntestedForm,
)
from disbud.study.trial import Trial

FrameFor = Callable[[Sequence[Trial], int], Frame]


def decide(
    claims: Sequence[AnyClaim], frame: Frame, variants: Sequence[Trial], *, margin: float | None = None
) -> tuple[Decision, ...]:
    """Every claim on the seeds that were run, whose number counts as fixed beforehand."""
    setting = Setting(frame, given=margin)
    results = {claim.name: judged(claim, setting, variants) for claim in tested(claims)}
    return decisions(claims, corrected(results) if results else {})


def decide_in_looks(
    claims: Sequence[AnyClaim],
    frame_for: FrameFor,
    variants: Sequence[Trial],
    *,
    margin: float | None = None,
    looks: Looks | None = None,
) -> tuple[Decision, ...]:
    """Look after look, with seeds added where a claim is undecided: `frame_for(variants, seeds)` runs what is missing.

    Claims that have no sequential form (crossovers, correlations, functions) are judged once, on the first look's
    seeds.
    """
    looks = looks or Looks()
    by_name = {claim.name: claim for claim in tested(claims)}
    once: dict[str, Decided] = {}

    def result_with(name: str, seeds: int) -> Decided:
        claim = by_name[name]
        needed = needed_by(claim, variants)
        if isinstance(claim, CompareForm | GrowsForm | BoundForm):
            return judged(claim, Setting(frame_for(needed, seeds).first(seeds), looks, margin), needed)
        if name not in once:
            first = looks.seeds[0]
            once[name] = judged(claim, Setting(frame_for(needed, first).first(first), None, margin), needed)
        return once[name]

    return decisions(claims, until_decided(list(by_name), result_with, looks=looks) if by_name else {})


def judged(claim: AnyClaim, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """One claim on the records of a setting; where it cannot be judged, why."""
    return waiting_if(_judged, claim, setting, variants)


def _judged(claim: AnyClaim, setting: Setting, variants: Sequence[Trial]) -> Decided:
    match claim:
        case CompareForm():
            return compared(claim, setting, variants)
        case GrowsForm():
            return grows(claim, setting, variants)
        case CrossoverForm():
            return crosses(claim, setting, variants)
        case BoundForm():
            return bounded(claim, setting, variants)
        case PredictsForm():
            return predicted(claim, setting, variants)
        case FunctionForm():
            return _by_function(claim, setting, variants)
        case UntestedForm():
            raise DisbudError(f"claim {claim.name} is not tested: {claim.why}")


def _by_function(claim: FunctionForm, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """What the user's function decides; its errors, whatever they are, must not cost the study its other claims."""
    function = resolve(claim.function)
    try:
        found = function(claim, setting, variants)
    except DisbudError:
        raise
    except Exception as problem:
        raise DisbudError(f"{claim.function} raised {type(problem).__name__}: {problem}") from problem
    parts = ("verdict", "p_supported", "p_contradicted", "further")
    missing = [part for part in parts if not hasattr(found, part)]
    if missing:
        raise DisbudError(
            f"{claim.function} returned a {type(found).__name__} without {', '.join(missing)}; it returns what "
            "disbud.claims gives, as judge(...) or for_all(...)"
        )
    return cast("Decided", found)


def decisions(claims: Sequence[AnyClaim], after: Mapping[str, Corrected]) -> tuple[Decision, ...]:
    """Each claim with its verdict, in the order of the study file."""
    found = []
    for claim in claims:
        if isinstance(claim, UntestedForm):
            found.append(Decision(claim.name, claim.says, None, claim.why, claim.source))
            continue
        outcome = after[claim.name]
        before = outcome.before
        several = isinstance(before, Cells) and len(before.results) > 1
        p = {Verdict.SUPPORTED: outcome.p_supported, Verdict.CONTRADICTED: outcome.p_contradicted}
        found.append(
            Decision(
                claim.name, claim.says, outcome.verdict, _words(outcome), claim.source,
                claim.wanted if several else "", tuple(_cells(before)), p.get(outcome.verdict),
            )
        )  # fmt: skip
    return tuple(found)


def _words(outcome: Corrected) -> str:
    """What the cells say, and what correction for many claims makes of it."""
    before = outcome.before
    if isinstance(before, Cells) and len(before.results) > 1:
        results = before.results.values()
        counts = {verdict: sum(r.verdict is verdict for r in results) for verdict in Verdict}
        tally = ", ".join(f"{verdict} in {count}" for verdict, count in counts.items() if count)
        said = f"{tally} of {len(results)} cells"
    else:
        said = str(next(iter(before.results.values())) if isinstance(before, Cells) else before)
    decided = Verdict.SUPPORTED, Verdict.CONTRADICTED
    return f"{said}; {outcome}" if outcome.verdict in decided or before.verdict in decided else said


def _cells(result: Decided) -> list[Cell]:
    if isinstance(result, Cells):
        return [_cell(name, one) for name, one in result.results.items()]
    return [_cell("", result)]


def _cell(name: str, one: Decided) -> Cell:
    if isinstance(one, Judgement):
        interval, margin = one.interval, one.margin
        return Cell(
            name, one.verdict, str(one), one.estimate, interval.low, interval.high, interval.level,
            margin.value or None, margin.unit, one.seeds, one.further,
        )  # fmt: skip
    if isinstance(one, Crossover) and one.points:
        return Cell(
            name, one.verdict, str(one), one.points[0], one.low, one.high, one.level, unit="sparsity", seeds=one.seeds,
        )  # fmt: skip
    if isinstance(one, Prediction):
        return Cell(
            name, one.verdict, str(one), one.estimate, one.interval.low, one.interval.high, one.interval.level,
            unit="correlation" if one.names[2] is None else "correlations",
        )  # fmt: skip
    return Cell(name, one.verdict, str(one), further=one.further)
