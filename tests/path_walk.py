"""Torch modules as the explicit graph of path_oracle: as torch's documentation has them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd

import disbud
from disbud import Ticket
from networks import Branching, DenselyConnected, Functional, Residual, Tied, Transformer, Unused
from path_oracle import NOTHING, Answer, Entries, Graph, Mask, Solution

AS_IT_IS = (
    nn.Identity,
    nn.ReLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.GELU,
    nn.SiLU,
    nn.Softplus,
    nn.LeakyReLU,
    nn.ELU,
    nn.Hardswish,
    nn.PReLU,
    nn.Dropout,
    nn.Dropout2d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.InstanceNorm2d,
    nn.LocalResponseNorm,
    nn.Softmax,
)


def many(value: object, count: int) -> tuple[int, ...]:
    """A setting of every axis, given as one number or as several."""
    return tuple(value) if isinstance(value, Sequence) else (int(value),) * count  # type: ignore[arg-type, call-overload]


def windows(
    size: int, kernel: int, stride: int, padding: int, dilation: int, *, ceil: bool
) -> list[list[int]]:
    """The positions in each window of a pooling; padding is left out."""
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    count = (-(-span // stride) if ceil else span // stride) + 1
    if (
        ceil and (count - 1) * stride >= size + padding
    ):  # a window must start inside, or in the padding before
        count -= 1
    starts = [i * stride - padding for i in range(count)]
    return [[s + t * dilation for t in range(kernel) if 0 <= s + t * dilation < size] for s in starts]


def adaptive_windows(size: int, count: int) -> list[list[int]]:
    """The positions in each window of an adaptive pooling; where sizes do not divide, windows overlap."""
    return [
        list(range(math.floor(i * size / count), math.ceil((i + 1) * size / count))) for i in range(count)
    ]


class Walk:
    """Carries entries through a model: `walk(module, entries)` is the module's output."""

    def __init__(self, model: nn.Module, ticket: Ticket | None) -> None:
        self.name_of = {id(parameter): name for name, parameter in model.named_parameters()}
        shapes = {layer.name: layer.shape for layer in disbud.prunable(model)}
        given = {} if ticket is None else {name: mask.numpy() for name, mask in ticket.masks.items()}
        masks = {name: given.get(name, numpy.ones(shape, bool)) for name, shape in shapes.items()}
        self.graph = Graph(masks)

    def __call__(self, module: nn.Module, x: Entries) -> Entries:
        if isinstance(module, nn.Sequential):
            for inner in module:
                x = self(inner, x)
            return x
        if isinstance(module, AS_IT_IS):
            return x
        if isinstance(module, _ConvNd):
            return self._convolution(module, x)
        if isinstance(module, nn.Linear):
            return self.linear(module, x)
        if isinstance(module, nn.Flatten):
            return x.reshape(*x.shape[: module.start_dim], -1)
        return _FORWARD[type(module)](self, module, x)

    def linear(self, module: nn.Linear, x: Entries) -> Entries:
        return self.graph.linear(x, self.name_of[id(module.weight)])

    def _convolution(self, module: _ConvNd, x: Entries) -> Entries:
        rank = x.ndim - 2
        kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
        if isinstance(module.padding, str):
            spans = [
                d * (k - 1) if module.padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)
            ]
            before, after = [span // 2 for span in spans], [span - span // 2 for span in spans]
        else:
            before = after = list(module.padding)
        if module.padding_mode != "zeros":
            mode = {"circular": "wrap", "reflect": "reflect", "replicate": "edge"}[module.padding_mode]
            x = numpy.pad(x, [(0, 0), (0, 0), *zip(before, after, strict=True)], mode=mode)  # type: ignore[call-overload]
            before = after = [0] * rank
        size = []
        for axis, length in enumerate(x.shape[2:]):
            reach, step = dilation[axis] * (kernel[axis] - 1) + 1, stride[axis]
            if isinstance(module, _ConvTransposeNd):
                size.append(
                    (length - 1) * step - before[axis] - after[axis] + reach + module.output_padding[axis]
                )
            else:
                size.append((length + before[axis] + after[axis] - reach) // step + 1)
        return self.graph.convolution(
            x,
            self.name_of[id(module.weight)],
            stride=stride,
            padding=before,
            dilation=dilation,
            groups=module.groups,
            size=size,
            transposed=isinstance(module, _ConvTransposeNd),
        )

    def multihead(
        self,
        module: nn.MultiheadAttention,
        query: Entries,
        key: Entries,
        value: Entries,
        allowed: Mask | None = None,
    ) -> Entries:
        """(batch, positions, features), or the first two the other way round, as the module is set."""
        if not module.batch_first:
            query, key, value = (x.swapaxes(0, 1) for x in (query, key, value))
        width = module.embed_dim
        if module.in_proj_weight is not None:
            name = self.name_of[id(module.in_proj_weight)]
            weights = [(name, slice(i * width, (i + 1) * width)) for i in range(3)]
        else:
            apart = module.q_proj_weight, module.k_proj_weight, module.v_proj_weight
            weights = [(self.name_of[id(weight)], slice(None)) for weight in apart]
        q, k, v = (
            heads(self.graph.linear(x, *weight), module.num_heads)
            for x, weight in zip((query, key, value), weights, strict=True)
        )
        out = self.linear(module.out_proj, together(self.graph.attention(q, k, v, allowed)))
        return out if module.batch_first else out.swapaxes(0, 1)

    def encoder(self, module: nn.TransformerEncoderLayer, x: Entries, allowed: Mask | None = None) -> Entries:
        """Normalisation before or after: either way it is the identity."""
        x = self.graph.add(x, self.multihead(module.self_attn, x, x, x, allowed))
        return self.graph.add(x, self(module.linear2, self(module.linear1, x)))

    def solve(self, *outputs: Entries) -> Solution:
        return Solution(self.graph, outputs)


def heads(x: Entries, count: int) -> Entries:
    """(batch, positions, features) to (batch, heads, positions, features of a head)."""
    return x.reshape(*x.shape[:2], count, -1).swapaxes(1, 2)


def together(x: Entries) -> Entries:
    """The inverse of `heads`."""
    return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)


def _max_or_average_pool(walk: Walk, module: nn.Module, x: Entries) -> Entries:
    rank = x.ndim - 2
    settings = [
        many(getattr(module, key, default), rank)
        for key, default in (("kernel_size", 1), ("stride", 1), ("padding", 0), ("dilation", 1))
    ]
    found = [
        windows(size, *(setting[axis] for setting in settings), ceil=bool(module.ceil_mode))
        for axis, size in enumerate(x.shape[2:])
    ]
    return walk.graph.pool(x, found)


def _adaptive_pool(walk: Walk, module: nn.Module, x: Entries) -> Entries:
    rank = x.ndim - 2
    sizes = module.output_size if isinstance(module.output_size, tuple) else (module.output_size,) * rank
    found = [
        adaptive_windows(size, size if count is None else count)
        for size, count in zip(x.shape[2:], sizes, strict=True)
    ]
    return walk.graph.pool(x, found)


def _pixel_shuffle(walk: Walk, module: nn.Module, x: Entries) -> Entries:
    assert isinstance(module, nn.PixelShuffle)
    r = module.upscale_factor
    return numpy.moveaxis(numpy.array(x).reshape(-1, r, r, *x.shape[2:]), (1, 2), (2, 4)).reshape(
        1, -1, x.shape[2] * r, x.shape[3] * r
    )


def _upsample(walk: Walk, module: nn.Module, x: Entries) -> Entries:
    assert isinstance(module, nn.Upsample)
    assert module.mode == "nearest"
    return x.repeat(int(module.scale_factor), 2).repeat(int(module.scale_factor), 3)  # type: ignore[arg-type]


def _zero_pad(walk: Walk, module: nn.Module, x: Entries) -> Entries:
    left, right, top, bottom = module.padding  # type: ignore[misc]
    return numpy.pad(x, [(0, 0), (0, 0), (top, bottom), (left, right)], constant_values=NOTHING)


def _channel_shuffle(walk: Walk, module: nn.Module, x: Entries) -> Entries:
    assert isinstance(module, nn.ChannelShuffle)
    return x.reshape(1, module.groups, -1, *x.shape[2:]).swapaxes(1, 2).reshape(x.shape)


def _residual(walk: Walk, m: Residual, x: Entries) -> Entries:
    x = walk(m.stem, x)
    x = walk.graph.add(walk(m.branch, x), walk(m.shortcut, x))
    return walk(m.head, walk.graph.reduce(x, (2, 3)))


def _densely_connected(walk: Walk, m: DenselyConnected, x: Entries) -> Entries:
    x = numpy.concatenate([x, walk(m.first, x)], 1)
    x = numpy.concatenate([x, walk(m.second, x)], 1)
    return walk(m.head, walk.graph.reduce(x, (2, 3)))


def _tied(walk: Walk, m: Tied, tokens: NDArray[numpy.int64]) -> Entries:
    x = walk.graph.reduce(walk.graph.embedding(tokens, walk.name_of[id(m.embed.weight)], 5), (1,))
    return walk(m.head, walk(m.hidden, walk(m.hidden, x)))


def _transformer(walk: Walk, m: Transformer, tokens: NDArray[numpy.int64]) -> Entries:
    x = walk.encoder(m.block, walk.graph.embedding(tokens, None, 8))
    return walk(m.head, walk.graph.reduce(x, (1,)))


def _unused(walk: Walk, m: Unused, x: Entries) -> Entries:
    x = walk(m.first, x)
    walk(m.idle, x)
    return walk(m.head, x)


def _two_layers(walk: Walk, m: Functional | Branching, x: Entries) -> Entries:
    return walk(m.last, walk(m.first, x))


_FORWARD: dict[type, Callable[..., Entries]] = {
    **dict.fromkeys(
        [c for base in (_MaxPoolNd, _AvgPoolNd) for c in base.__subclasses__()], _max_or_average_pool
    ),
    **dict.fromkeys(
        [c for base in (_AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd) for c in base.__subclasses__()],
        _adaptive_pool,
    ),
    nn.PixelShuffle: _pixel_shuffle,
    nn.Upsample: _upsample,
    nn.ZeroPad2d: _zero_pad,
    nn.ChannelShuffle: _channel_shuffle,
    Residual: _residual,
    DenselyConnected: _densely_connected,
    Tied: _tied,
    Transformer: _transformer,
    Unused: _unused,
    Functional: _two_layers,
    Branching: _two_layers,
}


def solved(model: nn.Module, ticket: Ticket | None, example: Tensor | tuple[Tensor, ...]) -> Solution:
    """The oracle on a model: a module this file knows, or one with a method `walked` that says how it is walked."""
    walk = Walk(model, ticket)
    inputs = [
        walk.graph.input(one.shape) if one.is_floating_point() else one.numpy()
        for one in (example if isinstance(example, tuple) else (example,))
    ]
    walked = getattr(model, "walked", None)
    outputs = walked(walk, *inputs) if walked is not None else walk(model, *inputs)
    return walk.solve(*(outputs if isinstance(outputs, tuple) else (outputs,)))


def answer(model: nn.Module, ticket: Ticket | None, example: Tensor | tuple[Tensor, ...]) -> Answer:
    return solved(model, ticket, example).answer()


def as_tensors(effective: dict[str, Mask]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(mask) for name, mask in effective.items()}
