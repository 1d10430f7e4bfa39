"""The trace of the neural tangent kernel: how far a small step of training moves the outputs (Jacot et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from disbud.errors import DisbudError
from disbud.measures.pruned import (
    Pruned,
    check_batch_norm,
    hold_batch_statistics,
    on_model,
    outputs_of,
    pruned,
)
from disbud.measures.table import Table, Value
from disbud.seeds import generator
from disbud.ticket import Ticket

_EXACT = 1000  # so many outputs of examples are differentiated one by one
_PROBES = 64
_REST = "other parameters"


def tangent_kernel(
    model: nn.Module,
    inputs: Tensor,
    ticket: Ticket | None = None,
    *,
    probes: int | None = None,
    batch_norm: str = "train",
    seed: int = 0,
) -> Table:
    """The trace of the neural tangent kernel a mean example, and what each layer's kept weights add to it.

    The trace is the mean over examples of the sum over outputs k of |dy_k/dtheta|^2, theta being what is trained: kept
    weights, biases and normalisation (one row for all of these), but no frozen parameter. Where the batch has at most
    1,000 outputs in all it is exact; else, or where `probes` is given, it is Hutchinson's estimate (64 probes by
    default): the mean of |J^T v|^2 over seeded random signs v, with its standard error. With `batch_norm="train"`
    BatchNorm computes with the statistics of this batch, held fixed; with "eval" with its running ones.

    >>> import torch
    >>> from disbud.measures import tangent_kernel
    >>> table = tangent_kernel(torch.nn.Linear(3, 2), torch.tensor([[1.0, 2.0, 2.0]]))
    >>> table["layer"], table["trace"], table.summary["trace"]
    (('weight', 'other parameters'), (18.0, 2.0), 20.0)
    """
    check_batch_norm(batch_norm)
    if probes is not None and (isinstance(probes, bool) or not isinstance(probes, int) or probes < 2):
        raise DisbudError(f"probes is a whole number of at least 2, for a standard error, not {probes!r}")
    with pruned(model, ticket, seed=seed) as run:
        if not run.trained:
            raise DisbudError("every parameter of the model is frozen, so it has no tangent kernel")
        batch = on_model(run.model, inputs)
        if batch_norm == "train":
            hold_batch_statistics(run.model, batch)
        outputs = outputs_of(run.model, batch)
        exact = probes is None and outputs.numel() <= _EXACT
        squares = _exact(run, batch) if exact else _hutchinson(run, outputs, probes or _PROBES, seed=seed)
        squares /= len(batch)
        layers = _layers(run)
    parts = {layer: squares[:, columns].sum(1) for layer, columns in layers.items()}
    total, error = _estimate(squares.sum(1))
    rows = [_row(layer, part, total) for layer, part in parts.items()]
    summary: dict[str, Value] = {
        "method": "exact" if exact else f"Hutchinson, {len(squares)} probes",
        "examples": len(batch),
        "outputs": outputs.shape[1],
        "trace": total,
        "standard_error": error,
    }
    return Table.of(rows, summary)


def _exact(run: Pruned, batch: Tensor) -> Tensor:
    """|dy_k/dtheta|^2 summed over examples and outputs, a column a parameter."""
    total = torch.zeros(1, len(run.trained), dtype=torch.float64)
    for i in range(len(batch)):
        (output,) = outputs_of(run.model, batch[i : i + 1])
        for one in output:
            total += _squares(run, one, torch.ones_like(one))
    return total


def _hutchinson(run: Pruned, outputs: Tensor, probes: int, *, seed: int) -> Tensor:
    """|J^T v|^2 for each probe v, a column a parameter."""
    stream = generator(seed, "probes of the tangent kernel")
    found = []
    for _ in range(probes):
        signs = torch.randint(0, 2, outputs.shape, generator=stream) * 2 - 1
        found.append(_squares(run, outputs, signs.to(outputs)))
    return torch.stack(found)


def _squares(run: Pruned, of: Tensor, vector: Tensor) -> Tensor:
    """The squared norm of each parameter's part of J^T v, over what is kept of it."""
    if not of.requires_grad:
        raise DisbudError("the output does not depend on any parameter that is trained")
    gradients = torch.autograd.grad(
        of, list(run.trained.values()), vector, retain_graph=True, allow_unused=True
    )
    squares = torch.zeros(len(run.trained), dtype=torch.float64)
    for i, (name, gradient) in enumerate(zip(run.trained, gradients, strict=True)):
        if gradient is not None:
            part = run.kept(name, gradient) if name in run.weights else gradient.detach().cpu().double()
            squares[i] = part.square().sum()
    return squares


def _layers(run: Pruned) -> dict[str, list[int]]:
    """The columns of each layer's weight, and of all else."""
    layers: dict[str, list[int]] = {}
    for i, name in enumerate(run.trained):
        layers.setdefault(name if name in run.weights else _REST, []).append(i)
    rest = layers.pop(_REST, None)
    return layers if rest is None else {**layers, _REST: rest}


def _row(layer: str, part: Tensor, total: float) -> dict[str, Value]:
    trace, error = _estimate(part)
    return {
        "layer": layer,
        "trace": trace,
        "standard_error": error,
        "share": trace / total if total else None,
    }


def _estimate(samples: Tensor) -> tuple[float, float | None]:
    """The mean and its standard error; an exact value has none."""
    error = float(samples.std()) / len(samples) ** 0.5 if len(samples) > 1 else None
    return float(samples.mean()), error
