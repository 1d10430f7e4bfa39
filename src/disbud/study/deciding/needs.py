"""Which variants a claim looks at, and whether it could be judged at all: before anything is run."""

from __future__ import annotations

from collections.abc import Sequence

from disbud.catalogue import resolve
from disbud.errors import DisbudError
from disbud.study.deciding.kinds import bounded_in, runs_of
from disbud.study.deciding.places import Pairing, pairings
from disbud.study.deciding.prediction import DENSITIES, tickets_in
from disbud.study.deciding.settings import control_pairs
from disbud.study.frame import AXES, OWN
from disbud.study.specification.forms import (
    AnyClaim,
    BoundForm,
    CompareForm,
    CrossoverForm,
    FunctionForm,
    GrowsForm,
    PredictsForm,
    StudyForm,
    UntestedForm,
)
from disbud.study.trial import Trial


def tested(claims: Sequence[AnyClaim]) -> list[AnyClaim]:
    """The claims that this study can test."""
    return [claim for claim in claims if not isinstance(claim, UntestedForm)]


def needed_by(claim: AnyClaim, variants: Sequence[Trial]) -> list[Trial]:
    """The variants that a claim looks at, with the controls of their settings."""
    if isinstance(claim, CompareForm | GrowsForm | CrossoverForm):
        used = [side for pair in _pairs(claim, variants) for side in (pair.left, pair.right)]
    elif isinstance(claim, BoundForm):
        used = bounded_in(claim, variants)
    elif isinstance(claim, PredictsForm):
        used = tickets_in(claim, variants)
    else:
        return list(variants)
    controls = [
        side for variant in used for sides in control_pairs(variant, variants).values() for side in sides
    ]
    return list(dict.fromkeys([*used, *controls]))


def _pairs(claim: CompareForm | GrowsForm | CrossoverForm, variants: Sequence[Trial]) -> list[Pairing]:
    if isinstance(claim, CompareForm):
        return pairings(claim, variants)
    return [pair for run in runs_of(claim, variants).values() for pair in run]


def check(form: StudyForm, variants: Sequence[Trial]) -> None:
    """Raise for claims of a study that could never be judged, before anything is run."""
    names = [claim.name for claim in form.claim]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DisbudError(f"two claims are called {twice!r}; each needs a name of its own")
    measures = [form.measures] if isinstance(form.measures, str) else form.measures
    for claim in tested(form.claim):
        needed_by(claim, variants)
        _check_values(claim, measures)
        if isinstance(claim, FunctionForm):
            resolve(claim.function)
        if isinstance(claim, CompareForm):
            _check_sizes(claim)
            if claim.value == "accuracy" and claim.margin is None and form.margin is None:
                _check_margin(claim, variants, controls=form.controls)


def _check_values(claim: AnyClaim, measures: Sequence[str]) -> None:
    """Raise for a value that no trial of the study will have."""
    found = [getattr(claim, key, None) for key in ("value", "x", "y", "rather_than")]
    for name in [*filter(None, found), *getattr(claim, "given", [])]:
        measure, dot, _ = name.partition(".")
        if name in OWN or (dot and measure in measures):
            continue
        if dot:
            raise DisbudError(f'claim {claim.name}: {name} needs the measure "{measure}"; add it to measures')
        raise DisbudError(
            f"claim {claim.name}: there is no value {name!r}; it is {', '.join(OWN)}, or MEASURE.ENTRY as paths.nodes"
        )
    for part in getattr(claim, "strata", []):
        if part not in (*AXES, DENSITIES):
            raise DisbudError(
                f"claim {claim.name}: there is no stratum {part!r}; it is {', '.join((*AXES, DENSITIES))}"
            )
        if part == DENSITIES and "paths" not in measures:
            raise DisbudError(
                f'claim {claim.name}: strata by densities need the measure "paths"; add it to measures'
            )


def _check_sizes(claim: CompareForm) -> None:
    on_accuracy = claim.value == "accuracy"
    for key, size in (("margin", claim.margin), ("by", claim.by)):
        if on_accuracy and size is not None and size > 1:
            raise DisbudError(
                f"claim {claim.name}: accuracies are fractions, so {key} = {size:g} is more than all; "
                "two points are 0.02"
            )
    if claim.verb == "same" and claim.margin == 0:
        raise DisbudError(
            f"claim {claim.name}: nothing is shown to be equal to within 0; give a margin above 0"
        )
    if claim.verb == "same" and claim.margin is None and not on_accuracy:
        raise DisbudError(
            f"claim {claim.name}: margins are found for accuracies; say within what {claim.value} counts as the same: "
            "margin = ..."
        )


def _check_margin(claim: CompareForm, variants: Sequence[Trial], *, controls: bool) -> None:
    """Raise where there is nothing to find a margin on."""
    if not controls:
        raise DisbudError(
            f"claim {claim.name} needs a margin: without controls there are none to find it on; give margin = 0.005"
        )
    if any(pair.pruned.sparsity is None for pair in pairings(claim, variants)):
        raise DisbudError(
            f"claim {claim.name} compares dense networks, for which no margin is found; give margin = 0.005, or say in "
            "`where` which methods are meant"
        )
