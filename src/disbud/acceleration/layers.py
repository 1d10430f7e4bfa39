"""A convolution or linear layer of the model, run by the sparse kernels or by torch on the whole weight."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from disbud.acceleration.signals import Signal, Wish, plain
from disbud.acceleration.weights import scattered
from disbud.kernels import Pattern, library, sparse_layer
from disbud.kernels.plan import axes

SPARSE, DENSE, TORCH = "sparse", "dense", "torch"


@dataclass(eq=False)
class Layer:
    """A layer: its weight's canonical name, its pattern, which kernel runs it, and why."""

    name: str
    module: nn.Module
    pattern: Pattern
    border: tuple[int, ...]
    kernel: str = DENSE
    why: str = ""
    met: list[Met] = field(default_factory=list)

    @property
    def is_linear(self) -> bool:
        """Whether it takes features."""
        return self.pattern.is_linear

    @property
    def weight(self) -> Tensor:
        """What the module holds now: the kept values, or the whole weight of a layer that is not pruned."""
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def axes(self) -> int:
        """How many axes one image of its input has."""
        return 1 if isinstance(self.module, nn.Linear) else 2 if isinstance(self.module, nn.Conv1d) else 3

    def whole_weight(self) -> Tensor:
        """The weight in the dense layer's shape, zero where nothing is kept."""
        if self.weight.dim() > 1:
            return self.weight
        mask = self.pattern.mask
        return scattered(self.weight, mask.squeeze(2) if isinstance(self.module, nn.Conv1d) else mask)


@dataclass(frozen=True)
class Met:
    """One call of a layer on the example: the shape of its input and output, and whether the input is the model's."""

    input: tuple[int, ...]
    output: tuple[int, ...]
    is_first: bool


def layer_of(name: str, module: nn.Module, mask: Tensor | None) -> Layer:
    """The layer of a module, with the mask of its weight where it has one."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    mask = torch.ones(weight.shape, dtype=torch.bool) if mask is None else mask
    if isinstance(module, nn.Linear):
        return Layer(name, module, Pattern.of_linear(mask), ())
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    padding, border = _padding(module)
    stride, dilation = module.stride, module.dilation
    if isinstance(module, nn.Conv1d):
        mask, stride, padding, dilation = mask.unsqueeze(2), (1, *stride), (0, *padding), (1, *dilation)
    pattern = Pattern.of_convolution(
        mask, stride=_two(stride), padding=_two(padding), dilation=_two(dilation), groups=module.groups
    )
    return Layer(name, module, pattern, border)


def _two(size: tuple[int, ...]) -> tuple[int, int]:
    rows, columns = size
    return rows, columns


def _padding(module: nn.Conv1d | nn.Conv2d) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The zeros that the kernel's window steps over, and what is put around the input beforehand, as F.pad takes it.

    The second is for padding that is not zeros, or that an even window makes uneven.
    """
    around = tuple(module._reversed_padding_repeated_twice)
    if module.padding_mode == "zeros" and around[::2] == around[1::2]:
        return around[::2][::-1], ()
    return (0,) * len(module.kernel_size), around


class RunLayer:
    """The call of a layer in the graph."""

    def __init__(self, layer: Layer, *, then_blocked: bool, is_first: bool) -> None:
        self.layer = layer
        self.then_blocked = then_blocked
        self.is_first = is_first

    def __call__(self, wish: Wish, x: object) -> object:
        """The layer's output: a signal, or an ordinary tensor where what follows wants that."""
        if self.layer.kernel == SPARSE:
            x = self._ready(x)
            if isinstance(x, Signal):
                return self._convolved(wish, x) if not self.layer.is_linear else self._product(x)
            if self.layer.is_linear and isinstance(x, Tensor) and x.dim() != 2 and x.numel():
                # Any number of leading axes are images to the kernel.
                made = self._product(Signal.of(x.reshape(-1, x.shape[-1])))
                return made.plain().view(*x.shape[:-1], made.shape[0])
        return self._dense(plain(x))

    def meet(self, x: object, made: object) -> None:
        """Note the sizes of a call, where it is one that kernels could make."""
        count = self.layer.axes
        shapes = [tuple(value.shape) for value in (x, made) if isinstance(value, Tensor)]
        if len(shapes) == 2 and (
            len(shapes[0]) == count + 1 or (self.layer.is_linear and len(shapes[0]) > 1)
        ):
            self.layer.met.append(Met(shapes[0], shapes[1], self.is_first))

    def _ready(self, x: object) -> object:
        """The input as a signal of the right number of axes, where it can be one."""
        layer, module = self.layer, self.layer.module
        count = layer.axes
        if layer.border and (isinstance(x, Signal) or (isinstance(x, Tensor) and x.dim() == count + 1)):
            assert isinstance(module, nn.Conv1d | nn.Conv2d)
            mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
            tensor = plain(x)
            assert isinstance(tensor, Tensor)
            x = F.pad(tensor, layer.border, mode=mode)
        if isinstance(x, Signal):
            if len(x.shape) != count or (x.is_flattened and not layer.is_linear):
                return self._ready(x.plain())
            return x
        if not isinstance(x, Tensor) or x.dim() != count + 1 or not x.numel():
            return x
        size = (1, 1) if count == 1 else (1, x.shape[2]) if count == 2 else (x.shape[2], x.shape[3])
        return Signal.of(x, halo=Wish([layer.pattern]).halo(size))

    def _convolved(self, wish: Wish, x: Signal) -> Signal:
        layer = self.layer
        rows, columns = axes(layer.pattern, x.pixels)
        halo = wish.halo((rows.output, columns.output))
        y = sparse_layer(x.blocked, self._values(), layer.pattern, bias=self._bias(), halo=halo)
        size = (y.layout.height, y.layout.width)
        return Signal(y, (y.layout.channels, *size[3 - len(x.shape) :]))

    def _product(self, x: Signal) -> Signal:
        y = sparse_layer(x.blocked, self._values(), self.layer.pattern, bias=self._bias())
        return Signal(y, (y.layout.channels,))

    def _values(self) -> Tensor:
        return self.layer.weight.flatten()

    def _bias(self) -> Tensor | None:
        bias = self.layer.module.bias
        assert bias is None or isinstance(bias, Tensor)
        return bias

    def _dense(self, x: object) -> object:
        assert isinstance(x, Tensor)
        module, weight, bias = self.layer.module, self.layer.whole_weight(), self._bias()
        if isinstance(module, nn.Linear):
            y = F.linear(x, weight, bias)
        else:
            assert isinstance(module, nn.Conv1d | nn.Conv2d)
            if x.dim() == 4:
                x = x.contiguous(memory_format=torch.channels_last)
            y = module._conv_forward(x, weight, bias)
        batched = y.dim() == len(getattr(module, "kernel_size", ())) + 2
        return Signal.of(y) if self.then_blocked and batched and y.numel() else y


def kernels_are_there() -> bool:
    """Whether compiled kernels run here, rather than the path in plain torch."""
    return library() is not None
