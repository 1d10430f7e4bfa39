"""A layer's weights as the C tables that need the fewest bytes: dense, by place, or by gap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from disbud.errors import DisbudError
from disbud.export.coding import gaps, smallest_unsigned
from disbud.export.operations import Numbers

Table = NDArray[np.generic]
VALUES = {"fp32": np.float32, "fp16": np.float16}


@dataclass(frozen=True)
class Stored:
    """The values in order of outputs; where they lie within the row of an output; how many each output has.

    `form` is "dense", "places" or "gaps"; a dense layer has no places and no counts.
    """

    form: str
    values: Table
    index: Table | None
    counts: Table | None

    @property
    def value_bytes(self) -> int:
        """Bytes of the weights."""
        return self.values.nbytes

    @property
    def index_bytes(self) -> int:
        """Bytes of what says where they lie."""
        return sum(table.nbytes for table in (self.index, self.counts) if table is not None)

    def __str__(self) -> str:
        return self.form if self.index is None else f"{8 * self.index.itemsize}-bit {self.form}"


def stored(name: str, weight: Numbers, *, values: str) -> Stored:
    """The smallest form of a weight whose first axis goes by outputs; of equals the one that is quickest to read.

    A weight that is zero as it would be stored is not kept.
    """
    rows = rounded(name, weight.reshape(len(weight), -1), values=values)
    output, place = np.nonzero(rows)
    kept = rows[output, place]
    per_row = np.bincount(output, minlength=len(rows))
    counts = per_row.astype(smallest_unsigned(int(per_row.max(initial=0))))
    starts = np.diff(output, prepend=-1) != 0
    narrow = place.astype(smallest_unsigned(max(0, rows.shape[1] - 1)))
    forms = [
        Stored("dense", rows.reshape(-1), None, None),
        Stored("places", kept, narrow, counts),
        Stored("gaps", kept, gaps(place, starts), counts),
    ]
    return min(forms, key=lambda form: form.value_bytes + form.index_bytes)


def rounded(name: str, weight: Numbers, *, values: str) -> Table:
    """The weights as they are stored; raises where the type cannot hold one of them."""
    if not np.isfinite(weight).all():
        raise DisbudError(f"{name} has weights that are not finite numbers, and C has no way to write those")
    with np.errstate(over="ignore", under="ignore"):
        found = weight.astype(VALUES[values])
    if not np.isfinite(found).all():
        raise DisbudError(
            f"{name} has a weight of {float(np.abs(weight).max()):.4g} once BatchNorm is folded in, which {values} "
            f"cannot hold{'; use values=' + repr('fp32') if values == 'fp16' else ''}"
        )
    return found
