"""Layers of which a reading takes some inputs alone, where all that is known of a layer is how its units are linked."""

from __future__ import annotations

from collections.abc import Mapping

from disbud.errors import DisbudError
from disbud.graph.kernels import Kernels
from disbud.graph.links import Links


def check_inputs_whole(found: Links, kernels: Mapping[str, Kernels]) -> None:
    """Raise where a layer is read with other inputs than those of its whole weight, as by groups one at a time."""
    for place in found.places:
        groups, rows, _, _ = kernels[place.layer].sizes
        if place.inputs != groups * rows:
            raise DisbudError(
                f"{place.layer} has {groups * rows} inputs, and the model reads {place.inputs} with a part of it, so "
                f"it is not known which; leave it out, as in exclude='{place.layer}', or rank weights one by one"
            )
