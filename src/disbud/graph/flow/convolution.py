"""Convolution of signals of ones: computed once where it repeats, and in the quicker of two ways.

What an image of ones becomes is constant but for its borders, so most rows and columns repeat their neighbours
exactly; a convolution is computed at distinct positions only. Where it has few positions, it is best done as a
matrix product with the weights as they lie in memory: convolution kernels copy them to a layout of their own first,
which then takes longer than the convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from disbud.graph.flow.survivors import Survivors

_WORTHWHILE = 128  # at fewer positions it is not asked which repeat

Pair = tuple[int, int]


class Axis(NamedTuple):
    """A convolution along one axis of an image."""

    size: int
    kernel: int
    stride: int
    padding: int
    dilation: int

    @property
    def positions(self) -> int:
        """How many places the output has."""
        return (self.size + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1


def convolution(
    survivors: Survivors,
    input: Tensor,
    weight: Tensor,
    stride: object = 1,
    padding: object = 0,
    dilation: object = 1,
    groups: int = 1,
) -> Tensor:
    """conv2d without a bias."""
    if isinstance(padding, str) or input.dim() != 4 or len(input) != 1 or not input.numel():
        return torch.conv2d(input, weight, None, stride, padding, dilation, groups)  # type: ignore[call-overload,no-any-return]
    settings = zip(
        input.shape[2:], weight.shape[2:], _pair(stride), _pair(padding), _pair(dilation), strict=True
    )
    rows, columns = (Axis(*setting) for setting in settings)
    positions = rows.positions * columns.positions
    if positions >= _WORTHWHILE:
        image = input.detach()[0].cpu().numpy()
        (seen_rows, row_of), (seen_columns, column_of) = (
            _distinct(axis, _changes(image, i)) for i, axis in enumerate((rows, columns))
        )
        few = len(seen_rows) * len(seen_columns) // (rows.kernel * columns.kernel)
        if 2 * few <= positions:
            padded = functional.pad(
                input, (0, 1, 0, 1)
            )  # one row and one column stand for all of the padding
            patches = _at(_at(padded, 2, seen_rows), 3, seen_columns)
            side_by_side = [Axis(len(seen_rows), rows.kernel, rows.kernel, 0, 1)]
            side_by_side.append(Axis(len(seen_columns), columns.kernel, columns.kernel, 0, 1))
            output = _computed(survivors, patches, weight, *side_by_side, groups=groups)
            return _at(_at(output, 2, row_of), 3, column_of)
    return _computed(survivors, input, weight, rows, columns, groups=groups)


def _computed(
    survivors: Survivors, input: Tensor, weight: Tensor, rows: Axis, columns: Axis, *, groups: int
) -> Tensor:
    kernel, stride, padding, dilation = (
        (getattr(rows, key), getattr(columns, key)) for key in Axis._fields[1:]
    )
    if groups != 1 or not survivors.prefers_product(weight, rows.positions * columns.positions):
        return torch.conv2d(input, weight, None, stride, padding, dilation, groups)
    unfolded = functional.unfold(input, kernel, dilation, padding, stride)[0].t().contiguous()
    return survivors.product(unfolded, weight).t().reshape(1, len(weight), rows.positions, columns.positions)


def _changes(image: np.ndarray[tuple[int, ...], np.dtype[np.float64]], axis: int) -> tuple[bool, ...]:
    """Whether each row (axis 0) or column (axis 1) of any channel differs from the one before."""
    if axis == 0:
        differs = np.logical_or.reduce(image[:, 1:] != image[:, :-1], axis=0).any(1)
    else:
        differs = np.logical_or.reduce(image[:, :, 1:] != image[:, :, :-1], axis=0).any(0)
    return tuple(differs.tolist())


@lru_cache(maxsize=1024)
def _distinct(axis: Axis, changes: tuple[bool, ...]) -> tuple[list[int], list[int]]:
    """What windows of which no two see the same look at, one after the other, and for each place which window is its.

    Padding is looked at as the place after the last.
    """
    run_of = [*accumulate(changes, initial=0), -1]
    found: dict[tuple[int, ...], int] = {}
    seen, window_of = [], []
    for start in range(-axis.padding, axis.positions * axis.stride - axis.padding, axis.stride):
        reach = range(start, start + axis.kernel * axis.dilation, axis.dilation)
        window = [i if 0 <= i < axis.size else axis.size for i in reach]
        runs = tuple(run_of[i] for i in window)
        if runs not in found:
            found[runs] = len(found)
            seen += window
        window_of.append(found[runs])
    return seen, window_of


def _at(input: Tensor, axis: int, places: Sequence[int]) -> Tensor:
    return input.index_select(axis, torch.tensor(places, device=input.device))


def _pair(value: object) -> Pair:
    if isinstance(value, Sequence):
        return (value[0], value[-1])
    assert isinstance(value, int)
    return (value, value)
