"""Pooling as paths see it: every entry of a window leads on, so each pool, the largest and the mean too, is a sum."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from disbud.graph.flow.arithmetic import inherit
from disbud.graph.flow.signals import Function, Signals

Sizes = int | Sequence[int]


class Windows(NamedTuple):
    """Where the windows of a pool lie, an entry for each axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool

    def sums(self, x: Tensor) -> Tensor:
        """The sum over each window, in the layout of torch's pooling; padding adds nothing."""
        if max(self.dilation) > 1:
            return self._dilated(x)
        if len(self.kernel) == 1:
            kernel, stride, padding = (1, *self.kernel), (1, *self.stride), (0, *self.padding)
            flat = functional.avg_pool2d(x.unsqueeze(-2), kernel, stride, padding, self.ceil_mode, True, 1)
            return flat.squeeze(-2)
        average = functional.avg_pool2d if len(self.kernel) == 2 else functional.avg_pool3d
        return average(x, self.kernel, self.stride, self.padding, self.ceil_mode, True, 1)

    def _dilated(self, x: Tensor) -> Tensor:
        """As a convolution with ones, each channel by itself."""
        spatial = len(self.kernel)
        layout = [self._along(axis, size) for axis, size in enumerate(x.shape[-spatial:])]
        around = [side for _, before, after in reversed(layout) for side in (before, after)]
        images = functional.pad(x.reshape(-1, 1, *x.shape[-spatial:]), around)
        convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[spatial - 1]
        ones = torch.ones(1, 1, *self.kernel, dtype=x.dtype, device=x.device)
        found = convolve(images, ones, stride=self.stride, dilation=self.dilation)
        for axis, (places, _, _) in enumerate(layout):
            found = found.narrow(axis - spatial, 0, places)
        return found.reshape(*x.shape[:-spatial], *found.shape[-spatial:])

    def _along(self, axis: int, size: int) -> tuple[int, int, int]:
        """How many windows an axis of that size has, and the padding before and after it."""
        stride, padding = self.stride[axis], self.padding[axis]
        reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1
        room = size + 2 * padding - reach
        places = (math.ceil(room / stride) if self.ceil_mode else room // stride) + 1
        if (places - 1) * stride >= size + padding:  # a window begins inside the image or left of it
            places -= 1
        return places, padding, max(padding, (places - 1) * stride + reach - size - padding)


def pool(spatial: int) -> Callable[..., object]:
    """The rule for max and average pooling over so many axes."""

    def rule(
        signals: Signals, func: Function, input: Tensor, kernel_size: Sizes, stride: Sizes | None = None,
        padding: Sizes = 0, *more: object, dilation: Sizes = 1, ceil_mode: object = False,
        return_indices: object = False, **_: object,
    ) -> object:  # fmt: skip
        if "max" in func.__name__:
            given = (dilation, ceil_mode, return_indices)
            dilation, ceil_mode, return_indices = (*more, *given[len(more) :])  # type: ignore[assignment]
        else:
            ceil_mode = more[0] if more else ceil_mode
        kernel, step, edges, spread = (
            _each_axis(size, spatial) for size in (kernel_size, stride or kernel_size, padding, dilation)
        )
        windows = Windows(kernel, step, edges, spread, bool(ceil_mode))
        output = inherit(signals, windows.sums, input)
        if not return_indices and not func.__name__.endswith("indices"):
            return output
        largest = getattr(functional, f"max_pool{spatial}d")
        return output, largest(input, *windows, return_indices=True)[1]

    return rule


def lp_pool(
    signals: Signals, func: Function, input: Tensor, norm_type: float, kernel_size: Sizes,
    stride: Sizes | None = None, **kwargs: object,
) -> object:  # fmt: skip
    """Power-average pooling: a sum as well."""
    return pool(int(func.__name__[-2]))(signals, functional.avg_pool2d, input, kernel_size, stride, **kwargs)


def adaptive(spatial: int) -> Callable[..., object]:
    """The rule for adaptive pooling, whose windows overlap where sizes do not divide."""
    mean = getattr(functional, f"adaptive_avg_pool{spatial}d")
    largest = getattr(functional, f"adaptive_max_pool{spatial}d")

    def rule(
        signals: Signals, func: Function, input: Tensor, output_size: object, *more: object, **kwargs: object
    ) -> object:
        def sums(x: Tensor) -> Tensor:
            output: Tensor = mean(x, output_size)
            for axis in range(-spatial, 0):
                size, places = x.shape[axis], output.shape[axis]
                widths = [-(-(i + 1) * size // places) - i * size // places for i in range(places)]
                shape = (-1, *[1] * (-1 - axis))
                output = output * torch.tensor(widths, dtype=x.dtype, device=x.device).view(shape)
            return output

        output = inherit(signals, sums, input)
        if any(more) or any(kwargs.values()) or func.__name__.endswith("indices"):
            return output, largest(input, output_size, return_indices=True)[1]
        return output

    return rule


def summed(signals: Signals, func: Function, input: Tensor, *args: object, **kwargs: object) -> object:
    """mean, amax, amin and logsumexp over axes: the sum over them."""
    kwargs = {key: value for key, value in kwargs.items() if key in ("dim", "axis", "keepdim")}
    if (args and args[0] == ()) or kwargs.get("dim") == ():  # amax's way to say all axes
        return inherit(signals, torch.sum, input)
    return inherit(signals, torch.sum, input, *args[:2], **kwargs)


def _each_axis(given: Sizes, spatial: int) -> tuple[int, ...]:
    sizes = (given,) if isinstance(given, int) else tuple(given)
    return sizes * spatial if len(sizes) == 1 else sizes
