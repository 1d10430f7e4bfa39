"""What only moves values: views, permutations, slices, concatenation, padding.

The function is asked itself: called on the places of the entries in the place of the entries, it shows where each of
its outputs comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_map

from disbud.errors import DisbudError
from disbud.export.operations import Move, Part, View
from disbud.export.recording import Recorder
from disbud.isolation import leaves

Places = NDArray[np.int64]

_NAMES = (
    "view reshape flatten unflatten ravel squeeze unsqueeze permute transpose t movedim moveaxis swapaxes swapdims "
    "contiguous clone detach __getitem__ chunk split narrow select unbind flip roll cat concat concatenate stack "
    "hstack vstack pad constant_pad_nd pixel_shuffle pixel_unshuffle channel_shuffle expand expand_as view_as "
    "reshape_as tensor_split requires_grad_ alias"
)
MOVES = frozenset(_NAMES.split())


def moved(
    recorder: Recorder,
    func: Callable[..., object],
    name: str,
    output: object,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
) -> None:
    """Write down where each entry goes; what keeps all entries in order is the same array under another shape."""
    made = [leaf for leaf in leaves(output) if isinstance(leaf, Tensor)]
    fill = 0.0
    given = dict(kwargs)
    if name in ("pad", "constant_pad_nd"):
        args, given, fill = _padding(name, args, given)
    read: list[tuple[View, int]] = []  # of each tensor read: where it is, and its first place

    def placed(leaf: object) -> object:
        if not isinstance(leaf, Tensor):
            return leaf
        if not recorder.follows(leaf):
            raise DisbudError(f"{name} with a constant tensor cannot be written as C")
        first = 1 + sum(view.size for view, _ in read)  # 0: no entry goes there
        read.append((recorder.value(leaf, name), first))
        return torch.arange(first, first + leaf.numel(), dtype=torch.float64).view(leaf.shape)

    with torch._C.DisableTorchFunction():
        shown = func(*tree_map(placed, args), **tree_map(placed, given))
        wheres: list[Places] = [
            leaf.to(torch.int64).numpy() for leaf in leaves(shown) if isinstance(leaf, Tensor)
        ]
    for tensor, where in zip(made, wheres, strict=True):
        if where.shape != tuple(tensor.shape):
            raise DisbudError(
                f"{name} cannot be written as C: it reads the bits of numbers as another type; to float and double can"
            )
        _write(recorder, name, tensor, where, read, fill)


def _padding(
    name: str, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[tuple[object, ...], dict[str, object], float]:
    """The arguments with zeros for what is padded with, and what that is."""
    named = dict(zip(("input", "pad", "mode", "value"), args, strict=False)) | kwargs
    if name == "constant_pad_nd":
        named = dict(zip(("input", "pad", "value"), args, strict=False)) | kwargs
    if named.get("mode", "constant") != "constant":
        raise DisbudError(
            f"pad with mode {named['mode']!r} cannot be written as C; constant padding can, as with zeros"
        )
    value = named.get("value") or 0.0
    if not isinstance(value, int | float):
        raise DisbudError(f"{name} with the value {value!r} cannot be written as C")
    zero: dict[str, object] = {"value": 0.0}
    return (named["input"], named["pad"]), zero, float(value)


def _write(
    recorder: Recorder, name: str, tensor: Tensor, where: Places, read: list[tuple[View, int]], fill: float
) -> None:
    parts = []
    for view, first in read:
        if np.array_equal(where.reshape(-1), np.arange(first, first + view.size)):
            recorder.same(tensor, view)
            return
        part = _part(name, view, where, first)
        parts += [part] if part else []
    covered = sum(prod(part.sizes) for part in parts) == where.size
    recorder.add(Move(tuple(parts), recorder.new(tensor), covered, fill))


def _part(name: str, view: View, where: Places, first: int) -> Part | None:
    """The block that comes from one array."""
    inside = (where >= first) & (where < first + view.size)
    if not inside.any():
        return None
    corners = [(int(axis.min()), int(axis.max()) + 1) for axis in inside.nonzero()]
    block = where[tuple(slice(*corner) for corner in corners)] - first
    start = int(block.flat[0])
    axes = range(block.ndim)
    lines = [block[tuple(slice(None) if i == axis else 0 for i in axes)] - start for axis in axes]
    expected = start + sum(
        line.reshape([-1 if i == axis else 1 for i in axes]) for axis, line in enumerate(lines)
    )
    strides = [prod(where.shape[axis + 1 :]) for axis in axes]
    at = sum(corner[0] * stride for corner, stride in zip(corners, strides, strict=True))
    digits = [
        (count, step, apart * stride)
        for line, stride in zip(lines, strides, strict=True)
        for count, step, apart in _digits(line)
    ]
    regular = np.array_equal(block, np.broadcast_to(expected, block.shape))
    if not regular or prod(count for count, _, _ in digits) != block.size:
        raise DisbudError(f"{name} cannot be written as C: it does not move values in one regular block")
    sizes, steps, to = (tuple(digit[i] for digit in digits) for i in range(3))
    return Part(view, sizes, start, steps, at, to)


def _digits(line: Places) -> list[tuple[int, int, int]]:
    """The offsets along an axis as nested loops: how many, the step there, and how many entries apart.

    Axes that were joined show as digits: 0 1 8 9 16 17 is 3 times a step of 8, and in each 2 times a step of 1. An
    empty list where it is no such sum.
    """
    step = int(line[1]) if len(line) > 1 else 0
    period = int(np.argmin(np.append(line == step * np.arange(len(line)), False)))
    if period == len(line):
        return [(period, step, 1)]
    if len(line) % period:
        return []
    rows = line.reshape(-1, period)
    outer = _digits(rows[:, 0]) if np.array_equal(rows, rows[:, :1] + rows[:1]) else []
    return [(count, one, apart * period) for count, one, apart in outer] + [(period, step, 1)] * bool(outer)
