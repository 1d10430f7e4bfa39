"""Small pictures of large matrices: local density as the opacity of one colour, as PNG inside the page."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy
from numpy.typing import NDArray
from torch import Tensor

Densities = NDArray[numpy.float64]

_LEVELS = 64  # more cannot be told apart, and fewer compress better
_COLOUR = (30, 120, 190)  # stands out on white and on near-black


def local_densities(mask: Tensor, side: int) -> Densities:
    """The fraction kept in each bin of a mask: first axis down, second across, kernels summed, `side` bins at most.

    Bins are as equal as whole slices allow, and every weight is in exactly one.

    >>> import torch
    >>> local_densities(torch.tensor([[True, False, False, False], [True, True, False, False]]), 2)
    array([[0.5, 0. ],
           [1. , 0. ]])
    """
    flat = mask.reshape(mask.shape[0], -1).numpy()
    rows, columns = _starts(mask.shape[0], side), _starts(mask.shape[1], side)
    by_row = numpy.add.reduceat(flat, rows, axis=0, dtype=numpy.int64)
    by_unit = by_row.reshape(len(rows), mask.shape[1], -1)
    kept = numpy.add.reduceat(by_unit.sum(2), columns, axis=1)
    sizes = numpy.outer(_sizes(rows, mask.shape[0]), _sizes(columns, mask.shape[1])) * by_unit.shape[2]
    densities: Densities = kept / sizes
    return densities


def density_png(densities: Densities) -> bytes:
    """A picture with one pixel a bin: clear where nothing is kept, full colour at the densest bin.

    Opacity goes with the square root of the density, so that few kept weights among many can still be seen.
    """
    densest = densities.max(initial=0.0)
    share = numpy.sqrt(densities / densest) if densest else numpy.zeros_like(densities)
    # What keeps anything is never drawn as if it kept nothing.
    levels = numpy.ceil(share * (_LEVELS - 1)).astype(numpy.uint8)
    height, width = levels.shape
    rows = numpy.hstack([numpy.zeros((height, 1), numpy.uint8), levels])  # each begins with its filter: none
    opacity = [0, *(40 + round(215 * level / (_LEVELS - 1)) for level in range(1, _LEVELS))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(kind, content)
        for kind, content in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            (b"PLTE", bytes(_COLOUR) * _LEVELS),
            (b"tRNS", bytes(opacity)),
            (b"IDAT", zlib.compress(rows.tobytes(), 9)),
            (b"IEND", b""),
        )
    )


def data_uri(png: bytes) -> str:
    """The picture as an address that holds it whole."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _starts(size: int, most: int) -> NDArray[numpy.int64]:
    bins = min(size, most)
    return numpy.arange(bins) * size // bins


def _sizes(starts: NDArray[numpy.int64], size: int) -> NDArray[numpy.int64]:
    return numpy.diff(starts, append=size)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
