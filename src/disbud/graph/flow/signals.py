"""Signals of any size: tensors that carry a power of two beside them, so that no depth over- or underflows.

A signal is whatever depends on the input of the network. It stands for `tensor * 2**exponent`. The exponents are
plain numbers outside the graph, so a gradient taken through the tensors is right up to one power of two, the same for
all: that of the output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from disbud.graph.flow.convolution import convolution
from disbud.graph.flow.survivors import Survivors

Value = Tensor | float
Function = Callable[..., Tensor]
Scaled = TypeVar("Scaled", Tensor, float)

_SETTLED = (
    30  # a signal is rescaled when its peak leaves 2**-30 to 2**30: products of three still fit float32
)
_MASKED = -1e4  # an added constant this low is a mask, whatever its exact value


class Signals:
    """Which tensors are signals, and the exponent of each. Tensors are held, so that no identity is used twice."""

    def __init__(self, magnitudes: Iterable[Tensor], survivors: Survivors, *, keep_biases: bool) -> None:
        self.keep_biases = keep_biases
        self.survivors = survivors
        self._magnitudes = {id(tensor): tensor for tensor in magnitudes}
        self.dtype = next(
            (t.dtype for t in self._magnitudes.values() if t.is_floating_point()), torch.get_default_dtype()
        )
        self._constants: dict[int, Tensor] = {}
        self._exponents: dict[int, tuple[Tensor, int]] = {}
        self._softmaxes: dict[int, tuple[Tensor, Tensor]] = {}

    def __contains__(self, value: object) -> bool:
        if id(value) in self._exponents:
            return True
        # What requires a gradient and came from no function seen here (a scripted one) can only be a signal.
        unknown = isinstance(value, Tensor) and value.requires_grad and id(value) not in self._constants
        return unknown and id(value) not in self._magnitudes

    def put(self, tensor: Tensor, exponent: int = 0) -> Tensor:
        """Note a signal as it is."""
        self._exponents[id(tensor)] = (tensor, exponent)
        return tensor

    def copied(self, signal: Tensor) -> Tensor:
        """The same signal in memory of its own: what the model writes into the one is not in the other."""
        return self.put(signal.clone(), self.exponent(signal))

    def begin(self, tensor: Tensor) -> Tensor:
        """Note a signal that comes from no other; gives what the model is to compute with, and may write over."""
        return self.put(tensor)

    def constant(self, func: Callable[..., object], *args: object, **kwargs: object) -> object:
        """What a function makes of constants and weights alone."""
        return func(*args, **kwargs)

    def put_constant(self, tensor: Tensor) -> None:
        """Note a tensor made of weights alone."""
        self._constants[id(tensor)] = tensor

    def put_softmax(self, shares: Tensor, *, of: Tensor) -> None:
        """Note the constant that stands for the softmax of a signal."""
        self._softmaxes[id(shares)] = (shares, of)

    def settle(self, tensor: Tensor, exponent: int) -> Tensor:
        """Note a signal, rescaled by a power of two where its peak has grown or shrunk too far."""
        peak = _peak(tensor)
        if 0 < peak < math.inf and not -_SETTLED <= (shift := math.frexp(peak)[1]) <= _SETTLED:
            shift = max(-120, min(120, shift))
            tensor, exponent = tensor * 2.0**-shift, exponent + shift
        return self.put(tensor, exponent)

    def outputs(self, found: Sequence[Tensor]) -> list[Tensor]:
        """The signals among a network's outputs; where there is none, those whose softmax it returns."""
        softmaxes = [self._softmaxes[id(tensor)][1] for tensor in found if id(tensor) in self._softmaxes]
        return [tensor for tensor in found if tensor in self and tensor.is_floating_point()] or softmaxes

    def exponent(self, value: object) -> int:
        """The exponent of a signal; 0 for anything else."""
        return self._exponents[id(value)][1] if id(value) in self._exponents else 0

    def align(self, values: Sequence[Tensor]) -> tuple[list[Tensor], int]:
        """Signals brought to one exponent, the highest of those that are not zero."""
        exponents = [self.exponent(value) for value in values]
        if len(set(exponents)) <= 1:
            return list(values), exponents[0] if exponents else 0
        top = max((e for e, value in zip(exponents, values, strict=True) if _peak(value) > 0), default=0)
        return [_scaled(value, e - top) for e, value in zip(exponents, values, strict=True)], top

    def factor(self, value: Tensor) -> Tensor:
        """What multiplies: a signal as it is, a constant by its absolute value."""
        return value if value in self or id(value) in self._magnitudes else value.abs()

    def terms(self, values: Sequence[Value]) -> tuple[list[Value], int]:
        """What is added to each other: signals at one exponent, constants as offsets at that exponent."""
        signals = [value for value in values if isinstance(value, Tensor) and value in self]
        aligned, exponent = self.align(signals)
        at_one = {id(before): after for before, after in zip(signals, aligned, strict=True)}
        dtype = signals[0].dtype
        return [at_one.get(id(value), self._offset(value, exponent, dtype)) for value in values], exponent

    def convolved(self, input: Tensor, weight: Tensor, *args: object, **kwargs: object) -> Tensor:
        """conv2d without a bias; what repeats in a signal of ones is computed once."""
        return convolution(self.survivors, input, weight, *args, **kwargs)  # type: ignore[arg-type]

    def bias(self, value: Tensor | None, exponent: int) -> Tensor | None:
        """What the bias of a layer becomes: its absolute value, or None where biases are dropped."""
        return None if value is None or not self.keep_biases else _scaled(value.abs(), -exponent)

    def _offset(self, value: Value, exponent: int, dtype: torch.dtype) -> Value:
        """What a constant that is added becomes: nothing, or with biases its absolute value; a mask stays a mask."""
        if not isinstance(value, Tensor):
            return (
                -math.inf if value <= _MASKED else _scaled(abs(value), -exponent) if self.keep_biases else 0.0
            )
        value = value if value.is_floating_point() else value.to(dtype)
        added = _scaled(value.abs(), -exponent) if self.keep_biases else torch.zeros_like(value)
        masked = value <= _MASKED
        return added.masked_fill(masked, -math.inf) if bool(masked.any()) else added


def tensors_in(values: Iterable[object]) -> Iterator[Tensor]:
    """The tensors among arguments or results; pytree opens more kinds of container, and takes ten times longer."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from tensors_in(value)
        elif isinstance(value, dict):
            yield from tensors_in(value.values())


def passes(values: Tensor) -> Tensor:
    """Where attention scores, or the mask added to them, let a position through."""
    return values if values.dtype == torch.bool else values > _MASKED


def _peak(tensor: Tensor) -> float:
    if not tensor.numel():
        return 0.0
    least, most = torch.aminmax(tensor.detach())
    return max(-float(least), float(most))


def _scaled(value: Scaled, shift: int) -> Scaled:
    return value if shift == 0 else value * 2.0 ** max(-1100, min(1000, shift))
