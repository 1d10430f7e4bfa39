"""How a batch travels through a pruned network: moments and correlations forward, gradients and sensitivities back.

Mean-field theory follows these from layer to layer (Schoenholz et al. 2017; Hayou et al. 2021, "Robust pruning at
initialization"): q_l = E[y_l^2], the correlation c_l of two inputs, E[(dL/dy_l)^2], and m_l = E[(W dL/dW)^2].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from disbud.batches import Loss, mean_loss
from disbud.errors import DisbudError
from disbud.graph import LayerUse, LayerUses
from disbud.isolation import device_of, forward, leaves, on_device, to_write_on
from disbud.measures.pruned import Pruned, pruned
from disbud.measures.table import Table, Value
from disbud.ticket import Ticket


def signal(
    model: nn.Module,
    batch: object,
    ticket: Ticket | None = None,
    *,
    loss: Loss | None = None,
    batch_norm: str = "train",
    seed: int = 0,
) -> Table:
    """Per layer, on one batch, with the weights off the ticket at zero; the model is left as it was.

    `activation_moment` is E[y^2] of the layer's output y before normalisation and activation, over examples and
    units; `input_moment` that of what it reads. `correlation` is the mean over pairs of examples of
    <y_a, y_b> / (|y_a| |y_b|), uncentred as in mean-field theory. `gradient_moment` is E[(dl/dy)^2] with l the loss of
    an example (the mean loss times the number of examples). `weight_gradient_moment` is E[(dL/dw)^2], `sensitivity`
    E[(w dL/dw)^2], of the mean loss L, over the kept weights. In the summary, `sensitivity_slope` is the slope of
    log sensitivity over the layers, `sensitivity_spread` the largest sensitivity over the smallest, and
    `gradient_norm` the norm of dL/dw over all kept weights.

    The batch is an (x, y) pair with class labels, or what `loss(model, batch)` takes; inputs alone, without a loss,
    give the forward measures only. Examples lie along the first axis. What a layer reads and gives is seen where its
    weight is handed to a linear or convolution function of torch; elsewhere (attention's projections) it is None.

    >>> import torch
    >>> from disbud.measures import signal
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> model.weight.data = torch.eye(2)
    >>> table = signal(model, (torch.tensor([[3.0, 0.0], [3.0, 3.0]]), torch.tensor([0, 1])))
    >>> table["activation_moment"], round(table["correlation"][0], 4)
    ((6.75,), 0.7071)
    """
    with pruned(model, ticket, seed=seed, batch_norm=batch_norm) as run:
        batch = on_device(batch, device_of(run.model))
        examples = _examples(batch)
        layers = {name: _Layer(examples) for name in run.weights}
        with LayerUses(run.weights, lambda use: layers[use.layer].note(use)):
            value = _loss(run, batch, loss)
        gradients = None if value is None else run.gradients(value)
        rows = [{**_row(run, name, gradients), **layer.row()} for name, layer in layers.items()]
    return Table.of(
        [_ordered(row) for row in rows], _summary(rows, None if value is None else value.item(), examples)
    )


class _Layer:
    """What passes one layer, summed over its calls."""

    def __init__(self, examples: int) -> None:
        self.examples = examples
        self.input, self.output, self.gradient = _Mean(), _Mean(), _Mean()
        self.products: Tensor | None = None
        self.alike = True

    def note(self, use: LayerUse) -> Tensor:
        output = use.output
        self.input.add(use.input)
        self.output.add(output)
        if output.dim() > 1 and len(output) == self.examples:
            flat = output.detach().flatten(1).double()
            product = (flat @ flat.T).cpu()
            self.products = product if self.products is None else self.products + product
        else:
            self.alike = False
        if output.requires_grad:
            self.gradient.count += output.numel()
            # A hook on the tensor sees the gradient of this very output, also where an in-place ReLU overwrites it.
            # Where none arrives the gradient is zero.
            output.register_hook(self._note_gradient)
        return output

    def _note_gradient(self, gradient: Tensor) -> None:
        self.gradient.total += _square_sum(gradient) * self.examples**2

    def row(self) -> dict[str, Value]:
        return {
            "activation_moment": self.output.value,
            "input_moment": self.input.value,
            "correlation": self.correlation(),
            "gradient_moment": self.gradient.value,
        }

    def correlation(self) -> float | None:
        """The mean over pairs of examples; one that gives only zeros has no correlation with another."""
        if self.products is None or not self.alike:
            return None
        lengths = self.products.diagonal().sqrt()
        found = lengths > 0
        cosines = (self.products / lengths.outer(lengths))[found][:, found]
        return float(cosines.triu(1).sum()) / (math.comb(len(cosines), 2) or math.nan)


@dataclass
class _Mean:
    """A mean of squares."""

    total: float = 0.0
    count: int = 0

    def add(self, values: Tensor) -> None:
        self.total += _square_sum(values)
        self.count += values.numel()

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None


def _square_sum(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values.detach(), dtype=torch.float64)) ** 2


def _loss(run: Pruned, batch: object, loss: Loss | None) -> Tensor | None:
    """The loss of the batch; None for inputs alone, which are only sent forward."""
    if loss is None and isinstance(batch, Tensor | Mapping):
        with torch.no_grad():
            forward(run.model, to_write_on(batch))
        return None
    value = mean_loss(run.model, batch, loss)
    if not value.requires_grad:
        raise DisbudError(
            "the loss does not depend on any weight of the model, so there are no gradients to measure"
        )
    return value


def _examples(batch: object) -> int:
    found = next((leaf for leaf in leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()), None)
    if found is None or not len(found):
        raise DisbudError(
            "the batch holds no example: give inputs as a tensor, with the examples along its first axis"
        )
    return len(found)


def _row(run: Pruned, name: str, gradients: Mapping[str, Tensor] | None) -> dict[str, Value]:
    weight = run.kept(name, run.weights[name])
    row: dict[str, Value] = {"layer": name, "kept": weight.numel()}
    if gradients is None or not weight.numel():
        return row | dict.fromkeys(("weight_gradient_moment", "sensitivity"))
    gradient = run.kept(name, gradients[name])
    return row | {
        "weight_gradient_moment": float(gradient.square().mean()),
        "sensitivity": float((weight * gradient).square().mean()),
    }


_COLUMNS = (
    "layer",
    "kept",
    "activation_moment",
    "input_moment",
    "correlation",
    "gradient_moment",
    "weight_gradient_moment",
    "sensitivity",
)


def _ordered(row: Mapping[str, Value]) -> dict[str, Value]:
    return {name: row[name] for name in _COLUMNS}


def _summary(rows: Sequence[Mapping[str, Value]], loss: float | None, examples: int) -> dict[str, Value]:
    sensitivities = [row["sensitivity"] for row in rows]
    positive = [(i, m) for i, m in enumerate(sensitivities) if isinstance(m, float) and m > 0]
    largest = max((m for _, m in positive), default=math.nan)
    squares = [
        row["weight_gradient_moment"] * row["kept"]
        for row in rows
        if isinstance(row["weight_gradient_moment"], float) and isinstance(row["kept"], int)
    ]
    return {
        "examples": examples,
        "loss": loss,
        "gradient_norm": None if loss is None else math.sqrt(sum(squares)),
        "sensitivity_slope": _slope([(i, math.log(m)) for i, m in positive]),
        "sensitivity_spread": largest / min((m for _, m in positive), default=math.nan),
    }


def _slope(points: Sequence[tuple[int, float]]) -> float | None:
    """The slope of the least-squares line."""
    if len(points) < 2:
        return None
    x = sum(point[0] for point in points) / len(points)
    y = sum(point[1] for point in points) / len(points)
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)
