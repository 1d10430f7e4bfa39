"""What a network computes for one input, as a list of plain operations between arrays of floats."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import prod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Numbers: TypeAlias = NDArray[np.float64]
Pair: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class View:
    """An array, by its number, in the shape in which it is read or made here.

    Each place where an array is used has a view of its own, since a network may see the same floats in many shapes.
    """

    array: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many floats it has."""
        return prod(self.shape)


@dataclass(frozen=True)
class Constant:
    """Numbers that an operation reads beside signals; with no axes, a single one."""

    numbers: Numbers


@dataclass(frozen=True)
class Affine:
    """y = scale[c] * x + shift[c] for each channel c of `inner` entries, in each of `rows`: BatchNorm in evaluation."""

    source: View
    output: View
    rows: int
    inner: int
    scale: Numbers
    shift: Numbers


@dataclass(frozen=True)
class Convolution:
    """A convolution of planes; one of a single axis has planes of height 1. The weight is (out, in of a group, h, w).

    `padding` is what lies before the first row and column; the sizes say what lies behind the last.
    """

    name: str
    source: View
    output: View
    weight: Numbers
    bias: Numbers | None
    groups: int
    size_in: Pair
    size_out: Pair
    stride: Pair
    padding: Pair
    dilation: Pair


@dataclass(frozen=True)
class Linear:
    """The same linear layer for each of `rows` rows of features."""

    name: str
    source: View
    output: View
    weight: Numbers
    bias: Numbers | None
    rows: int


@dataclass(frozen=True)
class Elementwise:
    """A function of each entry, by name, with its settings."""

    source: View
    output: View
    function: str
    settings: tuple[float, ...] = ()


@dataclass(frozen=True)
class Pool:
    """The largest or the mean value of windows; a `kernel` of None cuts the planes into windows of about equal size.

    `divisor` is what sums are divided by; 0 stands for the entries of the window, with padding where that is counted.
    """

    kind: str
    source: View
    output: View
    planes: int
    size_in: Pair
    size_out: Pair
    kernel: Pair | None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    counts_padding: bool = False
    divisor: int = 0


@dataclass(frozen=True)
class Combine:
    """left + right and the like, entry by entry; the smaller of the two is repeated as numpy does."""

    function: str
    left: View | Constant
    right: View | Constant
    output: View


@dataclass(frozen=True)
class Part:
    """A block of an array: its sizes, and where its first entry lies and how far the next ones, there and here."""

    source: View
    sizes: tuple[int, ...]
    start_from: int
    steps_from: tuple[int, ...]
    start_to: int
    steps_to: tuple[int, ...]


@dataclass(frozen=True)
class Move:
    """Blocks of one or several arrays put into another; where no block goes there is `fill`."""

    parts: tuple[Part, ...]
    output: View
    covers: bool
    fill: float = 0.0


@dataclass(frozen=True)
class Along:
    """A mean, a sum or a softmax along an axis of `count` entries, with `outer` before it and `inner` behind it."""

    function: str
    source: View
    output: View
    outer: int
    count: int
    inner: int


Operation: TypeAlias = Affine | Convolution | Linear | Elementwise | Pool | Combine | Move | Along


@dataclass(frozen=True)
class Program:
    """What is read, what is given, and the operations between them in order."""

    input: View
    output: View
    operations: list[Operation]

    @property
    def copies(self) -> bool:
        """Whether what is given is what was read."""
        return self.output.array == self.input.array


def sources(operation: Operation) -> tuple[View, ...]:
    """What an operation reads."""
    if isinstance(operation, Move):
        return tuple(part.source for part in operation.parts)
    if isinstance(operation, Combine):
        return tuple(side for side in (operation.left, operation.right) if isinstance(side, View))
    return (operation.source,)


def alike(mine: object, its: object) -> bool:
    """Whether two programs, or parts of such, are the same to the bit."""
    if isinstance(mine, np.ndarray):
        return isinstance(its, np.ndarray) and mine.shape == its.shape and mine.tobytes() == its.tobytes()
    if isinstance(mine, list | tuple):
        return (
            isinstance(its, list | tuple)
            and len(mine) == len(its)
            and all(alike(a, b) for a, b in zip(mine, its, strict=True))
        )
    if isinstance(mine, Program | Constant | Operation | Part):
        return type(mine) is type(its) and all(
            alike(getattr(mine, one.name), getattr(its, one.name)) for one in fields(mine)
        )
    return mine == its
