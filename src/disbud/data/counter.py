"""A counter-based stream of random whole numbers: one stream an image, the same on every machine.

Word t of a stream is SplitMix64 (Steele, Lea and Flood 2014, with Stafford's mixing constants) of its key and
t: no state is carried from one image to the next, so an image does not depend on how many others are drawn.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Words: TypeAlias = NDArray[np.uint64]
Whole: TypeAlias = NDArray[np.int64]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
_LAST = np.uint64(31)
_HALF = np.uint64(32)


def mix(words: Words) -> Words:
    """Scramble 64-bit words, one to one: SplitMix64's output function."""
    mixed = words.copy()
    for shift, factor in _ROUNDS:
        mixed ^= mixed >> shift
        mixed *= factor
    mixed ^= mixed >> _LAST
    return mixed


class Stream:
    """The streams of several images, read side by side: every draw gives one row an image."""

    def __init__(self, key: int, images: Whole) -> None:
        self._keys = mix(mix(images.astype(np.uint64)) ^ np.array([key], np.uint64))
        self._position = 1

    def words(self, count: int) -> Words:
        """The next `count` 64-bit words of each stream: [images, count]."""
        steps = np.arange(self._position, self._position + count, dtype=np.uint64) * _GAMMA
        self._position += count
        return mix(self._keys[:, None] + steps)

    def between(self, low: int | Whole, high: int | Whole) -> Whole:
        """The next word of each stream as a whole number from `low` to `high`, both among them: [images]."""
        return _scaled(self.words(1)[:, 0], low, high)

    def several(self, count: int, low: int, high: int) -> Whole:
        """The next words of each stream as whole numbers from `low` to `high`: [images, count]."""
        return _scaled(self.words(count), low, high)

    def octets(self, count: int) -> NDArray[np.uint8]:
        """The next bytes of each stream: [images, count]; little end first, whatever the machine's order."""
        words = self.words(-(-count // 8)).astype("<u8", copy=False)
        return words.view(np.uint8)[:, :count]


def _scaled(words: Words, low: int | Whole, high: int | Whole) -> Whole:
    """The upper half of each word, spread evenly over the numbers from `low` to `high`."""
    span = np.asarray(high - low + 1, dtype=np.uint64)
    return np.asarray(low + (((words >> _HALF) * span) >> _HALF).astype(np.int64), dtype=np.int64)
