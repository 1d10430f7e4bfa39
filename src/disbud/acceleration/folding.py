"""BatchNorm with running statistics as a part of the layer before it, where no gradients are asked for.

    gamma (w x + b - mean) / sqrt(variance + epsilon) + beta = scale (w x) + shift

with scale = gamma / sqrt(variance + epsilon) and shift = beta + (b - mean) scale. Both are computed anew in each call:
they are as few as the layer has outputs, and follow whatever is done to weights and statistics.
"""

from __future__ import annotations

import torch
from torch import Tensor

from disbud.acceleration.layers import SPARSE, RunLayer
from disbud.acceleration.norms import RunNorm
from disbud.acceleration.signals import Signal, Wish
from disbud.kernels import folded_layer


class RunFolded:
    """The call of a layer and of the BatchNorm, the sum and the ReLU after it, in one pass.

    Where BatchNorm takes the batch's own moments these are two, and `between` is what the first is wished to make.
    """

    def __init__(self, run: RunLayer, between: Wish, norm: RunNorm) -> None:
        self.run = run
        self.between = between
        self.norm = norm

    def __call__(self, wish: Wish, x: object, *added: object) -> object:
        """The output after the last part."""
        if self._folds():
            x = self.run.ready(x)
            made = self._folded(wish, x, *added) if isinstance(x, Signal) else None
            if made is not None:
                return made
        return self.norm(wish, self.run(self.between, x), *added)

    def _folds(self) -> bool:
        return not (torch.is_grad_enabled() or self.norm.is_of_batch) and self.run.layer.kernel == SPARSE

    def _folded(self, wish: Wish, x: Signal, *added: object) -> Signal | None:
        """The output in one pass; None where the other side of the sum does not fit."""
        others = [self.run.addable(x, other) for other in added]
        if None in others:
            return None
        scale, shift = self._scale_and_shift()
        made = folded_layer(
            x.blocked,
            self.run.values(),
            self.run.layer.pattern,
            scale=scale,
            shift=shift,
            slope=self.norm.slope,
            added=next((other.blocked for other in others if other is not None), None),
            halo=self.run.halo(wish, x),
        )
        return self.run.signal(made, x)

    def _scale_and_shift(self) -> tuple[Tensor, Tensor]:
        module, bias = self.norm.module, self.run.bias()
        assert module.running_mean is not None
        assert module.running_var is not None
        gamma, beta = self.norm.affine()
        scale = gamma * (module.running_var + module.eps).rsqrt()
        mean = module.running_mean if bias is None else module.running_mean - bias
        return scale, torch.addcmul(beta, mean, scale, value=-1)
