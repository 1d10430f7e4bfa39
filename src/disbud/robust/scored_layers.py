"""Which layers a pruning score favours, and which empties first: by theory and measured, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from disbud.batches import mean_loss
from disbud.errors import DisbudError, unknown_name
from disbud.isolation import device_of
from disbud.measures import Table
from disbud.measures.pruned import Pruned, hold_batch_statistics, pruned
from disbud.measures.table import Value
from disbud.theory import activation as activation_named
from disbud.theory import critical_sparsity, propagate
from disbud.theory.reading import activation_of, chain_of

if TYPE_CHECKING:
    from disbud.theory.activations import ActivationLike
    from disbud.theory.critical import CriticalSparsity
    from disbud.ticket import Ticket

Batch = tuple[Tensor, Tensor]
_METHODS = ("sensitivity", "magnitude")


def sensitivities(
    model: nn.Module,
    batch: Batch,
    ticket: Ticket | None = None,
    *,
    activation: ActivationLike | None = None,
    seed: int = 0,
) -> Table:
    """m_l = E[(W dL/dW)^2] of each layer's kept weights: measured on labelled examples, and predicted.

    Gradients are those of single examples, squared and then averaged, as the theory has them: in a batch's mean
    gradient, examples cancel each other by how unlike they are, which changes from layer to layer. `predicted` follows
    from the layers' own deviations (`theory.propagate`), up to one factor, so that both are given relative to the last
    layer; it is None for anything but a chain of linear layers. `whole_batch` is what a score of the mean gradient
    sees. BatchNorm computes with the statistics of the batch, held fixed.

    >>> import torch
    >>> from disbud import robust, theory
    >>> model = torch.nn.Sequential(torch.nn.Linear(100, 100), torch.nn.Tanh(), torch.nn.Linear(100, 10))
    >>> done = theory.initialize_(model, activation="tanh", sigma_b=0.2, seed=0)
    >>> table = robust.sensitivities(model, (torch.randn(20, 100), torch.arange(20) % 10))
    >>> table["layer"], 0.8 < table["measured"][0] / table["predicted"][0] < 1.25
    (('0.weight', '2.weight'), True)
    """
    x, y = _checked(batch)
    predicted, why_not = _predicted(model, x, ticket, activation)
    squares, mean, kept = _measured(model, x, y, ticket, seed)
    last = next((name for name in reversed(squares) if squares[name] and mean[name]), None)
    if last is None:
        raise DisbudError("no layer has any sensitivity: no gradient arrives, or no weight is kept")
    rows: list[dict[str, Value]] = [
        {
            "layer": name,
            "kept": kept[name],
            "predicted": None if predicted is None else predicted[name] / predicted[last],
            "measured": squares[name] / squares[last],
            "whole_batch": mean[name] / mean[last],
        }
        for name in squares
    ]
    return Table.of(rows, {"examples": len(x), "last": squares[last], "no_prediction": why_not})


@dataclass(frozen=True)
class Emptying:
    """Which layer one-shot pruning empties first, and at which sparsity.

    `law` is what critical_sparsity says for layers of these sizes and typical scores: its mean over draws, the exact
    mean of the law, the bound. `likely` is the layer that empties first most often, in a `share` of draws. `actual` and
    `layer` are those of this very model's scores.

    >>> from disbud import models, robust
    >>> found = robust.emptying(models.build("mlp:hidden=300+10"), method="magnitude")
    >>> found.likely, found.layer  # the widest input goes first
    ('fc1.weight', 'fc1.weight')
    """

    method: str
    law: CriticalSparsity
    likely: str
    share: float
    actual: float
    layer: str

    def __str__(self) -> str:
        return (
            f"{self.method} pruning in one shot empties {self.layer} at sparsity {self.actual:.4f}; expected of such "
            f"layers: {self.likely} in {self.share:.0%} of draws, at {self.law}"
        )


def emptying(
    model: nn.Module,
    batch: Batch | None = None,
    *,
    method: str = "sensitivity",
    table: Table | None = None,
    by: str = "predicted",
    seed: int = 0,
) -> Emptying:
    """Forecast where global one-shot pruning leaves the first layer empty, beside what this model's scores do.

    For "sensitivity" the typical scores are the square roots of m_l, `by` "predicted" or "measured" (single examples)
    or "whole_batch", from the `table` of `sensitivities` or a new one; the model's own scores are abs(w dL/dw) on the
    batch. For "magnitude" they are the layers' deviations, and no batch is needed.

    >>> import torch
    >>> from disbud import models, robust
    >>> model = models.build("mlp:hidden=100+100", input_shape=(1, 8, 8))
    >>> batch = (torch.randn(50, 1, 8, 8), torch.arange(50) % 10)
    >>> robust.emptying(model, batch).law.bound > 0.9
    True
    """
    if method not in _METHODS:
        raise unknown_name("method with a forecast of emptying", method, _METHODS)
    if by not in ("predicted", "measured", "whole_batch"):
        raise unknown_name("column to forecast by", by, ("predicted", "measured", "whole_batch"))
    scores = _scores(model, batch, method)
    _check_scores(scores, method)
    sizes = [score.numel() for score in scores.values()]
    if method == "magnitude":
        moments = [float(score.double().square().mean()) for score in scores.values()]
        # Only ratios matter; whole numbers so large keep the ratios' digits.
        fan_in = [min(2**62, round(1e9 * max(moments) / moment)) for moment in moments]
        law = critical_sparsity(sizes, "magnitude", fan_in=fan_in, seed=seed)
    else:
        if batch is None:
            raise DisbudError("sensitivities need labelled examples: give batch=(x, y)")
        table = table or sensitivities(model, batch, seed=seed)
        values = [value for value in table[by] if isinstance(value, float)]
        if len(values) != len(sizes):
            raise DisbudError(
                f'there is no prediction for this model ({table.summary["no_prediction"]}); take by="measured"'
            )
        law = critical_sparsity(sizes, sensitivities=values, seed=seed)
    names = list(scores)
    largest = torch.stack([score.max() for score in scores.values()])
    below = sum(int((score <= largest.min()).sum()) for score in scores.values())
    likely = max(range(len(names)), key=lambda i: law.first[i])
    return Emptying(
        method, law, names[likely], law.first[likely], below / sum(sizes), names[int(largest.argmin())]
    )


def _scores(model: nn.Module, batch: Batch | None, method: str) -> dict[str, Tensor]:
    with pruned(model, None, seed=0) as run:
        if method == "magnitude":
            return {name: weight.detach().abs() for name, weight in run.weights.items()}
        if batch is None:
            raise DisbudError("sensitivities need labelled examples: give batch=(x, y)")
        x, y = (part.to(device_of(run.model)) for part in _checked(batch))
        hold_batch_statistics(run.model, x)
        found = run.gradients(_loss(run, x, y))
        return {name: (weight * found[name]).detach().abs() for name, weight in run.weights.items()}


def _check_scores(scores: Mapping[str, Tensor], method: str) -> None:
    """Raise where no law describes when a layer empties."""
    for name, score in scores.items():
        if not torch.isfinite(score).all():
            raise DisbudError(
                f"{name} has scores by {method} that are NaN or infinite, so none can be ranked"
            )
        if not score.any():
            why = "its weights are zero" if method == "magnitude" else "the loss does not change with it"
            raise DisbudError(
                f"every score of {name} by {method} is zero ({why}): pruning empties it before anything else, and "
                "there is nothing to forecast"
            )


def _loss(run: Pruned, x: Tensor, y: Tensor) -> Tensor:
    try:
        return mean_loss(run.model, (x, y))
    except DisbudError as error:
        why = str(error).partition(";")[0]  # and then how to give another loss
        raise DisbudError(
            f"sensitivities are measured with the cross-entropy of class labels: {why}"
        ) from None


def _predicted(
    model: nn.Module, x: Tensor, ticket: Ticket | None, like: ActivationLike | None
) -> tuple[dict[str, float] | None, str | None]:
    named = (
        None if like is None else activation_named(like)
    )  # a name that is not known is no reason to go on without
    try:
        chain = chain_of(model, ticket)
        found = propagate(
            activation_of(model) if named is None else named,
            chain,
            input_moment=float(x.double().square().mean()),
        )
    except DisbudError as error:
        return None, str(error)
    if not found.sensitivities[-1]:
        return None, "the last layer keeps nothing"
    return {layer.name: m for layer, m in zip(chain, found.sensitivities, strict=True)}, None


def _measured(
    model: nn.Module, x: Tensor, y: Tensor, ticket: Ticket | None, seed: int
) -> tuple[dict[str, float], dict[str, float], dict[str, int]]:
    """Mean squares of w dL/dw at the kept weights, by single examples and by the whole batch, and their number."""
    with pruned(model, ticket, seed=seed) as run:
        device = device_of(run.model)
        x, y = x.to(device), y.to(device)
        hold_batch_statistics(run.model, x)
        squares, mean = (
            [torch.zeros_like(weight, dtype=torch.float64) for weight in run.weights.values()]
            for _ in range(2)
        )
        for i in range(len(x)):
            gradients = run.gradients(_loss(run, x[i : i + 1], y[i : i + 1]))
            for found, square, total in zip(gradients.values(), squares, mean, strict=True):
                square += found.double().square() / len(x)
                total += found.double() / len(x)
        kept = {name: run.kept(name, weight) for name, weight in run.weights.items()}

        def moments(of: list[Tensor]) -> dict[str, float]:
            found = {}
            for (name, weight), square in zip(kept.items(), of, strict=True):
                at = run.kept(name, square)
                found[name] = float((weight.square() * at).mean()) if weight.numel() else 0.0
            return found

        by_example, by_batch = moments(squares), moments([total.square() for total in mean])
    return by_example, by_batch, {name: weight.numel() for name, weight in kept.items()}


def _checked(batch: Batch) -> Batch:
    if (
        not isinstance(batch, tuple | list)
        or len(batch) != 2
        or not all(isinstance(part, Tensor) for part in batch)
        or batch[1].is_floating_point()
        or len(batch[0]) != len(batch[1])
        or not len(batch[0])
    ):
        raise DisbudError("sensitivities are measured on one batch (x, y) of examples with class labels")
    return batch[0], batch[1]
