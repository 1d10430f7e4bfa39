"""A signal of the dense model, held in the blocked layout: what the kernels work on between two borders."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from disbud.kernels import Blocked, Layout, Pattern, pack, unpack
from disbud.kernels.plan import input_halo


@dataclass(frozen=True, eq=False)
class Signal:
    """A blocked activation, and the shape that one image of it has in the dense model.

    Flattening changes the shape and leaves the activation as it is: a linear layer reads features wherever they lie.
    """

    blocked: Blocked
    shape: tuple[int, ...]

    @staticmethod
    def of(x: Tensor, *, halo: int = 0, stored: torch.dtype) -> Signal:
        """Features (N, F), sequences (N, C, L) or images (N, C, H, W), packed and stored in that type."""
        # Autocast leaves bfloat16 where torch ran; the kernels take float32.
        x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        images = x.unsqueeze(2) if x.dim() == 3 else x
        return Signal(pack(images, halo=halo, stored=stored), tuple(x.shape[1:]))

    def with_(self, blocked: Blocked) -> Signal:
        """Another activation of the same shape."""
        return Signal(blocked, self.shape)

    @property
    def stored(self) -> torch.dtype:
        """The type its numbers are stored in."""
        return self.blocked.data.dtype

    def plain(self) -> Tensor:
        """The ordinary tensor."""
        return unpack(self.blocked).reshape(self.size)

    @property
    def size(self) -> torch.Size:
        """The shape of the ordinary tensor."""
        return torch.Size([self.blocked.layout.images, *self.shape])

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width of the activation."""
        return self.blocked.layout.height, self.blocked.layout.width

    @property
    def is_flattened(self) -> bool:
        """Whether the activation still has pixels that the shape does not tell apart from channels."""
        return self.shape[0] != self.blocked.layout.channels

    def flattened(self) -> Signal:
        """The same activation as features."""
        return Signal(self.blocked, (math.prod(self.shape),))


@dataclass(frozen=True, eq=False)
class Branch:
    """What a layer makes of its input, and the input as later readers are to have it."""

    made: Signal
    input: Signal


class Wish:
    """The zero columns between rows that the layers reading a signal next want: what saves them a copy."""

    def __init__(self, patterns: Iterable[Pattern] = ()) -> None:
        self.patterns = tuple(dict.fromkeys(patterns))

    def halo(self, pixels: tuple[int, int]) -> int:
        """How many, for an activation of that height and width."""
        return max((input_halo(pattern, pixels) for pattern in self.patterns), default=0)


def packable(x: object) -> bool:
    """Whether a value is a tensor that the blocked layout can hold."""
    return isinstance(x, Tensor) and x.dim() in (2, 3, 4) and x.numel() > 0 and x.is_floating_point()


def plain(value: object) -> object:
    """The ordinary tensor of a signal; anything else as it is."""
    return value.plain() if isinstance(value, Signal) else value


def alike(x: Signal, y: Signal) -> bool:
    """Whether two signals have one shape and one layout, but for the halo."""
    return x.shape == y.shape and x.blocked.layout.with_(halo=0) == y.blocked.layout.with_(halo=0)


def as_signal(value: object, size: tuple[int, ...], layout: Layout, *, stored: torch.dtype) -> Signal | None:
    """The value as a signal of that size and, but for the halo, that layout; None where it is no such thing."""
    if isinstance(value, Tensor) and packable(value) and tuple(value.shape) == size:
        value = Signal.of(value, stored=stored)
    if not isinstance(value, Signal) or tuple(value.size) != size:
        return None
    return value if value.blocked.layout.with_(halo=0) == layout.with_(halo=0) else None
