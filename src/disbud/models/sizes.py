"""Checked sizes: numbers of channels under a width multiplier, of classes, and shapes of inputs."""

from __future__ import annotations

import math

from disbud.errors import DisbudError
from disbud.models.catalogue import CATALOGUE, ModelEntry


def scaled(base: int, width: float) -> int:
    """The number of channels that a layer of `base` channels has under the width multiplier."""
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width < math.inf:
        raise DisbudError(f"width multiplies the channels: a number above 0, as in width=0.5, not {width!r}")
    return max(1, round(base * width))


def whole(what: str, value: object, *, least: int = 1) -> int:
    """The value if it is an integer of at least `least`, else an error that names it."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise DisbudError(f"{what} is an integer of at least {least}, not {value!r}")
    return value


def checked_shape(entry: ModelEntry, shape: object) -> tuple[int, ...]:
    """The input shape of one example, if the model can take it."""
    sizes = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
    if not sizes:
        raise DisbudError(f"{entry.name}: input_shape is that of one example, such as (3, 32, 32), not ()")
    sizes = tuple(whole(f"each size of input_shape {shape!r}", size) for size in sizes)
    least = entry.smallest
    if least is None:
        return sizes
    if len(sizes) != 3:
        raise DisbudError(
            f"{entry.name} takes images, (channels, height, width), not {sizes}; mlp takes any input_shape"
        )
    if min(sizes[1:]) < least:
        able = ", ".join(_others(min(sizes[1:])))
        raise DisbudError(
            f"{entry.name} takes images of at least {least}x{least} pixels, not {sizes[1]}x{sizes[2]}; "
            f"at that size these work: {able}"
        )
    return sizes


def _others(side: int) -> list[str]:
    """Some models that take images of that side."""
    candidates = ("conv-6", "conv-4", "conv-2", "resnet20", "resnet18", "mlp")
    return [name for name in candidates if (CATALOGUE[name].smallest or 1) <= side]
