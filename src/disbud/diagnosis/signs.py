"""What can be read off a pruned network, before training, that forecasts how it will train."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from disbud import measures
from disbud.isolation import (
    Example,
    bare,
    device_of,
    forward,
    isolated,
    leaves,
    on_device,
    standing_in,
    to_write_on,
)
from disbud.measures import Table
from disbud.origin import Json
from disbud.parameters import parameters
from disbud.seeds import generator
from disbud.ticket import Ticket

_INPUTS = 32  # random inputs that the gradient is taken on, where none are given


@dataclass(frozen=True)
class Signs:
    """The measures of one ticket that the forecast looks at; of the dense network where there is no ticket.

    `gradient` is the norm of the derivative of a random projection of the outputs by the kept weights. `paths` and
    `cost` are the tables of these measures, `multiply_adds` what is left of the dense ones once dead channels are gone.
    """

    kept: int
    sparsity: float
    effective_sparsity: float
    empty_layers: tuple[str, ...]
    dead_units: float
    log10_paths: float
    nodes: int
    gradient: float
    multiply_adds: float
    paths: Table
    cost: Table

    @property
    def effective(self) -> float:
        """Of the weights kept, the fraction that lies on a path."""
        return (1 - self.effective_sparsity) / (1 - self.sparsity) if self.sparsity < 1 else 0.0

    def to_json(self) -> dict[str, Json]:
        """The numbers as plain JSON values, without the tables."""
        return {
            "kept": self.kept,
            "sparsity": self.sparsity,
            "effective_sparsity": self.effective_sparsity,
            "empty_layers": list(self.empty_layers),
            "dead_units": self.dead_units,
            "log10_paths": self.log10_paths,
            "nodes": self.nodes,
            "gradient": self.gradient,
            "multiply_adds": self.multiply_adds,
        }


def signs(
    model: nn.Module,
    ticket: Ticket | None,
    *,
    example: Example,
    inputs: Example | None = None,
    seed: int = 0,
) -> Signs:
    """Read the signs off a model and its ticket; `inputs` are real ones for the gradient, else Gaussian ones stand in.

    >>> import disbud, torch
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> ticket = disbud.prune(model, "synflow", sparsity=0.5, example=torch.zeros(1, 8))
    >>> read = disbud.diagnosis.signs(model, ticket, example=torch.zeros(1, 8))
    >>> read.kept, read.empty_layers, read.effective
    (40, (), 1.0)
    """
    paths = measures.paths(model, ticket, example=example)
    cost = measures.cost(model, ticket, example=example)
    rows = list(paths)
    units = sum(_whole(row["outputs"]) for row in rows)
    dense, live = _whole(cost.multiply_adds), _whole(cost.multiply_adds_live)
    return Signs(
        kept=_whole(cost.kept),
        sparsity=float(paths.sparsity or 0.0),
        effective_sparsity=float(paths.effective_sparsity or 0.0),
        empty_layers=tuple(str(row["layer"]) for row in rows if row["weights"] and not row["kept"]),
        dead_units=sum(_whole(row["dead_outputs"]) for row in rows) / units if units else 0.0,
        log10_paths=float(-math.inf if paths.log10_paths is None else paths.log10_paths),
        nodes=_whole(paths.nodes),
        gradient=_gradient(model, ticket, inputs if inputs is not None else _inputs(example, seed), seed),
        multiply_adds=live / dense if dense else 1.0,
        paths=paths,
        cost=cost,
    )


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def _inputs(example: Example, seed: int) -> Example:
    """Gaussian inputs like the example; of token ids and of several inputs, the example itself."""
    if not isinstance(example, Tensor) or not example.is_floating_point() or example.dim() < 2:
        return example
    stream = generator(seed, "inputs of the forecast")
    return torch.randn(_INPUTS, *example.shape[1:], generator=stream).to(example.dtype)


def _gradient(model: nn.Module, ticket: Ticket | None, inputs: Example, seed: int) -> float:
    model = bare(model)
    masks = {} if ticket is None else ticket.masks
    owned = {name: p.detach() for name, p in parameters(model).items() if p.is_floating_point()}
    weights = {
        name: (
            value.masked_fill(~masks[name].to(value.device), 0) if name in masks else value
        ).requires_grad_()
        for name, value in owned.items()
        if value.dim() > 1
    }
    several = isinstance(inputs, Tensor) and len(inputs) > 1
    with (
        isolated(model, seed=seed, batch_norm="train" if several else "eval"),
        standing_in(model, {**owned, **weights}),
    ):
        # A copy, since a model may write to what it is given.
        outputs = forward(model, to_write_on(on_device(inputs, device_of(model))))
        total = _projection([leaf for leaf in leaves(outputs) if isinstance(leaf, Tensor)], seed)
        if total is None:
            return 0.0
        found = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
    square = 0.0
    for name, gradient in zip(weights, found, strict=True):
        if gradient is not None:
            kept = gradient[masks[name].to(gradient.device)] if name in masks else gradient
            square += float(kept.double().square().sum())
    return math.sqrt(square)


def _projection(outputs: list[Tensor], seed: int) -> Tensor | None:
    """The mean over examples of the outputs, each with a random sign."""
    total = None
    for number, output in enumerate(outputs):
        if not output.is_floating_point() or not output.requires_grad:
            continue
        stream = generator(seed, "signs of the forecast", number)
        signs = (torch.randint(0, 2, output.shape, generator=stream) * 2 - 1).to(output)
        part = (output * signs).sum() / max(1, len(output) if output.dim() else 1)
        total = part if total is None else total + part
    return total
