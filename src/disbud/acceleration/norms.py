"""BatchNorm on signals, in one pass with the sum, the ReLU and the 2x2 max pooling that follow it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from disbud.acceleration.signals import Signal, Wish, as_signal
from disbud.kernels import Statistics, batch_norm
from disbud.kernels.normalisation import NO_ACTIVATION

Call = Callable[..., object]


class RunNorm:
    """The call of a BatchNorm, with the sum after it, the slope of its activation and the size of its pooling.

    `parts` are the same calls one by one, for an input that is an ordinary tensor.
    """

    def __init__(
        self,
        module: _BatchNorm,
        parts: list[Call],
        *,
        slope: float = NO_ACTIVATION,
        pool: int = 1,
        is_summed: bool = False,
    ) -> None:
        self.module = module
        self.parts = parts
        self.slope = slope
        self.pool = pool
        self.is_summed = is_summed

    def __call__(self, wish: Wish, x: object, *added: object) -> object:
        """The output after the last part, to which the other side of the sum is given where there is one."""
        if not isinstance(x, Signal):
            return self._one_by_one(wish, x, *added)
        if x.is_flattened:
            x = Signal.of(x.plain(), stored=x.stored)
        others = [as_signal(other, tuple(x.size), x.blocked.layout, stored=x.stored) for other in added]
        if None in others:
            return self._one_by_one(wish, x, *added)
        # What is added is never copied for the sake of its halo; whoever reads the sum may get more than it wishes.
        halos = [other.blocked.layout.halo for other in others if other is not None]
        gamma, beta = self.affine()
        size = (x.pixels[0] // self.pool, x.pixels[1] // self.pool)
        made = batch_norm(
            x.blocked,
            gamma,
            beta,
            statistics=self._statistics(),
            use="batch" if self.is_of_batch else "running",
            epsilon=self.module.eps,
            slope=self.slope,
            pool=self.pool,
            halo=max([wish.halo(size), *halos]),
            added=next((other.blocked for other in others if other is not None), None),
        )
        spatial = () if len(x.shape) == 1 else size[3 - len(x.shape) :]
        return Signal(made, (x.shape[0], *spatial))

    @property
    def is_of_batch(self) -> bool:
        """Whether mean and variance are the batch's own."""
        return self.module.training or self.module.running_mean is None

    def _one_by_one(self, wish: Wish, x: object, *added: object) -> object:
        first, *rest = self.parts
        x = first(wish, x)
        if self.is_summed:
            x = rest.pop(0)(wish, x, *added)
        for part in rest:
            x = part(wish, x)
        return x

    def affine(self) -> tuple[Tensor, Tensor]:
        """Gamma and beta, also of a BatchNorm that has none."""
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
