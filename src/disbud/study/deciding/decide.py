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
from disbud.study.deciding.kinds import bounded, compared, crosses, grows, runs_of
from disbud.study.deciding.places import pairings, said, selected
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
from disbud.study.specification.grid import REFERENCE, dense_of
from disbud.study.trial import Trial

Judge = Callable[[AnyClaim, Setting, Sequence[Trial]], Decided]
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

    def result_with(name: str, seeds: int) -> Decided:
        claim = by_name[name]
        sequential = isinstance(claim, CompareForm | GrowsForm | BoundForm)
        needed = needed_by(claim, variants)
        first = looks.seeds[0]
        frame = frame_for(needed, seeds if sequential else first).first(seeds if sequential else first)
        return judged(claim, Setting(frame, looks if sequential else None, margin), needed)

    return decisions(claims, until_decided(list(by_name), result_with, looks=looks) if by_name else {})


def tested(claims: Sequence[AnyClaim]) -> list[AnyClaim]:
    """The claims that this study can test."""
    return [claim for claim in claims if not isinstance(claim, UntestedForm)]


def judged(claim: AnyClaim, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """One claim on the records of a setting."""
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
            function = cast(
                "Callable[[FunctionForm, Setting, Sequence[Trial]], Decided]", resolve(claim.function)
            )
            return function(claim, setting, variants)
        case UntestedForm():
            raise DisbudError(f"claim {claim.name} is not tested: {claim.why}")


def needed_by(claim: AnyClaim, variants: Sequence[Trial]) -> list[Trial]:
    """The variants that a claim looks at, with the controls of their settings."""
    if isinstance(claim, CompareForm | GrowsForm | CrossoverForm):
        if isinstance(claim, CompareForm):
            pairs = pairings(claim.name, claim.where, claim.left, claim.right, variants)
        else:
            pairs = [pair for run in runs_of(claim, variants).values() for pair in run]
        used = [side for pair in pairs for side in (pair.left, pair.right)]
    elif isinstance(claim, BoundForm | PredictsForm):
        used = selected(variants, said(claim.where))
    else:
        return list(variants)
    places = {(dense_of(variant), variant.sparsity) for variant in used}
    controls = [
        variant
        for variant in variants
        if variant in {dense for dense, _ in places}
        or (variant.method == REFERENCE and (dense_of(variant), variant.sparsity) in places)
    ]
    return list(dict.fromkeys([*used, *controls]))


def check(claims: Sequence[AnyClaim], variants: Sequence[Trial], *, can_judge: bool) -> None:
    """Raise for claims that could never be judged, before anything is run."""
    names = [claim.name for claim in claims]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DisbudError(f"two claims are called {twice!r}; each needs a name of its own")
    for claim in tested(claims):
        needed_by(claim, variants)
        if isinstance(claim, FunctionForm):
            resolve(claim.function)
        if (
            isinstance(claim, CompareForm)
            and claim.value == "accuracy"
            and claim.margin is None
            and not can_judge
        ):
            raise DisbudError(
                f"claim {claim.name} needs a margin: without controls there are none to find it on; give margin = 0.005"
            )


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
        middle = (one.interval.low + one.interval.high) / 2
        return Cell(
            name, one.verdict, str(one), middle, one.interval.low, one.interval.high, one.interval.level,
            unit="correlation",
        )  # fmt: skip
    return Cell(name, one.verdict, str(one), further=one.further)
