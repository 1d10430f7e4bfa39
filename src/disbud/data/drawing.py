"""Draws the images of `shapes`: one outline on textured noise among clutter, in whole numbers throughout.

No floating point enters a pixel: it would round differently on another machine or with vector instructions
off.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from disbud.data.counter import Stream, Whole
from disbud.data.outlines import COSINE, OUTLINES, SINE, SINE_BITS, TURN, UNIT, Field, Outline

Layer: TypeAlias = NDArray[np.int16]

PIXEL = 256  # positions and radii are in 1 / PIXEL of a pixel
_COVER = 64  # a pixel that lies wholly inside an outline
_CLUTTER = 4  # strokes that may lie behind a shape
_SCALES = ((2, 1), (4, 2), (8, 2))  # of the noise: cells along a side, and the power of two it is divided by
_CHUNK = 1 << 14  # pixels drawn at once: what a second-level cache holds


@dataclass(frozen=True)
class Canvas:
    """What all images of a data set share. Difficulty is in hundredths, from 0 to 100."""

    size: int
    channels: int
    difficulty: int

    def ramp(self, easy: int, hard: int) -> int:
        """A whole number that goes from `easy` to `hard` with the difficulty."""
        return easy + (hard - easy) * self.difficulty // 100


def draw(key: int, images: Whole, kinds: Whole, canvas: Canvas) -> NDArray[np.uint8]:
    """Images of the given numbers and kinds, of the stream `key`: [n, channels, size, size]."""
    pixels = np.empty((len(images), canvas.channels, canvas.size, canvas.size), dtype=np.uint8)
    step = max(1, _CHUNK // canvas.size**2)
    for kind, outline in enumerate(OUTLINES.values()):
        members = np.flatnonzero(kinds == kind)
        for start in range(0, len(members), step):
            chunk = members[start : start + step]
            pixels[chunk] = _paint(Stream(key, images[chunk]), outline, canvas)
    return pixels


def _paint(stream: Stream, outline: Outline, canvas: Canvas) -> NDArray[np.uint8]:
    ground, texture = _colour(stream, canvas), _texture(stream, canvas)
    picture = _tinted(ground, texture, stream, canvas)
    for _ in range(_CLUTTER):
        shown = stream.between(0, 99) < canvas.ramp(0, 70)
        _lay(picture, _contrasting(ground, stream, canvas), _stroke(stream, canvas) * shown[:, None, None])
    figure = _tinted(_contrasting(ground, stream, canvas), texture.transpose(0, 2, 1), stream, canvas)
    _lay(picture, figure, _figure(stream, outline, canvas))
    shown = stream.between(0, 99) < canvas.ramp(0, 50)
    _lay(picture, _contrasting(ground, stream, canvas), _stroke(stream, canvas) * shown[:, None, None])
    strength = canvas.ramp(4, 40)
    grain = stream.octets(picture[0].size).reshape(picture.shape).astype(np.int16)
    picture += ((grain - 128) * strength) >> 7
    return np.clip(picture, 0, 255).astype(np.uint8)


def _colour(stream: Stream, canvas: Canvas) -> Layer:
    """A ground colour an image, far enough from black and white for a contrast on either side."""
    return _columns(stream.several(canvas.channels, 70, 185))


def _contrasting(ground: Layer, stream: Stream, canvas: Canvas) -> Layer:
    """A colour that differs from the ground's by a drawn contrast in one channel, by less in the others."""
    contrast = stream.between(canvas.ramp(70, 36), canvas.ramp(120, 90)) * (2 * stream.between(0, 1) - 1)
    strongest = stream.between(0, canvas.channels - 1)
    parts = stream.several(canvas.channels, -32, 64)
    parts[np.arange(len(parts)), strongest] = 64
    colour: Layer = np.clip(ground + _columns(contrast[:, None] * parts >> 6), 0, 255)
    return colour


def _columns(values: Whole) -> Layer:
    return values.astype(np.int16)[:, :, None, None]


@lru_cache(maxsize=64)
def _lattice(size: int, cells: int) -> tuple[NDArray[np.intp], Layer]:
    """For each pixel of a row: the lattice point before it, and how far it is to the next, in 64ths."""
    at = (2 * np.arange(size, dtype=np.int64) + 1) * cells * 32 // size
    return (at >> 6).astype(np.intp), (at & 63).astype(np.int16)


def _texture(stream: Stream, canvas: Canvas) -> Layer:
    """Value noise of several scales, the coarsest the strongest: [n, size, size], from -128 to 127."""
    total = np.zeros((1, canvas.size, canvas.size), dtype=np.int16)
    for cells, shift in _SCALES:
        if cells > canvas.size // 2:
            break
        before, part = _lattice(canvas.size, cells)
        points = stream.octets((cells + 1) ** 2).reshape(-1, cells + 1, cells + 1).astype(np.int16) - 128
        rows = points[:, before] + ((points[:, before + 1] - points[:, before]) * part[:, None] >> 6)
        noise = rows[:, :, before] + ((rows[:, :, before + 1] - rows[:, :, before]) * part >> 6)
        total = total + (noise >> shift)
    return total


def _tinted(colour: Layer, texture: Layer, stream: Stream, canvas: Canvas) -> Layer:
    """The colour, varied along the texture by a drawn strength and sign in each channel."""
    most = canvas.ramp(10, 80)
    tint = _columns(stream.several(canvas.channels, -most, most))
    return np.clip(colour + (texture[:, None] * tint >> 7), 0, 255)


def _lay(picture: Layer, colour: Layer, cover: Layer) -> None:
    """Lay a colour over the picture where `cover` is above zero."""
    picture += ((colour - picture) * cover[:, None]) >> 6


def _frame_of(
    stream: Stream, canvas: Canvas, *, reach: Whole, radius: Whole, turn: Whole, stretch: Whole
) -> tuple[Field, Field]:
    """Each pixel's place in a turned, stretched frame that lies up to `reach` from the image's middle."""
    middle = canvas.size * PIXEL // 2
    along = (2 * np.arange(canvas.size, dtype=np.int64) + 1) * (PIXEL // 2) - middle
    x = (along - stream.between(-reach, reach)[:, None])[:, None, :]
    y = (along - stream.between(-reach, reach)[:, None])[:, :, None]
    zoom_u, zoom_v = UNIT * (256 + stretch) // 2, UNIT * (256 - stretch) // 2  # times 2^7
    cosine, sine = COSINE[turn], SINE[turn]
    # The factors are UNIT / radius in units of 2^-12. A pixel lies at most 20 radii away, so a product stays
    # below 20 * 2^22 * 1.2, whatever the size of the image, and 32 bits hold the sum of two.
    fields = []
    for across, down, zoom in ((cosine, sine, zoom_u), (-sine, cosine, zoom_v)):
        a, b = ((part * zoom // radius) >> (SINE_BITS + 7 - 12) for part in (across, down))
        fields.append(
            ((x * a[:, None, None]).astype(np.int32) + (y * b[:, None, None]).astype(np.int32)) >> 12
        )
    return fields[0], fields[1]


def _cover(distance: Field, radius: Whole) -> Layer:
    """How much of each pixel lies inside, from 0 to _COVER, the edge one pixel wide."""
    across = (distance * radius.astype(np.int32)[:, None, None]) >> 12
    cover: Layer = np.clip(_COVER // 2 - across, 0, _COVER).astype(np.int16)
    return cover


def _figure(stream: Stream, outline: Outline, canvas: Canvas) -> Layer:
    whole = canvas.size * PIXEL
    radius = stream.between(whole * canvas.ramp(36, 25) // 100, whole * canvas.ramp(42, 40) // 100)
    tilt, squeeze = canvas.ramp(TURN // 16, TURN // 2), canvas.ramp(4, 32)
    u, v = _frame_of(
        stream,
        canvas,
        reach=whole // 2 - radius,
        radius=radius,
        turn=stream.between(-tilt, tilt - 1) % TURN,
        stretch=stream.between(-squeeze, squeeze),
    )
    return _cover(outline(u, v), radius)


def _stroke(stream: Stream, canvas: Canvas) -> Layer:
    """A short straight stroke or a dot, anywhere in the image."""
    whole = canvas.size * PIXEL
    length = stream.between(whole * 5 // 100, whole * 25 // 100)
    reach, turn = np.full_like(length, whole // 2), stream.between(0, TURN - 1)
    u, v = _frame_of(stream, canvas, reach=reach, radius=length, turn=turn, stretch=np.zeros_like(length))
    thickness = stream.between(whole * 3 // 100, whole * 7 // 100) * UNIT // length
    distance = np.maximum(np.abs(u) - UNIT, np.abs(v) - thickness.astype(np.int32)[:, None, None])
    return _cover(distance.astype(np.int32), length)
