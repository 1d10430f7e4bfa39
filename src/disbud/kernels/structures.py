"""The C structures of the kernels' headers, field by field, and how they are made from layouts and plans."""

from __future__ import annotations

import ctypes
from ctypes import c_double, c_float, c_int32, c_int64, c_void_p
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from disbud.kernels.layout import Layout
from disbud.kernels.plan import Gather


class CGather(ctypes.Structure):
    """`struct gather` of sparse.h."""

    _fields_ = (
        *((name, c_int32) for name in ("outputs", "channel_blocks", "bands", "rows", "columns", "halo")),
        *((f"input_{name}", c_int64) for name in ("origin", "row", "pixel")),
        *((f"output_{name}", c_int64) for name in ("origin", "row", "pixel")),
        *((name, c_void_p) for name in ("places", "starts", "offsets", "first_band", "last_band")),
        *(("sources", c_void_p), ("source_count", c_int64), ("reach", c_int64)),
    )


class CBatch(ctypes.Structure):
    """`struct batch` of sparse.h."""

    _fields_ = (
        ("blocks", c_int32),
        ("threads", c_int32),
        ("input_block", c_int64),
        ("output_block", c_int64),
    )


class CFinish(ctypes.Structure):
    """`struct finish` of sparse.h."""

    _fields_ = (*((name, c_void_p) for name in ("bias", "lanes", "added")), ("slope", c_float))


class CMap(ctypes.Structure):
    """`struct map` of map.h."""

    _fields_ = tuple((name, c_int32) for name in ("blocks", "channels", "height", "width", "halo"))


class CNormalisation(ctypes.Structure):
    """`struct normalisation` of normalise.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("gamma", "beta", "lanes")),
        *((name, c_double) for name in ("count", "epsilon")),
        ("slope", c_float),
        *((name, c_int32) for name in ("pooled", "of_batch", "threads")),
    )


class CWindow(ctypes.Structure):
    """`struct window` of pool.h."""

    _fields_ = (*((name, c_void_p) for name in ("from", "to", "share")), ("step", c_int32))


class CPooling(ctypes.Structure):
    """`struct pooling` of pool.h."""

    _fields_ = (("rows", CWindow), ("columns", CWindow), ("threads", c_int32))


_GATHERS: WeakKeyDictionary[Gather, CGather] = WeakKeyDictionary()


def gather_structure(gather: Gather) -> CGather:
    """The structure of one phase; it points into the phase's tensors, and is kept as long as they are."""
    found = _GATHERS.get(gather)
    if found is None:
        found = _GATHERS[gather] = _gather_structure(gather)
    return found


def _gather_structure(gather: Gather) -> CGather:
    tables = (gather.places, gather.starts, gather.offsets, gather.first_band, gather.last_band)
    return CGather(
        *(gather.outputs, gather.channel_blocks, gather.bands, gather.rows, gather.columns, gather.halo),
        *gather.input_steps,
        *gather.output_steps,
        *(table.data_ptr() for table in tables),
        *(gather.sources.data_ptr(), len(gather.sources), gather.reach),
    )


def batch_structure(input: Tensor, output: Tensor) -> CBatch:
    """The blocks of two activations, and the threads torch is set to."""
    return CBatch(input.shape[0], torch.get_num_threads(), input.stride(0), output.stride(0))


def map_structure(layout: Layout) -> CMap:
    """The structure of a layout."""
    return CMap(layout.blocks, layout.channels, layout.height, layout.width, layout.halo)
