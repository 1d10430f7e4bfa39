"""The outlines of the shapes as signed distances in whole numbers: below zero inside, UNIT at the radius.

Distances are exact near straight edges; near arcs they are (|p|^2 - r^2) / 2r, the distance's first-order
term, which needs no square root. The constructions are those of Quilez, "2D distance functions", put in whole
numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Field: TypeAlias = NDArray[np.int32]
Outline: TypeAlias = Callable[[Field, Field], Field]

UNIT = 1024
TURN = 1024  # steps in a full turn
SINE_BITS = 14

_PI = 314159265358979323846  # times 10^-20
_ONE = 1 << 62


def _sine(step: int) -> int:
    """The sine of step / TURN of a turn, times 2^SINE_BITS, by its Taylor series in whole numbers."""
    quarter, rest = divmod(step % TURN, TURN // 4)
    if quarter % 2:
        rest = TURN // 4 - rest
    angle = 2 * _PI * rest * _ONE // (TURN * 10**20)
    term = total = angle
    for order in range(2, 30, 2):
        term = -term * angle // _ONE * angle // _ONE // (order * (order + 1))
        total += term
    value = (total + (_ONE >> SINE_BITS + 1)) >> (62 - SINE_BITS)
    return value if quarter < 2 else -value


SINE = np.array([_sine(step) for step in range(TURN)], dtype=np.int64)
COSINE = np.roll(SINE, -(TURN // 4))


def _both(one: Field, other: Field) -> Field:
    """What lies inside one outline and the other."""
    result: Field = np.maximum(one, other)
    return result


def _either(one: Field, other: Field) -> Field:
    """What lies inside one outline or the other."""
    result: Field = np.minimum(one, other)
    return result


def _disc(u: Field, v: Field, radius: int = UNIT) -> Field:
    distance: Field = (u * u + v * v - radius * radius) // (2 * radius)
    return distance


def _box(u: Field, v: Field, half_width: int, half_height: int) -> Field:
    return _both(np.abs(u) - half_width, np.abs(v) - half_height)


def _band(distance: Field, half_width: int) -> Field:
    """What lies within half a width of an outline, on either side."""
    band: Field = np.abs(distance) - half_width
    return band


def _edges(u: Field, v: Field, count: int, inradius: int) -> list[Field]:
    """Signed distances to the `count` lines at distance `inradius`, spread evenly around the centre."""
    turns = [TURN * k // count for k in range(count)]
    # 10 of the 14 bits: |u| stays below 2^14, so the products fit in 32 bits
    normals = [(int(SINE[t]) >> 4, int(COSINE[t]) >> 4) for t in turns]
    return [((u * x + v * y) >> 10) - inradius for x, y in normals]


def _ring(u: Field, v: Field) -> Field:
    return _band(_disc(u, v, 760), 230)


def _square(u: Field, v: Field) -> Field:
    return _box(u, v, 800, 800)


def _triangle(u: Field, v: Field) -> Field:
    first, second, third = _edges(u, v, 3, 560)
    return _both(_both(first, second), third)


def _cross(u: Field, v: Field) -> Field:
    return _either(_box(u, v, 1000, 270), _box(u, v, 270, 1000))


def _star(u: Field, v: Field) -> Field:
    """The second largest of five distances: a pentagram holds what is inside four of its five lines."""
    one, other, *rest = _edges(u, v, 5, 400)
    largest, second = _both(one, other), _either(one, other)
    for edge in rest:
        second = _both(second, _either(largest, edge))
        largest = _both(largest, edge)
    return second


def _crescent(u: Field, v: Field) -> Field:
    return _both(_disc(u, v), -_disc(u - 520, v, 800))


def _bar(u: Field, v: Field) -> Field:
    return _box(u, v, 1080, 330)


def _heart(u: Field, v: Field) -> Field:
    """A square on its corner, with half a disc on each of its upper sides."""
    across, down = np.abs(u), v - 80
    point = ((across + np.abs(down)) * 181 >> 8) - 560  # 181 / 256 is half the root of two
    return _either(_disc(across - 396, down + 396, 560), point)


def _corner(u: Field, v: Field) -> Field:
    return _either(_box(u + 500, v, 300, 900), _box(u, v - 600, 800, 300))


def _frame(u: Field, v: Field) -> Field:
    return _band(_box(u, v, 680, 680), 190)


def _half(u: Field, v: Field) -> Field:
    return _both(_disc(u, v + 400, 1080), -v - 400)


def _pie(u: Field, v: Field) -> Field:
    wedge = ((u + 100 - np.abs(v)) * 181) >> 8
    return _both(_disc(u, v), wedge)


def _dumbbell(u: Field, v: Field) -> Field:
    return _either(_disc(np.abs(u) - 640, v, 430), _box(u, v, 640, 130))


def _tee(u: Field, v: Field) -> Field:
    return _either(_box(u, v + 620, 950, 280), _box(u, v - 150, 280, 850))


def _chevron(u: Field, v: Field) -> Field:
    across = np.abs(u)
    return _both(_band(((across + v) * 181 >> 8) - 180, 230), across - 820)


OUTLINES: Mapping[str, Outline] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "ring": _ring,
    "cross": _cross,
    "star": _star,
    "crescent": _crescent,
    "bar": _bar,
    "heart": _heart,
    "corner": _corner,
    "frame": _frame,
    "half": _half,
    "pie": _pie,
    "dumbbell": _dumbbell,
    "tee": _tee,
    "chevron": _chevron,
}
