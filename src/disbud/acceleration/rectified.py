"""ReLU of a signal, and of the sum of two as residual blocks have it, in one pass over memory that is used again.

A ReLU of zero is zero, so that nothing has to be cleared between the rows; torch's own would ask the system for fresh
memory at every step, forward and back.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from disbud.acceleration.signals import Signal, Wish, alike
from disbud.kernels import Blocked, with_halo
from disbud.kernels.memory import empty


def rectified(x: Signal) -> Signal:
    """max(x, 0)."""
    data: Tensor = _Rectified.apply(x.blocked.data, None)  # type: ignore[no-untyped-call]
    return x.with_(Blocked(data, x.blocked.layout))


def rectified_sum(x: Signal, y: Signal) -> Signal:
    """max(x + y, 0), for two signals of one shape and layout but for the halo."""
    halo = max(x.blocked.layout.halo, y.blocked.layout.halo)
    first, second = with_halo(x.blocked, halo), with_halo(y.blocked, halo)
    data: Tensor = _Rectified.apply(first.data, second.data)  # type: ignore[no-untyped-call]
    return x.with_(Blocked(data, first.layout))


class RunRectifiedSum:
    """The call of a sum with the ReLU that follows it; `parts` are the two calls, for anything but two signals."""

    def __init__(self, parts: list[Callable[..., object]]) -> None:
        self.parts = parts

    def __call__(self, wish: Wish, x: object, y: object) -> object:
        """The sum, rectified."""
        if isinstance(x, Signal) and isinstance(y, Signal) and alike(x, y):
            return rectified_sum(x, y)
        return self.parts[1](wish, self.parts[0](wish, x, y))


class _Rectified(Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, x: Tensor, y: Tensor | None
    ) -> Tensor:
        made = empty(tuple(x.shape), x.dtype)
        if y is None:
            torch.clamp_min(x, 0, out=made)
        else:
            torch.add(x, y, out=made).relu_()
        ctx.save_for_backward(made)
        return made

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[no-untyped-def]
        ctx, gradient: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        (made,) = ctx.saved_tensors
        through = empty(tuple(made.shape), made.dtype)
        torch.ops.aten.threshold_backward.grad_input(gradient, made, 0, grad_input=through)
        return through, through if ctx.needs_input_grad[1] else None
