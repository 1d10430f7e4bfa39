"""Convolution and BatchNorm whose second derivatives cost about what their first ones do; those of torch cost more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Operation = Callable[..., object]
_CONVOLUTIONS: dict[object, int] = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}


class TwiceDifferentiable(TorchFunctionMode):
    """Inside the block these layers are computed so that their gradients are cheap to differentiate once more.

    A call that is out of the ordinary (named padding, no batch axis, half-precision BatchNorm, ...) is left to torch.
    """

    def __torch_function__(
        self,
        func: Operation,
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func is functional.batch_norm:
            return _batch_norm(*args, **kwargs)  # type: ignore[arg-type]
        if func in _CONVOLUTIONS:
            return _convolution(func, *args, **kwargs)  # type: ignore[arg-type]
        return func(*args, **kwargs)


class _Context(Protocol):
    """What autograd hands from a function's forward to its backward."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]
    how: _How
    eps: float

    def save_for_backward(self, *tensors: Tensor) -> None: ...


_How = tuple[
    list[int], list[int], list[int], bool, list[int], int
]  # stride, padding, dilation, transposed, ., groups


def _convolution(
    func: Operation,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Iterable[int] = 1,
    padding: int | Iterable[int] | str = 0,
    dilation: int | Iterable[int] = 1,
    groups: int = 1,
) -> object:
    n = _CONVOLUTIONS[func]
    if isinstance(padding, str) or input.dim() != n + 2 or (bias is not None and bias.requires_grad):
        return func(input, weight, bias, stride, padding, dilation, groups)
    how: _How = (_each(stride, n), _each(padding, n), _each(dilation, n), False, [0] * n, groups)
    return _Convolution.apply(input, weight, bias, how)  # type: ignore[no-untyped-call]


def _each(value: int | Iterable[int], n: int) -> list[int]:
    sizes = [value] if isinstance(value, int) else list(value)
    return sizes * n if len(sizes) == 1 else sizes


def _gradients(
    dy: Tensor, x: Tensor, w: Tensor, how: _How, *, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    by_x, by_w, _ = torch.ops.aten.convolution_backward(dy, x, w, None, *how, [*wanted, False])
    return by_x, by_w


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, x: Tensor, w: Tensor, bias: Tensor | None, how: _How) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.how = how
        return torch.convolution(x, w, bias, *how)

    @staticmethod
    def backward(ctx: _Context, dy: Tensor) -> tuple[Tensor | None, ...]:
        by_x, by_w = _ConvolutionGradient.apply(dy, *ctx.saved_tensors, ctx.how, ctx.needs_input_grad[:2])  # type: ignore[no-untyped-call]
        return by_x, by_w, None, None


class _ConvolutionGradient(torch.autograd.Function):
    """x and w by dy; both are bilinear, so that each second derivative is again a convolution or a gradient of one."""

    @staticmethod
    def forward(
        ctx: _Context, dy: Tensor, x: Tensor, w: Tensor, how: _How, wanted: tuple[bool, bool]
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(dy, x, w)
        ctx.how = how
        ctx.set_materialize_grads(False)  # type: ignore[attr-defined]
        return _gradients(dy, x, w, how, wanted=wanted)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, cx: Tensor | None, cw: Tensor | None) -> tuple[Tensor | None, ...]:
        dy, x, w = ctx.saved_tensors
        by_dy = by_x = by_w = None
        if ctx.needs_input_grad[0]:
            parts = [(x, cw), (cx, w)]
            found = [
                torch.convolution(a, b, None, *ctx.how) for a, b in parts if a is not None and b is not None
            ]
            by_dy = found[0] if len(found) == 1 else found[0].add_(found[1]) if found else None
        if ctx.needs_input_grad[1] and cw is not None:
            by_x = _gradients(dy, x, cw, ctx.how, wanted=(True, False))[0]
        if ctx.needs_input_grad[2] and cx is not None:
            by_w = _gradients(dy, cx, w, ctx.how, wanted=(False, True))[1]
        return by_dy, by_x, by_w, None, None


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,  # noqa: FBT001
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> object:
    single = (
        input.dtype in (torch.float32, torch.float64) and weight is not None and weight.dtype == input.dtype
    )
    constant = not any(p is not None and p.requires_grad for p in (weight, bias))
    spread = input.numel() > input.shape[1]  # one number a channel has none, which torch says
    if not (training and single and constant and spread):
        return functional.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return _BatchNorm.apply(input, weight, bias, eps)  # type: ignore[no-untyped-call]


class _BatchNorm(torch.autograd.Function):
    """On the batch's own statistics, with constant gamma and beta; running statistics are not kept."""

    @staticmethod
    def forward(ctx: _Context, x: Tensor, gamma: Tensor, beta: Tensor | None, eps: float) -> Tensor:
        y, mean, s = torch.native_batch_norm(x, gamma, beta, None, None, True, 0.0, eps)
        ctx.save_for_backward(x, gamma, mean, s)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: _Context, dy: Tensor) -> tuple[Tensor | None, ...]:
        by_x: Tensor = _BatchNormGradient.apply(dy, *ctx.saved_tensors, ctx.eps)  # type: ignore[no-untyped-call]
        return by_x, None, None, None


class _BatchNormGradient(torch.autograd.Function):
    """gamma s P(dy), where s = 1/sqrt(var + eps), h = s (x - mean), P(v) = v - mean(v) - h mean(v h), means by channel.

    For c coming in, the derivative by dy is gamma s P(c), since P is symmetric. With a = mean(dy h), b = mean(c h) and
    k = mean(c dy) - mean(c) mean(dy) - a b, the derivative by x is
    -gamma s^2 ((k - 2 a b) h + b (dy - mean(dy)) + a (c - mean(c))).
    """

    @staticmethod
    def forward(
        ctx: _Context, dy: Tensor, x: Tensor, gamma: Tensor, mean: Tensor, s: Tensor, eps: float
    ) -> Tensor:
        by_x, sum_dy_h, sum_dy = _projected(dy, x, gamma, mean, s, eps)
        ctx.save_for_backward(dy, x, gamma, mean, s, sum_dy_h, sum_dy)
        ctx.eps = eps
        return by_x

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, c: Tensor) -> tuple[Tensor | None, ...]:
        dy, x, gamma, mean, s, sum_dy_h, sum_dy = ctx.saved_tensors
        by_dy, sum_c_h, sum_c = _projected(c, x, gamma, mean, s, ctx.eps)
        n = x.numel() // x.shape[1]
        a, b, mean_dy, mean_c = sum_dy_h / n, sum_c_h / n, sum_dy / n, sum_c / n
        k = (c * dy).transpose(0, 1).flatten(1).mean(1) - mean_c * mean_dy - a * b
        scale = -gamma * s * s
        of_x = scale * (k - 2 * a * b) * s
        constant = -(of_x * mean + scale * (b * mean_dy + a * mean_c))
        columns = [v.view(-1, *[1] * (x.dim() - 2)) for v in (constant, of_x, scale * b, scale * a)]
        by_x = torch.addcmul(columns[0], x, columns[1]).addcmul_(dy, columns[2]).addcmul_(c, columns[3])
        return by_dy, by_x, None, None, None, None


def _projected(
    v: Tensor, x: Tensor, gamma: Tensor, mean: Tensor, s: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """gamma s P(v), sum(v h) and sum(v) by channel, in torch's one pass for BatchNorm's gradients."""
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm_backward(
        v, x, gamma, None, None, mean, s, True, eps, [True, True, True]
    )
    return found
