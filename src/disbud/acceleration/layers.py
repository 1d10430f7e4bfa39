"""A convolution or linear layer of the model, run by the sparse kernels or by torch on the whole weight."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from disbud.acceleration.signals import Branch, Signal, Wish, as_signal, plain
from disbud.acceleration.weights import scattered
from disbud.kernels import Blocked, Layout, Pattern, library, sparse_branch, sparse_layer
from disbud.kernels.plan import axes

SPARSE, DENSE, TORCH = "sparse", "dense", "torch"


@dataclass(eq=False)
class Layer:
    """A layer: its weight's canonical name, its pattern, how activations are stored, which kernel runs it, and why."""

    name: str
    module: nn.Module
    pattern: Pattern
    border: tuple[int, ...]
    stored: torch.dtype = torch.float32
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


def layer_of(
    name: str, module: nn.Module, mask: Tensor | None, *, stored: torch.dtype = torch.float32
) -> Layer:
    """The layer of a module, with the mask of its weight where it has one, and how activations are stored."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    mask = torch.ones(weight.shape, dtype=torch.bool) if mask is None else mask
    if isinstance(module, nn.Linear):
        return Layer(name, module, Pattern.of_linear(mask), (), stored)
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    padding, border = _padding(module)
    stride, dilation = module.stride, module.dilation
    if isinstance(module, nn.Conv1d):
        mask, stride, padding, dilation = mask.unsqueeze(2), (1, *stride), (0, *padding), (1, *dilation)
    pattern = Pattern.of_convolution(
        mask, stride=_two(stride), padding=_two(padding), dilation=_two(dilation), groups=module.groups
    )
    return Layer(name, module, pattern, border, stored)


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

    def __init__(self, layer: Layer, *, then_blocked: bool, is_first: bool, is_branch: bool = False) -> None:
        self.layer = layer
        self.is_branch = is_branch
        self.then_blocked = then_blocked
        self.is_first = is_first

    def __call__(self, wish: Wish, x: object) -> object:
        """The layer's output: a signal, or an ordinary tensor where what follows wants that.

        Where others read the input after it and gradients flow to it, it comes with the input that they are to read.
        """
        if self.layer.kernel == SPARSE:
            given, x = x, self.ready(x)
            if isinstance(x, Signal):
                return self._branched(wish, x) if self.is_branch and x is given else self._by_kernel(wish, x)
            if self.layer.is_linear and isinstance(x, Tensor) and x.dim() != 2 and x.numel():
                # Any number of leading axes are images to the kernel.
                made = self._by_kernel(wish, Signal.of(x.reshape(-1, x.shape[-1]), stored=self.layer.stored))
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

    def ready(self, x: object) -> object:
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
                return self.ready(x.plain())
            return x
        if not isinstance(x, Tensor) or x.dim() != count + 1 or not x.numel():
            return x
        size = (1, 1) if count == 1 else (1, x.shape[2]) if count == 2 else (x.shape[2], x.shape[3])
        return Signal.of(x, halo=Wish([layer.pattern]).halo(size), stored=layer.stored)

    def _by_kernel(self, wish: Wish, x: Signal) -> Signal:
        values, pattern, halo = self.values(), self.layer.pattern, self.halo(wish, x)
        return self.signal(sparse_layer(x.blocked, values, pattern, bias=self.bias(), halo=halo), x)

    def _branched(self, wish: Wish, x: Signal) -> Signal | Branch:
        if not (torch.is_grad_enabled() and x.blocked.data.requires_grad):
            return self._by_kernel(wish, x)
        values, pattern, halo = self.values(), self.layer.pattern, self.halo(wish, x)
        y, again = sparse_branch(x.blocked, values, pattern, bias=self.bias(), halo=halo)
        return Branch(self.signal(y, x), x.with_(again))

    def halo(self, wish: Wish, x: Signal) -> int:
        """The zero columns that the next layers wish between the rows of the output."""
        layout = self._layout(x)
        return 0 if self.layer.is_linear else wish.halo((layout.height, layout.width))

    def signal(self, y: Blocked, x: Signal) -> Signal:
        """The output that the kernels made of an input, in the dense model's shape."""
        return Signal(y, self._shape(y.layout, x))

    def addable(self, x: Signal, other: object) -> Signal | None:
        """Another value that can be added to the output for that input number by number; else None."""
        layout = self._layout(x)
        return as_signal(other, (layout.images, *self._shape(layout, x)), layout, stored=x.stored)

    def _layout(self, x: Signal) -> Layout:
        """The layout of the output, without a halo."""
        layer = self.layer
        rows, columns = (1, 1) if layer.is_linear else (axis.output for axis in axes(layer.pattern, x.pixels))
        return Layout(x.size[0], layer.pattern.outputs, rows, columns)

    def _shape(self, layout: Layout, x: Signal) -> tuple[int, ...]:
        size = () if self.layer.is_linear else (layout.height, layout.width)[3 - len(x.shape) :]
        return (layout.channels, *size)

    def values(self) -> Tensor:
        """The kept weights."""
        return self.layer.weight.flatten()

    def bias(self) -> Tensor | None:
        """The layer's bias, where it has one."""
        bias = self.layer.module.bias
        assert bias is None or isinstance(bias, Tensor)
        return bias

    def _dense(self, x: object) -> object:
        assert isinstance(x, Tensor)
        module, weight, bias = self.layer.module, self.layer.whole_weight(), self.bias()
        if isinstance(module, nn.Linear):
            y = F.linear(x, weight, bias)
        else:
            assert isinstance(module, nn.Conv1d | nn.Conv2d)
            if x.dim() == 4:
                x = x.contiguous(memory_format=torch.channels_last)
            y = module._conv_forward(x, weight, bias)
        batched = y.dim() == len(getattr(module, "kernel_size", ())) + 2
        return Signal.of(y, stored=self.layer.stored) if self.then_blocked and batched and y.numel() else y


def kernels_are_there() -> bool:
    """Whether compiled kernels run here, rather than the path in plain torch."""
    return library() is not None
