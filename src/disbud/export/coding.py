"""Where the kept weights lie, in few bytes: bits, places, or the gaps between them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from disbud.errors import DisbudError

Places = NDArray[np.int64]
Bytes = NDArray[np.uint8]

_SKIP = 255  # "so many removed weights, and no kept one yet"


def gaps(places: Places, starts: NDArray[np.bool_] | None = None) -> Bytes:
    """Rising places as the number of removed weights before each, a byte each; 255 skips so many and goes on.

    `starts` marks the places that are counted from the beginning of a row of their own.

    >>> import numpy
    >>> from disbud.export.coding import gaps, places_of
    >>> gaps(numpy.array([0, 3, 260])).tolist()
    [0, 2, 255, 1]
    >>> places_of(gaps(numpy.array([0, 3, 260]))).tolist()
    [0, 3, 260]
    """
    before = np.concatenate([[-1], places[:-1]]) if len(places) else places
    if starts is not None:
        before = np.where(starts, -1, before)
    removed = places - before - 1
    ends = np.cumsum(removed // _SKIP + 1) - 1
    coded = np.full(int(ends[-1]) + 1 if len(ends) else 0, _SKIP, np.uint8)
    coded[ends] = removed % _SKIP
    return coded


def places_of(coded: Bytes) -> Places:
    """The places that `gaps` wrote."""
    if len(coded) and coded[-1] == _SKIP:
        raise DisbudError("the gaps end before the place of the last weight")
    ends = coded != _SKIP
    found: Places = (np.cumsum(coded.astype(np.int64)) + np.cumsum(ends) - 1)[ends]
    return found


def smallest_unsigned(largest: int) -> str:
    """The narrowest of numpy's unsigned types that holds a number."""
    return next(name for name in ("uint8", "uint16", "uint32") if largest <= np.iinfo(name).max)
