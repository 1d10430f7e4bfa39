"""What sums, products, layers and activations become in the linearised network.

Activations and dropout pass everything through. What multiplies acts by its absolute value. What is added without
coming from the input (biases, positional embeddings, class tokens) is nothing, or with `biases="abs"` its absolute
value. Nothing is subtracted. Division by something made of the signal is a normalisation, and passes through.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from disbud.graph.flow.signals import Function, Signals, Value, tensors_in

Rule = Callable[..., object]
Values = TypeVar("Values")


def inherit(signals: Signals, func: Callable[..., object], *args: object, **kwargs: object) -> object:
    """A function without a rule of its own scales with its signals: views, pooling, sums, padding."""
    args, kwargs, exponent = at_one_exponent(signals, args, kwargs)
    output = func(*args, **kwargs)
    for value in tensors_in((output,)):
        signals.put(value, exponent)
    return output


def whole(
    signals: Signals, rule: Rule, func: Callable[..., object], *args: object, **kwargs: object
) -> object:
    """A function of whole numbers that were put in: token ids, masks, or images as bytes.

    What is looked up with them is where a signal begins. Where they become floating point themselves, they are
    numbers as any that are put in, ones, and the rule is that of a signal; masks stay what they are.
    """
    output = func(*args, **kwargs)
    if func is functional.one_hot:  # rows of the unit matrix are looked up
        assert isinstance(output, Tensor)
        return signals.begin(output.to(signals.dtype))
    read = list(tensors_in((args, kwargs)))
    made = list(tensors_in((output,)))
    converts = func in _CONVERTING or not any(value.is_floating_point() for value in read)
    if converts and any(value.is_floating_point() for value in made):
        numbers = {
            id(value): signals.begin(torch.ones_like(value, dtype=signals.dtype))
            for value in read
            if value in signals and value.dtype != torch.bool
        }
        if numbers:
            return rule(signals, func, *replaced(args, numbers), **replaced(kwargs, numbers))
    begun: dict[int, Tensor] = {}
    for value in made:
        in_place = any(value is one for one in read)  # and stays the tensor that it was
        if in_place or not value.is_floating_point():
            signals.put(value)
        else:
            begun[id(value)] = signals.begin(value.to(signals.dtype))
    return replaced(output, begun)


def replaced(values: Values, replacement: Mapping[int, Tensor]) -> Values:
    """Arguments or results, with other tensors in the place of some, by identity."""
    found: Values = tree_map(lambda leaf: replacement.get(id(leaf), leaf), values)
    return found


def at_one_exponent(
    signals: Signals, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[tuple[object, ...], dict[str, object], int]:
    """The arguments with their signals brought to one exponent, and that exponent."""
    found = [value for value in tensors_in((args, kwargs)) if value in signals and value.is_floating_point()]
    aligned, exponent = signals.align(found)
    if any(new is not old for new, old in zip(aligned, found, strict=True)):
        replacement = {id(old): new for new, old in zip(aligned, found, strict=True)}
        args, kwargs = replaced((args, kwargs), replacement)
    return args, kwargs, exponent


def blank(signals: Signals, func: Callable[..., object], *args: object, **kwargs: object) -> object:
    """A new tensor that takes only its shape from a signal is a constant."""
    return func(*args, **kwargs)


def likened(
    signals: Signals, func: Callable[..., object], input: Tensor, *args: object, **kwargs: object
) -> object:
    """A tensor in the shape or type of another: a signal if it is one itself."""
    return (inherit if input in signals else blank)(signals, func, input, *args, **kwargs)


def identity(signals: Signals, func: Function, input: Tensor, *args: object, **kwargs: object) -> Tensor:
    """Activations, bounds, dropout, signs: the same signal, in memory of its own where torch takes some."""
    name = getattr(func, "__name__", "")
    idle = "dropout" in name and kwargs.get("training") is False
    return input if name.endswith("_") or kwargs.get("inplace") or idle else signals.copied(input)


def itself(signals: Signals, func: Function, input: Tensor, *_: object) -> Tensor:
    """What is left out: the same signal, in the same memory."""
    return input


def cast(
    signals: Signals, func: Callable[..., object], input: Tensor, *args: object, **kwargs: object
) -> object:
    """Another floating-point type, which a signal does not take; or another device."""
    if input not in signals:
        return likened(signals, func, input, *args, **kwargs)
    output = inherit(signals, func, input, *args, **kwargs)
    same = isinstance(output, Tensor) and output.is_floating_point() and output.device == input.device
    return input if same else output


def relu(signals: Signals, func: Function, input: Tensor, *args: object, **kwargs: object) -> object:
    """The identity on what is never negative; a BatchNorm mean, which biases="abs" subtracts, can make it so."""
    return (inherit if signals.keep_biases else identity)(signals, func, input, *args, **kwargs)


def glu(signals: Signals, func: Function, input: Tensor, dim: int = -1) -> Tensor:
    """One half gates the other: their product."""
    a, b = input.chunk(2, dim)
    return signals.settle(a * b, 2 * signals.exponent(input))


def recurrent(signals: Signals, func: Callable[..., object], *args: object) -> object:
    """LSTM, GRU and RNN run as they are, with absolute weights; of floating point, only their biases are vectors."""

    def positive(leaf: object) -> object:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            return leaf
        if leaf.dim() > 1:
            return signals.factor(leaf)
        bias = signals.bias(leaf, signals.exponent(args[0]))
        return torch.zeros_like(leaf) if bias is None else bias

    return inherit(signals, func, *tree_map(positive, args))


# Layers with weights


def layer(
    signals: Signals, func: Function, input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: object,
    **kwargs: object,
) -> Tensor:  # fmt: skip
    """A linear layer, convolution or transposed convolution with an absolute weight."""
    exponent = signals.exponent(input) + signals.exponent(weight)
    weight, input = signals.factor(weight), signals.factor(input)
    bias = signals.bias(bias, exponent)
    if func is functional.linear and bias is None:
        output = signals.survivors.product(input, weight)
    elif func is torch.conv2d and bias is None:
        output = signals.convolved(input, weight, *args, **kwargs)
    else:
        output = func(input, weight, bias, *args, **kwargs)
    return signals.settle(output, exponent)


def bilinear(
    signals: Signals,
    func: Function,
    input1: Tensor,
    input2: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """A bilinear layer with an absolute weight."""
    exponent = signals.exponent(input1) + signals.exponent(input2)
    factors = (signals.factor(value) for value in (input1, input2, weight))
    return signals.settle(func(*factors, signals.bias(bias, exponent)), exponent)


# Products and quotients


def product(signals: Signals, func: Function, *args: object, **kwargs: object) -> Tensor:
    """Matrix products and sums of products: exponents add up, constants act by their absolute value."""
    exponent = sum(signals.exponent(value) for value in tensors_in((args, kwargs)))
    args, kwargs = tree_map(
        lambda leaf: signals.factor(leaf) if isinstance(leaf, Tensor) else leaf, (args, kwargs)
    )
    return signals.settle(func(*args, **kwargs), exponent)


def times(signals: Signals, func: Function, input: Value, other: Value) -> Tensor:
    """input * other."""
    exponent = signals.exponent(input) + signals.exponent(other)
    a, b = (signals.factor(value) if isinstance(value, Tensor) else abs(value) for value in (input, other))
    return signals.settle(torch.mul(a, b), exponent)


def plus_product(
    signals: Signals, func: Function, input: Value, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """beta * input + alpha * (a @ b)."""
    found = product(signals, torch.matmul, a, b)
    found = found if alpha == 1 else times(signals, torch.mul, found, alpha)
    return plus(signals, torch.add, found, input, alpha=beta)


def over(signals: Signals, func: Function, input: Value, other: Value, **kwargs: object) -> Tensor:
    """input / other; a signal below the line normalises and counts as one."""
    if not isinstance(other, Tensor) or other not in signals:
        divisor = other.abs() if isinstance(other, Tensor) else abs(other)
        return signals.settle(torch.div(input, divisor), signals.exponent(input))
    ones = torch.ones_like(other)
    if input in signals:
        return times(signals, torch.mul, input, ones)
    return ones * (input.abs() if isinstance(input, Tensor) else abs(input))


def under(signals: Signals, func: Function, other: Tensor, input: Value) -> Tensor:
    """input / other, written from the right."""
    return over(signals, func, input, other)


def power(signals: Signals, func: Function, input: Value, exponent: Value | None = None) -> object:
    """Powers; an inverse one normalises and counts as one."""
    degree = DEGREES.get(getattr(func, "__name__", ""), exponent)
    if not isinstance(input, Tensor) or input not in signals or isinstance(degree, Tensor) or degree is None:
        return inherit(signals, func, input, *(() if exponent is None else (exponent,)))
    if degree < 0:
        return torch.ones_like(input)
    total = signals.exponent(input) * (int(degree) if degree == int(degree) else degree)
    whole = math.floor(total)
    return signals.settle(input**degree * 2.0 ** (total - whole), whole)


DEGREES: dict[str, Value | None] = {"square": 2, "sqrt": 0.5, "rsqrt": -0.5, "reciprocal": -1}


# Sums


def plus(signals: Signals, func: Function, input: Value, other: Value, *, alpha: float = 1) -> Tensor:
    """input + other, also where the network has input - other."""
    if alpha != 1:
        other = times(signals, torch.mul, other, alpha) if other in signals else other * alpha
    (input, other), exponent = signals.terms([input, other])
    return signals.settle(torch.add(input, other), exponent)


def merge(signals: Signals, func: Function, *args: object, **kwargs: object) -> Tensor:
    """Tensors side by side or one in the place of the other, brought to one exponent."""
    leaves, spec = tree_flatten((args, kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    terms, exponent = signals.terms([leaves[i] for i in places])
    for i, tensor in zip(places, terms, strict=True):
        leaves[i] = tensor
    args, kwargs = tree_unflatten(leaves, spec)
    return signals.put(func(*args, **kwargs), exponent)


def choose(signals: Signals, func: Function, condition: Tensor, input: Value, other: Value) -> Tensor:
    """where(condition, input, other)."""
    (input, other), exponent = signals.terms([input, other])
    return signals.put(torch.where(condition, input, other), exponent)


def fill(signals: Signals, func: Function, input: Tensor, mask: Tensor, value: Value) -> Tensor:
    """input.masked_fill(mask, value)."""
    return choose(signals, func, mask, value, input)


def assign(signals: Signals, func: Function, target: Tensor, index: object, value: Value) -> None:
    """target[index] = value; a target that is no signal holds nothing yet."""
    if isinstance(value, Tensor) and value.is_floating_point() and target.dtype != value.dtype:
        target.data = target.data.to(value.dtype)  # made in torch's own default type
    (scaled, value), exponent = signals.terms([target, value])
    if isinstance(scaled, Tensor) and scaled is not target:
        target.copy_(scaled)
    func(target, index, value)
    signals.put(target, exponent)


def in_place(rule: Callable[..., Tensor]) -> Rule:
    """The rule, with its result written over the first argument."""

    def written(signals: Signals, func: Function, target: Tensor, *args: object, **kwargs: object) -> Tensor:
        before = target.clone()
        if target in signals:
            signals.put(before, signals.exponent(target))
        result = rule(signals, func, before, *args, **kwargs)
        return signals.put(target.copy_(result), signals.exponent(result))

    return written


def homes(names: str) -> Iterator[object]:
    """Functions by name, wherever torch has them: torch, Tensor, functional, special, linalg."""
    for name in names.split():
        for home in (torch, Tensor, functional, torch._C._nn, torch.special, torch.linalg):
            if hasattr(home, name):
                yield getattr(home, name)


_CONVERTING = frozenset(
    homes(
        "to type type_as float double half bfloat16 mul multiply __mul__ __rmul__ div divide true_divide __truediv__ "
        "__rtruediv__ __rdiv__ add sub subtract rsub __add__ __radd__ __sub__ __rsub__"
    )
)
