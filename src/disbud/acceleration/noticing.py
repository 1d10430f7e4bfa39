"""What a module's code does besides computing: it writes to what modules hold, and draws random numbers."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor, nn

_OPENED = (dict, list, tuple, set, deque)
_VALUES = (int, float, complex, str, bytes)


@dataclass(frozen=True)
class Contents:
    """All that modules hold, with their containers opened; tensors by the number of times they were written to."""

    values: tuple[object, ...]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Contents)
            and len(self.values) == len(other.values)
            and all(map(_is_same, self.values, other.values))
        )

    __hash__ = None  # type: ignore[assignment]


def contents(module: nn.Module) -> Contents:
    """What the module and those in it hold now."""
    found = list(_held(module))
    written = [value._version for value in found if isinstance(value, Tensor) and not value.is_inference()]
    return Contents((*found, *written))


def _held(module: nn.Module) -> Iterator[object]:
    """Every value that is held, each container once, as its type, and its keys and entries after it."""
    waiting: list[object] = [vars(inner) for inner in module.modules()]
    seen: dict[int, object] = {}
    while waiting:
        value = waiting.pop()
        if not isinstance(value, _OPENED):
            yield value
        elif id(value) not in seen:
            seen[id(value)] = value
            yield type(value)
            yield len(value)
            waiting += [*value, *value.values()] if isinstance(value, dict) else value


def _is_same(one: object, other: object) -> bool:
    """Whether two values are one thing, or plain values that are equal; what a model holds need not take `==`."""
    return one is other or (type(one) is type(other) and isinstance(one, _VALUES) and one == other)


@dataclass(frozen=True)
class _Stream:
    """A generator of random numbers, by the reading and the setting of its state."""

    read: Callable[[], object]
    write: Callable[..., object]


class Streams:
    """The random streams that a module's code may draw from: the global ones, and those that it holds itself."""

    def __init__(self, module: nn.Module) -> None:
        held = [stream for stream in map(_stream, _held(module)) if stream is not None]
        self._streams = [*_GLOBAL, *held]
        self._before = [stream.read() for stream in self._streams]

    def drawn(self) -> bool:
        """Whether any has been drawn from since; all are put back."""
        drawn = [_plain(stream.read()) for stream in self._streams] != [*map(_plain, self._before)]
        for stream, state in zip(self._streams, self._before, strict=True):
            stream.write(state)
        return drawn


_GLOBAL = (
    _Stream(random.getstate, random.setstate),
    _Stream(numpy.random.get_state, numpy.random.set_state),
    _Stream(torch.random.get_rng_state, torch.random.set_rng_state),
)


def _stream(value: object) -> _Stream | None:
    if isinstance(value, random.Random):
        return _Stream(value.getstate, value.setstate)
    if isinstance(value, numpy.random.RandomState | torch.Generator):
        return _Stream(value.get_state, value.set_state)
    if isinstance(value, numpy.random.Generator):
        bits = value.bit_generator
        return _Stream(lambda: bits.state, lambda state: setattr(bits, "state", state))
    return None


def _plain(state: object) -> object:
    """A generator's state as plain lists, which can be compared."""
    if isinstance(state, numpy.ndarray | Tensor):
        return state.tolist()
    if isinstance(state, dict):
        return [*map(_plain, state), *map(_plain, state.values())]
    return [*map(_plain, state)] if isinstance(state, Iterable) and not isinstance(state, str) else state
