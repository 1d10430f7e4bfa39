"""The path without kernels, for machines without a compiler: the same functions in torch's own operations.

Linear layers multiply int32 CSR matrices with feature-major activations. Nothing in torch makes an unstructured
convolution faster than a dense one, so convolutions are computed dense, from the scattered weight.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from disbud.kernels.layout import Blocked, pack, unpack
from disbud.kernels.pattern import Pattern


def sparse_layer(x: Blocked, values: Tensor, pattern: Pattern, *, bias: Tensor | None, halo: int) -> Blocked:
    """The convolution or linear layer of that pattern."""
    images = unpack(x)
    if not pattern.is_linear:
        weight = pattern.scatter(values)
        y = functional.conv2d(
            images, weight, bias, pattern.stride, pattern.padding, pattern.dilation, pattern.groups
        )
        return pack(y, halo=halo, stored=x.data.dtype)
    features = images.flatten(1).t()
    if torch.backends.mkl.is_available():  # torch multiplies CSR on a CPU with MKL only
        product: Tensor = _CsrProduct.apply(values, features, pattern.mask)  # type: ignore[no-untyped-call]
    else:
        product = pattern.scatter(values) @ features
    if bias is not None:
        product = product + bias[:, None]
    return pack(product.t(), stored=x.data.dtype)


def finished(
    x: Blocked, *, scale: Tensor, shift: Tensor, slope: float, added: Blocked | None, halo: int
) -> Blocked:
    """Scaled and shifted by channel, the sum with another activation, and an activation of that slope below zero."""
    y = unpack(x) * scale[:, None, None] + shift[:, None, None]
    return pack(_activated(y if added is None else y + unpack(added), slope), halo=halo, stored=x.data.dtype)


def _activated(y: Tensor, slope: float) -> Tensor:
    return y if slope == 1 else y.relu() if slope == 0 else functional.leaky_relu(y, slope)


def batch_norm(
    x: Blocked,
    gamma: Tensor,
    beta: Tensor,
    *,
    running: tuple[Tensor, Tensor, float] | None,
    of_batch: bool,
    epsilon: float,
    slope: float,
    pool: int,
    halo: int,
    added: Blocked | None,
) -> Blocked:
    """BatchNorm, a sum, an activation of that slope below zero, and max pooling."""
    mean, variance, momentum = running or (None, None, 0.0)
    y = functional.batch_norm(unpack(x), mean, variance, gamma, beta, of_batch, momentum, epsilon)
    y = y if added is None else y + unpack(added)
    y = _activated(y, slope)
    return pack(y if pool == 1 else functional.max_pool2d(y, pool), halo=halo, stored=x.data.dtype)


def pool(
    kind: str,
    x: Blocked,
    pixels: Sequence[Sequence[Sequence[int]]],
    shares: Sequence[Sequence[float]],
    halo: int,
) -> Blocked:
    """Pooling over the rows and the columns each output takes."""
    images = unpack(x)
    # Columns before rows, and the first of equals: the gradient goes where that of torch's own pooling does.
    for axis, outputs, parts in zip((3, 2), pixels[::-1], shares[::-1], strict=True):
        windows = [images.index_select(axis, torch.tensor(taken)) for taken in outputs]
        images = torch.cat(
            [
                window.max(axis, keepdim=True).values
                if kind == "max"
                else window.sum(axis, keepdim=True) * share
                for window, share in zip(windows, parts, strict=True)
            ],
            axis,
        )
    return pack(images, halo=halo, stored=x.data.dtype)


class _CsrProduct(Function):
    """weight @ x for a CSR weight and feature-major x; the weight's gradient only where it is kept."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, values: Tensor, x: Tensor, mask: Tensor
    ) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(values, x)
        ctx.mask = mask
        return _csr(mask, values) @ x

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[no-untyped-def]
        ctx, gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        values, x = ctx.saved_tensors
        mask: Tensor = ctx.mask
        of_values = of_x = None
        if ctx.needs_input_grad[0]:
            rows, columns = mask.nonzero(as_tuple=True)
            of_values = torch.cat(
                [
                    (gradient[r] * x[c]).sum(1)
                    for r, c in zip(rows.split(_ROWS_AT_ONCE), columns.split(_ROWS_AT_ONCE), strict=True)
                ]
            )
        if ctx.needs_input_grad[1]:
            turned = values.new_zeros(mask.shape).masked_scatter(mask, values).t()
            of_x = _csr(mask.t(), turned[mask.t()]) @ gradient.contiguous()
        return of_values, of_x, None


# Rows gathered at once for the weight gradient: memory stays small beside the activations.
_ROWS_AT_ONCE = 1 << 15


def _csr(mask: Tensor, values: Tensor) -> Tensor:
    starts = torch.zeros(len(mask) + 1, dtype=torch.int32)
    starts[1:] = mask.sum(1).cumsum(0)
    columns = mask.nonzero()[:, 1].int()
    with warnings.catch_warnings():  # that torch calls CSR a beta is nothing a caller of disbud can change
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(starts, columns, values, mask.shape, check_invariants=False)
