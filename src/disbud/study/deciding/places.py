"""Which variants a claim compares: places in the grid resolved to pairs, before anything is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from disbud.catalogue import find, parse
from disbud.errors import DisbudError
from disbud.interventions.catalogue import CATALOGUE as INTERVENTIONS
from disbud.methods.catalogue import CATALOGUE as METHODS
from disbud.study.frame import AXES, Axis, label, varying
from disbud.study.specification.forms import CompareForm, CrossoverForm, GrowsForm, Place
from disbud.study.trial import DENSE, SMALL_DENSE, Trial

Compared = CompareForm | GrowsForm | CrossoverForm
Said = dict[str, tuple[object, ...]]


@dataclass(frozen=True)
class Pairing:
    """Two variants that a claim holds beside each other, and what the pair is called among the claim's others."""

    name: str
    left: Trial
    right: Trial

    @property
    def pruned(self) -> Trial:
        """The side that has a sparsity: where the pair is."""
        return self.left if self.left.sparsity is not None else self.right


def said(place: Place) -> Said:
    """The values that a place allows, by axis; "none" is no intervention."""
    found: Said = {}
    for axis in AXES:
        value = getattr(place, axis)
        if value is not None:
            values = value if isinstance(value, list) else [value]
            found[axis] = tuple(None if one == "none" and axis == "intervention" else one for one in values)
    return found


def selected(variants: Sequence[Trial], where: Said) -> list[Trial]:
    """The variants in a place; unaltered ones, where nothing is said of interventions."""
    asked = {"intervention": (None,), **where}
    return [
        variant
        for variant in variants
        if all(getattr(variant, axis) in values for axis, values in asked.items())
    ]


def pairings(
    form: Compared, variants: Sequence[Trial], *, along: Literal["sparsity", "model"] | None = None
) -> list[Pairing]:
    """Every pair of variants that differ as left and right do, and agree in all else.

    What `right` does not say is as in the left variant; a dense network has no sparsity. Of several that `right` names,
    those count that the study runs; at least one must. Pairs are named by what tells them apart, but for an axis that
    the claim goes `along`.
    """
    place = {**said(form.where), **said(form.left)}
    _check_names(form)
    found = selected(variants, place)
    if not found:
        raise DisbudError(
            f"claim {form.name}: the study runs nothing of {_shown(place)}; mend `where` or `left`"
        )
    pairs = _pairs(form, found)
    known = set(variants)
    missing = [other for _, other in pairs if other not in known]
    pairs = [(one, other) for one, other in pairs if other in known]
    if not pairs:
        raise DisbudError(
            f"claim {form.name} compares with {missing[0]}, which the study does not run; add it, as a [[trial]]"
        )
    axes = _but(along, varying([one for one, _ in pairs]))
    several = len({one for one, _ in pairs}) < len(pairs)
    others = _but(along, varying([other for _, other in pairs])) if several else []
    return [Pairing(_name(one, other, axes, others), one, other) for one, other in pairs]


def _but(along: str | None, axes: Sequence[Axis]) -> list[Axis]:
    return [axis for axis in axes if axis != along]


def called(variant: Trial, axes: Sequence[Axis]) -> str:
    """One side of a pair, by what tells it from the other."""
    if list(axes) == ["intervention"]:
        return str(variant.intervention or "unaltered")
    return label(variant, axes)


def _name(one: Trial, other: Trial, axes: Sequence[Axis], others: Sequence[Axis]) -> str:
    name = label(one, axes)
    new = [axis for axis in others if getattr(one, axis) != getattr(other, axis)]
    return f"{name} against {called(other, new)}" if new else name


def _pairs(form: Compared, found: Sequence[Trial]) -> list[tuple[Trial, Trial]]:
    """Left variants with right ones; combinations that are no trials are passed over, if others are."""
    pairs: list[tuple[Trial, Trial]] = []
    why = "left and right are the same; say what differs"
    for one, changes in product(found, _changes(said(form.right))):
        try:
            other = replace(one, **changes)  # type: ignore[arg-type]
        except DisbudError as problem:
            why = f"{problem}; what `right` does not say is as on the left"
            continue
        if other != one:
            pairs.append((one, other))
    if not pairs:
        raise DisbudError(f"claim {form.name}: {why}")
    return pairs


def _changes(right: Said) -> list[dict[str, object]]:
    """What makes a right side of a left one: controls that have no sparsity, or no ticket to alter, have none there."""
    found = []
    for values in product(*right.values()):
        changes: dict[str, object] = dict(zip(right, values, strict=True))
        if changes.get("method") in (DENSE, SMALL_DENSE):
            changes["intervention"] = None
        if changes.get("method") == DENSE:
            changes["sparsity"] = None
        found.append(changes)
    return found


def _check_names(form: Compared) -> None:
    """Raise for a method or an intervention that nobody knows: it would not count, and nobody would be told."""
    for words in (said(form.where), said(form.left), said(form.right)):
        for kind, entries in (("method", METHODS), ("intervention", INTERVENTIONS)):
            for text in words.get(kind, ()):
                spec = parse(str(text))
                if text in (None, DENSE, SMALL_DENSE) or spec.argument is not None:
                    continue
                try:
                    find(kind, spec.name, entries)
                except DisbudError as problem:
                    raise DisbudError(f"claim {form.name}: {problem}") from None


def _shown(place: Said) -> str:
    return (
        ", ".join(f"{axis} {' or '.join(map(str, values))}" for axis, values in place.items()) or "that place"
    )
