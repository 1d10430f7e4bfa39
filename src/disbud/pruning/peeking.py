"""The first of some batches, looked at before any is used: what follows can still be read, and no more is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from disbud.errors import DisbudError
from disbud.methods.evidence import Evidence
from disbud.seeds import global_streams


class Reread(Iterable[object]):
    """What an iterator gives, as often as it is asked for; only as much is kept as was read.

    >>> from itertools import count
    >>> from disbud.pruning.peeking import Reread
    >>> numbers = Reread(count())
    >>> [next(iter(numbers)) for _ in range(3)]
    [0, 0, 0]
    """

    def __init__(self, source: Iterator[object]) -> None:
        self._source = source
        self._read: list[object] = []

    def __iter__(self) -> Iterator[object]:
        at = 0
        while True:
            if at == len(self._read):
                try:
                    self._read.append(next(self._source))
                except StopIteration:
                    return
            yield self._read[at]
            at += 1


def peeked(batches: Iterable[object], seed: int) -> tuple[object, Iterable[object]]:
    """The first batch, and all batches, which can be gone over again and again.

    >>> from disbud.pruning.peeking import peeked
    >>> first, batches = peeked(iter(["a", "b"]), seed=0)
    >>> first, list(batches), list(batches)
    ('a', ['a', 'b'], ['a', 'b'])
    """
    Evidence(batches, None, 1)  # raises for what is no iterable of batches
    again = Reread(batches) if isinstance(batches, Iterator) else batches
    with global_streams(seed, "first batch"):  # a loader draws from them
        first = next(iter(again), None)
    if first is None:
        raise DisbudError("batches is empty: give at least one, as in batches=[(x, y)]")
    return first, again
