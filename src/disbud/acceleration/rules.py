"""What torch's functions do to a signal without leaving the blocked layout, function by function.

A rule takes the function's own arguments, some of them signals. It returns NotImplemented where it has no way of its
own; the function then runs on ordinary tensors. None is a closure: an accelerated network can be pickled.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from disbud.acceleration.rectified import rectified
from disbud.acceleration.signals import Signal, Wish, packable
from disbud.kernels import (
    Blocked,
    Windows,
    adaptive_windows,
    add,
    average_pool,
    concatenate,
    elementwise,
    max_pool,
    sliding_windows,
)

Rule: TypeAlias = Callable[..., object]
Pool: TypeAlias = Callable[..., Blocked]
Number = int | float


def _each(
    function: Callable[..., Tensor],
    wish: Wish,
    input: object,
    *args: object,
    inplace: object = None,
    **kwargs: object,
) -> object:
    """A function of every number by itself."""
    # Of positions, only that of `inplace` takes a bool; here nothing is done in place.
    args = tuple(value for value in args if not isinstance(value, bool))
    given = [*args, *kwargs.values()]
    if not isinstance(input, Signal) or any(isinstance(value, Signal | Tensor) for value in given):
        return NotImplemented
    return input.with_(elementwise(input.blocked, lambda data: function(data, *args, **kwargs)))


def _relu(wish: Wish, input: object, inplace: object = None) -> object:
    return rectified(input) if isinstance(input, Signal) else NotImplemented


def _same(wish: Wish, input: object, *args: object, **kwargs: object) -> object:
    return input


def _dropout(
    wish: Wish, input: object, p: float = 0.5, training: object = True, inplace: object = False
) -> object:
    # Dropout that drops is left to torch, so that the random stream is drawn as the dense model draws it.
    return input if not training or p == 0 else NotImplemented


def _add(wish: Wish, input: object, other: object, *, alpha: Number = 1) -> object:
    if alpha != 1:
        return NotImplemented
    if isinstance(other, Number) and isinstance(input, Signal):
        return input.with_(elementwise(input.blocked, lambda data: data + other))
    if isinstance(input, Number) and isinstance(other, Signal):
        return _add(wish, other, input)
    pair = _alike([input, other])
    if pair is None or len({(signal.shape, signal.blocked.layout.channels) for signal in pair}) != 1:
        return NotImplemented
    return pair[0].with_(add(pair[0].blocked, pair[1].blocked))


def _scale(function: Callable[..., Tensor], wish: Wish, input: object, other: object) -> object:
    """A product or quotient with a plain number."""
    if isinstance(input, Number) and isinstance(other, Signal) and function is torch.mul:
        input, other = other, input
    if not isinstance(input, Signal) or not isinstance(other, Number):
        return NotImplemented
    return input.with_(elementwise(input.blocked, lambda data: function(data, other)))


def _concatenate(wish: Wish, tensors: Sequence[object], dim: int = 0) -> object:
    parts = _alike(tensors)
    if parts is None or not parts or dim % (len(parts[0].shape) + 1) != 1:
        return NotImplemented
    if any(part.is_flattened or part.shape[1:] != parts[0].shape[1:] for part in parts):
        return NotImplemented
    joined = concatenate([part.blocked for part in parts])
    return Signal(joined, (joined.layout.channels, *parts[0].shape[1:]))


def _alike(values: Sequence[object]) -> list[Signal] | None:
    """Signals and packable tensors as signals of one batch and one number of axes; None where they are not."""
    stored = next((value.stored for value in values if isinstance(value, Signal)), torch.float32)
    signals = [
        value
        if isinstance(value, Signal)
        else Signal.of(value, stored=stored)
        if isinstance(value, Tensor)
        else None
        for value in values
        if isinstance(value, Signal) or packable(value)
    ]
    found = [signal for signal in signals if signal is not None]
    kinds = {(signal.size[0], len(signal.shape), signal.pixels) for signal in found}
    return found if len(found) == len(values) and len(kinds) == 1 else None


def _flatten(wish: Wish, input: object, start_dim: int = 0, end_dim: int = -1) -> object:
    if not isinstance(input, Signal) or (start_dim, end_dim % len(input.size)) != (1, len(input.shape)):
        return NotImplemented
    return input.flattened()


def _view(wish: Wish, input: object, *sizes: object) -> object:
    if not isinstance(input, Signal):
        return NotImplemented
    flat = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], Sequence) else sizes
    images, features = input.size[0], math.prod(input.shape)
    if list(flat) in ([images, features], [images, -1], [-1, features]):
        return input.flattened()
    return NotImplemented


def _size(wish: Wish, input: Signal, dim: int | None = None) -> object:
    return input.size if dim is None else input.size[dim]


def _dim(wish: Wish, input: Signal) -> object:
    return len(input.size)


def _mean(wish: Wish, input: object, dim: object = None, keepdim: object = False) -> object:
    axes = set(range(2, len(input.size))) if isinstance(input, Signal) else set()
    if not isinstance(input, Signal) or not axes or dim is None:
        return NotImplemented
    listed = dim if isinstance(dim, Sequence) else [dim]
    if {axis % len(input.size) for axis in listed if isinstance(axis, int)} != axes:
        return NotImplemented
    pooled = average_pool(input.blocked, _adaptive(input.pixels, (1, 1)))
    return Signal(pooled, (input.shape[0], *[1] * len(axes)) if keepdim else input.shape[:1])


def _max_pool(
    axes: int, wish: Wish, input: object, kernel_size: object, stride: object = None, padding: object = 0,
    dilation: object = 1, ceil_mode: bool = False, return_indices: object = False,  # noqa: FBT001
) -> object:  # fmt: skip
    if not _poolable(input, axes) or return_indices:
        return NotImplemented
    windows = _sliding(
        input.pixels, axes, kernel_size, stride, padding, dilation=dilation, overhang=ceil_mode
    )
    return _pooled(wish, max_pool, input, windows)


def _average_pool(
    axes: int, wish: Wish, input: object, kernel_size: object, stride: object = None, padding: object = 0,
    ceil_mode: bool = False, count_include_pad: object = True, divisor_override: object = None,  # noqa: FBT001
) -> object:  # fmt: skip
    if not _poolable(input, axes) or divisor_override is not None:
        return NotImplemented
    by = "window" if count_include_pad else "pixels"
    windows = _sliding(
        input.pixels, axes, kernel_size, stride, padding, dilation=1, overhang=ceil_mode, divide_by=by
    )
    return _pooled(wish, average_pool, input, windows)


def _adaptive_pool(
    pool: Pool, axes: int, wish: Wish, input: object, output_size: object, return_indices: object = False
) -> object:
    if not _poolable(input, axes) or return_indices:
        return NotImplemented
    asked = _pair(output_size, axes, none=input.pixels)
    return _pooled(wish, pool, input, _adaptive(input.pixels, asked))


def _poolable(input: object, axes: int) -> TypeGuard[Signal]:
    return isinstance(input, Signal) and len(input.shape) == axes + 1 and not input.is_flattened


def _pooled(wish: Wish, pool: Pool, input: Signal, windows: tuple[Windows, Windows]) -> Signal:
    size = (len(windows[0]), len(windows[1]))
    made = pool(input.blocked, windows, halo=wish.halo(size))
    return Signal(made, (input.shape[0], *size[3 - len(input.shape) :]))


def _adaptive(pixels: tuple[int, int], outputs: tuple[int, int]) -> tuple[Windows, Windows]:
    return adaptive_windows(pixels[0], outputs[0]), adaptive_windows(pixels[1], outputs[1])


def _sliding(
    pixels: tuple[int, int], axes: int, kernel: object, stride: object, padding: object, *, dilation: object,
    overhang: bool, divide_by: str = "window",
) -> tuple[Windows, Windows]:  # fmt: skip
    kernels, paddings, dilations = _pair(kernel, axes), _pair(padding, axes, 0), _pair(dilation, axes)
    # torch takes an empty stride, the functional's default, for the window's own size.
    strides = kernels if stride is None or stride == () or stride == [] else _pair(stride, axes)
    rows, columns = (
        sliding_windows(
            pixels[i], kernels[i], stride=strides[i], padding=paddings[i], dilation=dilations[i],
            overhang=overhang, divide_by=divide_by,
        )
        for i in (0, 1)
    )  # fmt: skip
    return rows, columns


def _pair(
    size: object, axes: int, along_height: int = 1, *, none: tuple[int, int] | None = None
) -> tuple[int, int]:
    """A size for rows and columns; a sequence has one row, with the neutral size along it."""
    many = list(size) if isinstance(size, Sequence) else [size] * axes
    if len(many) == 1:
        many = [along_height, *many] if axes == 1 else many * 2
    rows, columns = (none[i] if value is None and none is not None else value for i, value in enumerate(many))
    assert isinstance(rows, int)
    assert isinstance(columns, int)
    return rows, columns


# Rules that pass a signal's rows on as they are, so that the next layer's wish is theirs too.
EACH: dict[Callable[..., object], Rule] = {
    **{
        function: partial(_each, function)
        for function in (
            torch.sigmoid, torch.tanh, torch.abs, torch.neg, torch.square, torch.clamp, F.relu6,
            F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.hardtanh, F.hardswish, F.hardsigmoid,
            F.softplus, F.softsign, F.logsigmoid, F.tanhshrink, F.softshrink, F.hardshrink, F.threshold,
        )
    },
    **{function: _relu for function in (F.relu, F.relu_, torch.relu, torch.relu_)},
    F.sigmoid: partial(_each, torch.sigmoid),
    F.tanh: partial(_each, torch.tanh),
    operator.neg: partial(_each, torch.neg),
    **{function: _add for function in (torch.add, operator.add, operator.iadd)},
    **{function: partial(_scale, torch.mul) for function in (torch.mul, operator.mul, operator.imul)},
    **{function: partial(_scale, torch.div) for function in (torch.div, operator.truediv, operator.itruediv)},
    **{function: _concatenate for function in (torch.cat, torch.concat)},
    **{function: _dropout for function in (F.dropout, F.dropout1d, F.dropout2d, F.alpha_dropout)},
    torch.flatten: _flatten,
}  # fmt: skip
FUNCTIONS: dict[Callable[..., object], Rule] = {
    **EACH,
    **{f: partial(_max_pool, 2) for f in (F.max_pool2d, torch.max_pool2d)},
    **{f: partial(_max_pool, 1) for f in (F.max_pool1d, torch.max_pool1d)},
    F.avg_pool2d: partial(_average_pool, 2),
    F.avg_pool1d: partial(_average_pool, 1),
    F.adaptive_avg_pool2d: partial(_adaptive_pool, average_pool, 2),
    F.adaptive_avg_pool1d: partial(_adaptive_pool, average_pool, 1),
    F.adaptive_max_pool2d: partial(_adaptive_pool, max_pool, 2),
    F.adaptive_max_pool1d: partial(_adaptive_pool, max_pool, 1),
    torch.mean: _mean,
}
METHODS: dict[str, Rule] = {
    **{name: EACH[torch.relu] for name in ("relu", "relu_")},
    **{name: EACH[getattr(torch, name)] for name in ("sigmoid", "tanh", "abs", "neg", "square", "clamp")},
    **{name: _add for name in ("add", "add_")},
    **{name: EACH[torch.mul] for name in ("mul", "mul_")},
    **{name: EACH[torch.div] for name in ("div", "div_")},
    "contiguous": _same,
    "flatten": _flatten,
    "view": _view,
    "reshape": _view,
    "mean": _mean,
    "size": _size,
    "dim": _dim,
}
_POOL = ("kernel_size", "stride", "padding")
# Modules that are a function with settings: the function, and the attributes that are its arguments.
MODULES: dict[type[nn.Module], tuple[Callable[..., object], tuple[str, ...]]] = {
    nn.ReLU: (F.relu, ()), nn.ReLU6: (F.relu6, ()), nn.LeakyReLU: (F.leaky_relu, ("negative_slope",)),
    nn.ELU: (F.elu, ("alpha",)), nn.SELU: (F.selu, ()), nn.CELU: (F.celu, ("alpha",)),
    nn.GELU: (F.gelu, ("approximate",)), nn.SiLU: (F.silu, ()), nn.Mish: (F.mish, ()),
    nn.Hardtanh: (F.hardtanh, ("min_val", "max_val")), nn.Hardswish: (F.hardswish, ()),
    nn.Hardsigmoid: (F.hardsigmoid, ()), nn.Sigmoid: (torch.sigmoid, ()), nn.Tanh: (torch.tanh, ()),
    nn.Softplus: (F.softplus, ("beta", "threshold")), nn.Softsign: (F.softsign, ()),
    nn.LogSigmoid: (F.logsigmoid, ()), nn.Tanhshrink: (F.tanhshrink, ()),
    nn.Softshrink: (F.softshrink, ("lambd",)), nn.Hardshrink: (F.hardshrink, ("lambd",)),
    nn.Threshold: (F.threshold, ("threshold", "value")),
    nn.Flatten: (torch.flatten, ("start_dim", "end_dim")),
    nn.Dropout: (F.dropout, ("p", "training")), nn.Dropout1d: (F.dropout1d, ("p", "training")),
    nn.Dropout2d: (F.dropout2d, ("p", "training")), nn.AlphaDropout: (F.alpha_dropout, ("p", "training")),
    nn.MaxPool1d: (F.max_pool1d, (*_POOL, "dilation", "ceil_mode", "return_indices")),
    nn.MaxPool2d: (F.max_pool2d, (*_POOL, "dilation", "ceil_mode", "return_indices")),
    nn.AvgPool1d: (F.avg_pool1d, (*_POOL, "ceil_mode", "count_include_pad")),
    nn.AvgPool2d: (F.avg_pool2d, (*_POOL, "ceil_mode", "count_include_pad", "divisor_override")),
    nn.AdaptiveAvgPool1d: (F.adaptive_avg_pool1d, ("output_size",)),
    nn.AdaptiveAvgPool2d: (F.adaptive_avg_pool2d, ("output_size",)),
    nn.AdaptiveMaxPool1d: (F.adaptive_max_pool1d, ("output_size", "return_indices")),
    nn.AdaptiveMaxPool2d: (F.adaptive_max_pool2d, ("output_size", "return_indices")),
}  # fmt: skip
