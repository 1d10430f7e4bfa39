"""BatchNorm on signals, in one pass with the ReLU and the 2x2 max pooling that follow it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from disbud.acceleration.signals import Signal, Wish
from disbud.kernels import Statistics, batch_norm
from disbud.kernels.normalisation import NO_ACTIVATION

Call = Callable[..., object]


class RunNorm:
    """The call of a BatchNorm, with the slope of the activation after it and the size of the pooling after that.

    `parts` are the same calls one by one, for an input that is an ordinary tensor.
    """

    def __init__(
        self, module: _BatchNorm, parts: list[Call], *, slope: float = NO_ACTIVATION, pool: int = 1
    ) -> None:
        self.module = module
        self.parts = parts
        self.slope = slope
        self.pool = pool

    def __call__(self, wish: Wish, x: object) -> object:
        """The output after the last part."""
        if not isinstance(x, Signal):
            for part in self.parts:
                x = part(wish, x)
            return x
        if x.is_flattened:
            x = Signal.of(x.plain())
        of_batch = self.module.training or self.module.running_mean is None
        gamma, beta = self._affine()
        size = (x.pixels[0] // self.pool, x.pixels[1] // self.pool)
        made = batch_norm(
            x.blocked,
            gamma,
            beta,
            statistics=self._statistics(),
            use="batch" if of_batch else "running",
            epsilon=self.module.eps,
            slope=self.slope,
            pool=self.pool,
            halo=wish.halo(size),
        )
        spatial = () if len(x.shape) == 1 else size[3 - len(x.shape) :]
        return Signal(made, (x.shape[0], *spatial))

    def _affine(self) -> tuple[Tensor, Tensor]:
        channels = self.module.num_features
        gamma, beta = self.module.weight, self.module.bias
        return (
            torch.ones(channels) if gamma is None else gamma,
            torch.zeros(channels) if beta is None else beta,
        )

    def _statistics(self) -> Statistics | None:
        """The running statistics, counted as torch counts them."""
        module = self.module
        mean, variance = module.running_mean, module.running_var
        if mean is None or variance is None:
            return None
        momentum = module.momentum
        if module.training and module.num_batches_tracked is not None:
            module.num_batches_tracked.add_(1)
            if momentum is None:  # the average of all batches
                momentum = 1.0 / float(module.num_batches_tracked)
        return Statistics(mean, variance, 0.0 if momentum is None else momentum)
