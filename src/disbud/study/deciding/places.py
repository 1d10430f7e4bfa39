"""Which variants a claim compares: places in the grid resolved to pairs, before anything is run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from disbud.errors import DisbudError
from disbud.study.frame import AXES, label, varying
from disbud.study.specification.forms import Place
from disbud.study.trial import DENSE, Trial

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


def pairings(claim: str, where: Place, left: Place, right: Place, variants: Sequence[Trial]) -> list[Pairing]:
    """Every pair of variants that differ as left and right do, and agree in all else.

    What `right` does not say is as in the left variant; a dense network has no sparsity. Of several that `right` names,
    those count that the study runs; at least one must.
    """
    place = {**said(where), **said(left)}
    found = selected(variants, place)
    if not found:
        raise DisbudError(f"claim {claim}: the study runs nothing of {_shown(place)}; mend `where` or `left`")
    pairs = [(one, other) for one in found for other in _others(one, said(right)) if other != one]
    known = set(variants)
    if not pairs:
        raise DisbudError(f"claim {claim}: left and right are the same; say what differs")
    missing = [other for _, other in pairs if other not in known]
    pairs = [(one, other) for one, other in pairs if other in known]
    if not pairs:
        raise DisbudError(
            f"claim {claim} compares with {missing[0]}, which the study does not run; add it, as a [[trial]]"
        )
    axes = varying([one for one, _ in pairs])
    others = varying([other for _, other in pairs]) if len({one for one, _ in pairs}) < len(pairs) else ()
    return [Pairing(_name(one, other, axes, others), one, other) for one, other in pairs]


def _name(one: Trial, other: Trial, axes: Sequence[str], others: Sequence[str]) -> str:
    name = label(one, axes)  # type: ignore[arg-type]
    new = [axis for axis in others if getattr(one, axis) != getattr(other, axis)]
    return f"{name} against {label(other, new)}" if new else name  # type: ignore[arg-type]


def _others(one: Trial, right: Said) -> Iterator[Trial]:
    for values in product(*right.values()):
        changes = dict(zip(right, values, strict=True))
        if changes.get("method") == DENSE:
            changes |= {"sparsity": None, "intervention": None}
        yield replace(one, **changes)  # type: ignore[arg-type]


def _shown(place: Said) -> str:
    return (
        ", ".join(f"{axis} {' or '.join(map(str, values))}" for axis, values in place.items()) or "that place"
    )
