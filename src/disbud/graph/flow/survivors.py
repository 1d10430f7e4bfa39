"""theta * dR/dtheta of the weights still kept, at a cost that follows how many are kept, not how many there were.

A layer with few survivors is a sparse matrix. A fuller one on a small signal is bound by memory: its weights do not fit
the cache, and there is little to compute with each. So its gradient is made a few rows at a time, next to the weights
it is multiplied with, and only what the survivors get is stored.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_BLOCK = (
    1 << 17
)  # entries of a weight that are worked on together: with as much again for their gradient, half a cache
_FEW = 32  # a convolution to so few positions costs little more than reading its weights
_SOME = 256  # with survivors few enough, so does one to so many
_SPARSE = 0.2  # the density from which on a sparse product is faster than a dense one
_WIDTH = 16  # columns that a sampled product works on together


class Survivors:
    """The scores of weights `theta` at some positions in each (None: at all), collected wherever they are used."""

    def __init__(self, theta: Mapping[str, Tensor], positions: Mapping[str, Tensor] | None) -> None:
        self._theta = dict(theta)
        self._positions = positions
        self._names = {id(leaf): name for name, leaf in theta.items()}
        self._scores: dict[str, Tensor] = {}

    def prefers_product(self, weight: Tensor, columns: int) -> bool:
        """Whether a convolution to so many positions is better done as a matrix product with its unfolded input."""
        return columns <= (_SOME if self._is_sparse(weight) else _FEW)

    def product(self, rows: Tensor, weight: Tensor) -> Tensor:
        """rows @ weight^T, a weight of more dimensions taken as a matrix of its first one."""
        if id(weight) not in self._names or not weight.numel():
            return functional.linear(rows, weight.flatten(1))
        flat = rows.reshape(-1, rows.shape[-1])
        output: Tensor
        if self._is_sparse(weight):
            output = _SparseProduct.apply(flat.t().contiguous(), weight, self).t()  # type: ignore[no-untyped-call]
        else:
            output = _Product.apply(flat, weight, self)  # type: ignore[no-untyped-call]
        return output.reshape(*rows.shape[:-1], len(weight))

    def scores(self, total: Tensor) -> dict[str, Tensor]:
        """theta * d total / d theta; zero where the total does not depend on it."""
        with self._collecting():
            torch.autograd.backward(total, inputs=list(self._theta.values()))
        for name, leaf in self._theta.items():
            if name not in self._scores:
                shape = leaf.shape if self._positions is None else self._positions[name].shape
                self._scores[name] = torch.zeros(shape, dtype=leaf.dtype, device=leaf.device)
        return {name: self._scores[name] for name in self._theta}

    def add(self, weight: Tensor, found: Tensor) -> None:
        """Note scores of a weight's survivors, on top of those it has from other uses."""
        name = self._names[id(weight)]
        self._scores[name] = self._scores[name].add_(found) if name in self._scores else found

    def positions(self, weight: Tensor) -> Tensor | None:
        """Where a weight's survivors are; None where all of it survives."""
        return None if self._positions is None else self._positions[self._names[id(weight)]]

    def _is_sparse(self, weight: Tensor) -> bool:
        known = (
            id(weight) in self._names and weight.device.type == "cpu" and torch.backends.mkl.is_available()
        )
        positions = self.positions(weight) if known else None
        return positions is not None and len(positions) < _SPARSE * weight.numel()

    @contextlib.contextmanager
    def _collecting(self) -> Iterator[None]:
        """Take each gradient that autograd makes as soon as it is there."""

        def take(leaf: Tensor) -> None:
            if leaf.grad is None:  # all of its uses were products
                return
            found, leaf.grad = leaf.grad.mul_(leaf.detach()), None
            positions = self.positions(leaf)
            self.add(leaf, found if positions is None else found.reshape(-1).index_select(0, positions))

        handles = [leaf.register_post_accumulate_grad_hook(take) for leaf in self._theta.values()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class _Product(torch.autograd.Function):
    """rows @ weight^T, the weight's gradient not made whole."""

    @staticmethod
    def forward(ctx, rows, weight, survivors):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(rows, weight)
        ctx.survivors = survivors
        return functional.linear(rows, weight.flatten(1))

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        rows, weight = ctx.saved_tensors
        into_rows, scores = _by_blocks(
            rows, weight.detach().flatten(1), gradient, ctx.survivors.positions(weight)
        )
        ctx.survivors.add(weight, scores if scores.dim() == 1 else scores.view(weight.shape))
        return into_rows, None, None


def _by_blocks(
    rows: Tensor, matrix: Tensor, gradient: Tensor, positions: Tensor | None
) -> tuple[Tensor, Tensor]:
    """gradient @ matrix, and matrix * (gradient^T @ rows) at the positions."""
    n_out, n_in = matrix.shape
    step = max(1, _BLOCK // n_in)
    starts = range(0, n_out, step)
    into_rows = torch.zeros_like(rows)
    scores = torch.empty_like(matrix) if positions is None else matrix.new_empty(len(positions))
    ends = [] if positions is None else _row_bounds(positions, matrix, step)[1:].tolist()
    begin = 0
    for i, start in enumerate(starts):
        block, part = matrix[start : start + step], gradient[:, start : start + step]
        into_rows.addmm_(part, block)
        if positions is None:
            torch.mm(part.t(), rows, out=scores[start : start + step]).mul_(block)
            continue
        found = torch.mm(part.t(), rows).mul_(block)
        inside = positions[begin : ends[i]] - start * n_in
        torch.index_select(found.view(-1), 0, inside, out=scores[begin : ends[i]])
        begin = ends[i]
    return into_rows, scores


def _row_bounds(positions: Tensor, matrix: Tensor, step: int = 1) -> Tensor:
    """How many positions come before every so many rows of a matrix, and before its end."""
    starts = torch.tensor([*range(0, matrix.numel(), step * matrix.shape[1]), matrix.numel()])
    return torch.searchsorted(positions, starts.to(positions))


class _SparseProduct(torch.autograd.Function):
    """weight @ columns with only the survivors of the weight."""

    @staticmethod
    def forward(ctx, columns, weight, survivors):  # type: ignore[no-untyped-def]
        ctx.matrix = _compressed(weight.detach().flatten(1), survivors.positions(weight))
        ctx.columns, ctx.weight, ctx.survivors = columns, weight, survivors
        return ctx.matrix @ columns

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        from scipy.sparse import csr_array

        matrix, columns, gradient = ctx.matrix, ctx.columns, gradient.contiguous()
        parts = (matrix.values().numpy(), matrix.col_indices().numpy(), matrix.crow_indices().numpy())
        # torch would build the transpose first; scipy reads the matrix by rows for this as well.
        into_columns = torch.from_numpy(csr_array(parts, shape=matrix.shape).T @ gradient.numpy())
        padding = (0, -gradient.shape[1] % _WIDTH)
        left, right = functional.pad(gradient, padding), functional.pad(columns, padding)
        sampled = torch.sparse.sampled_addmm(matrix, left, right.t(), beta=0).values()
        ctx.survivors.add(ctx.weight, sampled.mul_(matrix.values()))
        return into_columns, None, None


def _compressed(matrix: Tensor, positions: Tensor) -> Tensor:
    """The entries of a matrix at the positions, as compressed rows."""
    bounds = _row_bounds(positions, matrix)
    offsets = np.repeat(
        np.arange(0, matrix.numel(), matrix.shape[1], dtype=np.int32), np.diff(bounds.numpy())
    )
    columns = positions - torch.from_numpy(offsets)
    values = matrix.reshape(-1).index_select(0, positions)
    with warnings.catch_warnings():  # "in beta state"
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(bounds.to(torch.int32), columns, values, matrix.shape)
