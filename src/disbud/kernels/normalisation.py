"""BatchNorm on blocked activations, with the sum, the activation and the pooling that follow it in one pass."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from disbud.errors import DisbudError
from disbud.kernels import plain
from disbud.kernels.layout import Blocked, Layout, check_addable, check_kind, lanes_in_use, with_halo
from disbud.kernels.library import Library, library
from disbud.kernels.memory import empty
from disbud.kernels.structures import CNormalisation

NO_ACTIVATION, RELU = 1.0, 0.0


@dataclass(frozen=True, eq=False)
class Statistics:
    """Running mean and variance, updated in place; `momentum` is the weight of the batch, torch's convention.

    >>> import torch
    >>> from disbud.kernels import Statistics, batch_norm, pack
    >>> running = Statistics(torch.zeros(1), torch.ones(1), momentum=0.5)
    >>> _ = batch_norm(pack(torch.full((4, 1), 3.0)), torch.ones(1), torch.zeros(1), statistics=running)
    >>> running.mean, running.variance
    (tensor([1.5000]), tensor([0.5000]))
    """

    mean: Tensor
    variance: Tensor
    momentum: float = 0.1

    def take(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move towards the batch's mean and its unbiased variance."""
        with torch.no_grad():
            self.mean.lerp_(mean.to(self.mean.dtype), self.momentum)
            unbiased = variance * (count / (count - 1))
            self.variance.lerp_(unbiased.to(self.variance.dtype), self.momentum)


def batch_norm(
    x: Blocked,
    gamma: Tensor,
    beta: Tensor,
    *,
    statistics: Statistics | None,
    use: str = "batch",
    epsilon: float = 1e-5,
    slope: float = NO_ACTIVATION,
    pool: int = 1,
    halo: int = 0,
    added: Blocked | None = None,
) -> Blocked:
    """BatchNorm, then an activation of that slope below zero (0 is a ReLU, 1 none), then `pool` x `pool` max pooling.

    `use` says whose mean and variance: of the "batch" (training; the running ones are updated) or the "running" ones.
    `pool` is 1 or 2. What is `added`, the shortcut of a residual block, is added before the activation; nothing can be
    pooled then. The output has `halo` zero columns between rows.

    >>> import torch
    >>> from disbud.kernels import batch_norm, pack, unpack
    >>> x = torch.randn(5, 4, 6, 6)
    >>> y = batch_norm(pack(x), torch.ones(4), torch.zeros(4), statistics=None, slope=0.0, pool=2)
    >>> wanted = torch.nn.functional.batch_norm(x, None, None, training=True).relu()
    >>> torch.allclose(unpack(y), torch.nn.functional.max_pool2d(wanted, 2), atol=1e-5)
    True
    """
    _check(x, (gamma, beta), statistics, use=use, slope=slope, pool=pool)
    check_addable(added, x.layout, x.data.dtype)
    if added is not None and pool != 1:
        raise DisbudError("a sum cannot be pooled in BatchNorm's pass; use pool=1 and max_pool after it")
    layout = x.layout.with_(size=(x.layout.height // pool, x.layout.width // pool), halo=halo)
    count = x.layout.images * x.layout.height * x.layout.width
    kernels = library(x.data.dtype)
    if kernels is None:
        return plain.batch_norm(
            x,
            gamma,
            beta,
            running=_running(statistics),
            of_batch=use == "batch",
            epsilon=epsilon,
            slope=slope,
            pool=pool,
            halo=halo,
            added=added,
        )
    moments = torch.empty(2, x.layout.channels, dtype=torch.float64)
    if use == "running" and statistics is not None:
        moments.copy_(torch.stack([statistics.mean, statistics.variance]))
    settings = _Settings((x.layout, layout), count, epsilon, slope, pool == 2, use == "batch", kernels)
    other = None if added is None else with_halo(added, halo).data
    data: Tensor = _Normalise.apply(x.data, gamma, beta, other, moments, settings)  # type: ignore[no-untyped-call]
    if use == "batch" and statistics is not None:
        statistics.take(moments[0], moments[1], count)
    return Blocked(data, layout)


@dataclass(frozen=True)
class _Settings:
    layouts: tuple[Layout, Layout]
    count: int
    epsilon: float
    slope: float
    pooled: bool
    of_batch: bool
    kernels: Library

    def structure(self, gamma: Tensor, beta: Tensor) -> CNormalisation:
        return CNormalisation(
            *(tensor.data_ptr() for tensor in (gamma, beta, lanes_in_use(self.layouts[0]))),
            self.count,
            self.epsilon,
            self.slope,
            self.pooled,
            self.of_batch,
            torch.get_num_threads(),
        )


class _Normalise(Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        added: Tensor | None,
        moments: Tensor,
        settings: _Settings,
    ) -> Tensor:
        x, gamma, beta = (tensor.contiguous() for tensor in (x, gamma, beta))
        added = None if added is None else added.contiguous()
        y = empty(settings.layouts[1].shape, x.dtype)
        settings.kernels.normalise(
            settings.layouts, settings.structure(gamma, beta), x=x, added=added, moments=moments, y=y
        )
        # Without an activation the gradient of what is added is that of y itself, and y is not asked.
        ctx.reads_y = added is not None and settings.slope != NO_ACTIVATION
        ctx.save_for_backward(x, gamma, beta, moments, *([y] if ctx.reads_y else []))
        ctx.settings = settings
        return y

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[no-untyped-def]
        ctx, gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, gamma, beta, moments, *outputs = ctx.saved_tensors
        settings: _Settings = ctx.settings
        gradient = gradient.contiguous()
        of_x, of_gamma, of_beta = (
            empty(settings.layouts[0].shape, x.dtype),
            torch.empty_like(gamma),
            torch.empty_like(beta),
        )
        of_added = empty(settings.layouts[1].shape, x.dtype) if ctx.reads_y else None
        settings.kernels.normalise_backward(
            settings.layouts,
            settings.structure(gamma, beta),
            x=x,
            moments=moments,
            y=outputs[0] if ctx.reads_y else None,
            gradient=gradient,
            results=(of_x, of_added, of_gamma, of_beta),
        )
        if ctx.needs_input_grad[3] and of_added is None:
            of_added = gradient
        return of_x, of_gamma, of_beta, of_added if ctx.needs_input_grad[3] else None, None, None


def _running(statistics: Statistics | None) -> tuple[Tensor, Tensor, float] | None:
    return None if statistics is None else (statistics.mean, statistics.variance, statistics.momentum)


def _check(
    x: Blocked,
    affine: tuple[Tensor, Tensor],
    statistics: Statistics | None,
    *,
    use: str,
    slope: float,
    pool: int,
) -> None:
    for tensor in affine:
        check_kind(tensor)
    running = () if statistics is None else (statistics.mean, statistics.variance)
    for tensor in (*affine, *running):
        if tuple(tensor.shape) != (x.layout.channels,):
            raise DisbudError(
                f"BatchNorm of {x.layout.channels} channels was given a vector of shape {tuple(tensor.shape)}"
            )
    if use not in ("batch", "running") or (use == "running" and statistics is None):
        raise DisbudError(
            f"BatchNorm uses the moments of the 'batch', or the 'running' ones where it is given statistics; "
            f"asked was {use!r} with statistics={statistics is not None}"
        )
    if use == "batch" and x.layout.images * x.layout.height * x.layout.width < 2:
        raise DisbudError(
            "one value a channel has no variance; train on more than one image, or use='running'"
        )
    if not (math.isfinite(slope) and slope >= 0) or pool not in (1, 2):
        raise DisbudError(
            f"slope {slope} and pool {pool} cannot be joined to BatchNorm, which takes slopes from 0 on and pools of 1 "
            "or 2; apply them after it"
        )
    if pool > min(x.layout.height, x.layout.width):
        raise DisbudError(f"images of {x.layout.height}x{x.layout.width} cannot be pooled by 2")
