"""The extreme singular values of a matrix that is too large to decompose, or known only by its products."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from disbud.seeds import generator

_EXACT = 1024  # matrices with a side of at most so many are decomposed outright
_STEPS = 150

Product = Callable[[Tensor], Tensor]


def two_largest(matrix: Tensor) -> tuple[float, float]:
    """The two largest singular values of a float64 matrix; the second is 0 where there is none."""
    matrix = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    side = matrix.shape[1]
    if side <= _EXACT:
        squares = torch.linalg.eigvalsh(matrix.T @ matrix).clamp_(min=0)
        # Squaring leaves rounding of this size where the value is 0.
        squares[squares <= squares[-1] * max(matrix.shape) * torch.finfo(torch.float64).eps] = 0
        values = squares.sqrt().tolist()
        return values[-1], values[-2] if side > 1 else 0.0
    values, vectors = golub_kahan(matrix.mv, matrix.T.mv, side, _STEPS)
    # Without its leading pair the matrix shows a second value, also where both are equal.
    first = vectors[:, 0]
    image = matrix.mv(first)

    def deflated(v: Tensor) -> Tensor:
        return matrix.mv(v) - image * first.dot(v)

    def transposed(u: Tensor) -> Tensor:
        return matrix.T.mv(u) - first * image.dot(u)

    rest, _ = golub_kahan(deflated, transposed, side, _STEPS)
    return float(values[0]), float(rest[0])


def golub_kahan(apply: Product, transposed: Product, side: int, steps: int) -> tuple[Tensor, Tensor]:
    """Approximate singular values, largest first, and right singular vectors, of a matrix with `side` columns.

    Golub-Kahan bidiagonalisation with full re-orthogonalisation, from a fixed random start. The largest value found is
    at most the true one, the smallest at least the true one as long as the matrix has no more columns than rows; after
    `side` steps both are exact, each multiple value coming once.
    """
    v = torch.randn(side, dtype=torch.float64, generator=generator(0, "start of a bidiagonalisation"))
    v /= v.norm()
    right: list[Tensor] = [v]
    left: list[Tensor] = []
    diagonal: list[float] = []
    above: list[float] = []
    for step in range(min(steps, side)):
        u, alpha = _new_direction(apply(right[-1]), left)
        scale = max([alpha, *diagonal])
        diagonal.append(alpha)
        if alpha <= 1e-14 * scale:
            break
        left.append(u)
        v, beta = _new_direction(transposed(u), right)
        if beta <= 1e-14 * scale or step == min(steps, side) - 1:
            break
        above.append(beta)
        right.append(v)
    size = len(diagonal)
    small = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if size > 1:
        small += torch.diag(torch.tensor(above[: size - 1], dtype=torch.float64), 1)
    _, values, vectors = torch.linalg.svd(small)
    return values, torch.stack(right[:size], 1) @ vectors.T


def _new_direction(vector: Tensor, basis: list[Tensor]) -> tuple[Tensor, float]:
    """The part of the vector outside the basis, at unit length, and its length. Twice is enough (Kahan)."""
    if basis:
        known = torch.stack(basis)
        for _ in range(2):
            vector = vector - known.T @ (known @ vector)
    length = float(vector.norm())
    return (vector / length if length else vector), length
