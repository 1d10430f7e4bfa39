"""The singular values of a network's input-output Jacobian: how much it stretches and shrinks what comes in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from disbud.errors import DisbudError
from disbud.measures.pruned import check_batch_norm, hold_batch_statistics, on_model, outputs_of, pruned
from disbud.measures.spectrum import golub_kahan
from disbud.measures.table import Table, Value
from disbud.ticket import Ticket

_EXACT = 512  # so many products make up the whole matrix
_STEPS = 60


def jacobian(
    model: nn.Module,
    inputs: Tensor,
    ticket: Ticket | None = None,
    *,
    steps: int | None = None,
    batch_norm: str = "train",
    seed: int = 0,
) -> Table:
    """For each example of a batch, the largest and the smallest singular value of dy/dx, on the weights kept.

    An n x m matrix has min(n, m) singular values. Where that is at most 512, the matrix is computed and decomposed.
    Else, or where `steps` is given, so many steps of a Golub-Kahan bidiagonalisation (60 by default) give a largest
    value that is at most, and a smallest that is at least, the true one. `method` in the summary says which; `largest`
    and `smallest` there are those over all examples. Derivatives have the model's own precision: in float32, what lies
    below a millionth of the largest is rounding. With `batch_norm="train"` BatchNorm computes with the statistics of
    this batch, held fixed; with "eval" with its running ones.

    >>> import torch
    >>> from disbud.measures import jacobian
    >>> model = torch.nn.Linear(3, 2)
    >>> model.weight.data = torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    >>> print(jacobian(model, torch.ones(1, 3)))
    example  largest  smallest  condition
          0        3         2        1.5
    method: exact
    inputs: 3
    outputs: 2
    largest: 3
    smallest: 2
    """
    check_batch_norm(batch_norm)
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise DisbudError(f"steps is a whole number of at least 1, not {steps!r}")
    # The fused kernels of attention have no second derivative, which products with the matrix itself need.
    with pruned(model, ticket, seed=seed) as run, sdpa_kernel(SDPBackend.MATH):
        batch = on_model(run.model, inputs)
        if not batch.is_floating_point():
            raise DisbudError(
                f"there is no Jacobian by inputs of {batch.dtype}: they should be floating-point"
            )
        if batch_norm == "train":
            hold_batch_statistics(run.model, batch)
        # One at a time, so that no example can act on another.
        found = [_Products(run.model, example).extremes(steps) for example in batch.split(1)]
    rows = [_row(i, one) for i, one in enumerate(found)]
    return Table.of(
        rows,
        {
            "method": found[0].method,
            "inputs": found[0].inputs,
            "outputs": found[0].outputs,
            "largest": max(one.largest for one in found),
            "smallest": min(one.smallest for one in found),
        },
    )


class _Extremes(NamedTuple):
    largest: float
    smallest: float
    method: str
    inputs: int
    outputs: int


def _row(i: int, one: _Extremes) -> dict[str, Value]:
    condition = one.largest / one.smallest if one.smallest else None
    return {"example": i, "largest": one.largest, "smallest": one.smallest, "condition": condition}


class _Products:
    """The Jacobian J of one example, known by its products with vectors; in and out in float64 on the CPU."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.x = example.detach().requires_grad_()
        self.y = outputs_of(model, self.x).reshape(-1)
        self.inputs, self.outputs = self.x.numel(), self.y.numel()
        self.side = min(self.inputs, self.outputs)

    def transposed(self, vector: Tensor) -> Tensor:
        """J^T v."""
        return self._flat(self._grad(self.y, self.x, vector.to(self.y)), self.inputs)

    def forward(self, vector: Tensor) -> Tensor:
        """J v: J^T u is linear in u, so its derivative by u, applied to v, is J v."""
        u = torch.zeros_like(self.y, requires_grad=True)
        image = self._grad(self.y, self.x, u, create_graph=True)
        if image is None:
            return torch.zeros(self.outputs, dtype=torch.float64)
        return self._flat(self._grad(image, u, vector.to(self.x).view_as(self.x)), self.outputs)

    def extremes(self, steps: int | None) -> _Extremes:
        """The largest and the smallest singular value."""
        along, back = self.forward, self.transposed
        if self.outputs <= self.inputs:
            # From the shorter side: from the longer one, the null space would pass for small singular values.
            along, back = back, along
        if steps is None and self.side <= _EXACT:
            matrix = torch.stack([along(unit) for unit in torch.eye(self.side, dtype=torch.float64)])
            values, method = torch.linalg.svdvals(matrix), "exact"
        else:
            used = min(steps or _STEPS, self.side)
            values, method = golub_kahan(along, back, self.side, used)[0], f"Golub-Kahan, {used} steps"
        return _Extremes(float(values.max()), float(values.min()), method, self.inputs, self.outputs)

    def _grad(self, of: Tensor, by: Tensor, vector: Tensor, *, create_graph: bool = False) -> Tensor | None:
        """Of the outputs, contracted with the vector; None where they do not depend on it."""
        if not of.requires_grad:
            return None
        return torch.autograd.grad(
            of, by, vector, retain_graph=True, create_graph=create_graph, allow_unused=True
        )[0]

    def _flat(self, found: Tensor | None, size: int) -> Tensor:
        if found is None:
            return torch.zeros(size, dtype=torch.float64)
        return found.detach().reshape(-1).cpu().double()
