"""Channels as numbers: which units of a network can go only together, and which have to stay, and why.

A unit is what a layer makes: a channel of a convolution, a feature of a linear layer. Each unit gets a number when its
layer is met. Numbers are united where units are joined entry by entry (a residual addition); a set of united numbers is
a channel. The number 0 stands for all that stays and changes with the input, such as the input itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]

JOINED = "is joined with the model's input, or with something that stays whole"


class Coupling:
    """Numbers of units, united into channels; which are held, with the reason, and which change with the input."""

    def __init__(self) -> None:
        self._parent = np.zeros(1, np.int64)
        self._held: dict[int, str] = {0: JOINED}
        self._fed: set[int] = {0}

    def new(self, count: int) -> Numbers:
        """Numbers for units that have not been met before."""
        first = len(self._parent)
        numbers = np.arange(first, first + count)
        self._parent = np.concatenate([self._parent, numbers])
        return numbers

    def roots(self, numbers: Numbers) -> Numbers:
        """The number that stands for the channel of each unit."""
        found = self._parent[numbers]
        while not np.array_equal(found, above := self._parent[found]):
            found = above
        return found

    def unite(self, first: Numbers, second: Numbers) -> None:
        """Have these units go only together, entry by entry; what is united with 0 stays."""
        pairs = np.stack(np.broadcast_arrays(first, second)).reshape(2, -1)
        pairs = np.unique(pairs[:, pairs[0] != pairs[1]], axis=1)
        with_zero = pairs[:, (pairs == 0).any(0)].ravel()
        self.hold(with_zero, JOINED)
        self.feed(with_zero)
        for a, b in pairs[:, (pairs != 0).all(0)].T:
            low, high = sorted(int(root) for root in self.roots(np.array([a, b])))
            self._parent[high] = low

    def hold(self, numbers: Numbers, reason: str) -> None:
        """Have these units stay; the first reason given is the one that is told."""
        for number in np.unique(numbers):
            self._held.setdefault(int(number), reason)

    def feed(self, numbers: Numbers) -> None:
        """Note that these units change with the input other than by way of a layer that makes them."""
        self._fed.update(int(number) for number in np.unique(numbers))

    def settled(self) -> Channels:
        """What was found, once all is met."""
        root = self.roots(np.arange(len(self._parent)))
        held: dict[int, str] = {}
        for number, reason in self._held.items():
            held.setdefault(int(root[number]), reason)
        fed = np.zeros(len(root), np.bool_)
        fed[root[list(self._fed)]] = True
        return Channels(root, held, fed)


@dataclass(frozen=True)
class Channels:
    """The channel of each number, called by the least number in it; why some are held, and which change with the input
    whatever feeds them.
    """

    of: Numbers
    held: dict[int, str]
    fed: Flags

    def flags(self) -> Flags:
        """One flag a channel, all down."""
        return np.zeros(len(self.of), np.bool_)

    def holding(self) -> Flags:
        """The channels that are held."""
        flags = self.flags()
        flags[list(self.held)] = True
        return flags
