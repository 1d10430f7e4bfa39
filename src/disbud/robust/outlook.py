"""Will this ticket train? What depth does to its signals and gradients, by theory and measured, and one verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from disbud.errors import DisbudError
from disbud.measures import signal
from disbud.theory import propagate
from disbud.theory.reading import activation_of, chain_of

if TYPE_CHECKING:
    from disbud.theory.activations import ActivationLike
    from disbud.ticket import Ticket

# A net trains up to a depth of about six of its depth scales (Schoenholz et al. 2017, section 4).
SCALES = 6.0


@dataclass(frozen=True)
class Forecast:
    """How many depth scales deep a network is, and whether it should train.

    `depth_scales` is the power of e by which depth changes gradients, abs(sum of log chi_l), or draws inputs together,
    -log((1 - c_L) / (1 - c_0)), whichever is more; where all layers are alike it is the depth over the scale xi.
    `correlation` is that c_L, at the last hidden layer. Both are by theory, from the layers' own deviations, or
    measured. It is infinite where gradients vanish or signals are not finite. `trains` is depth_scales <= 6 with no
    layer empty.

    >>> from disbud.robust import Forecast
    >>> print(Forecast("theory", depth_scales=9.0, correlation=0.9999, empty=()))
    by theory: 9 depth scales deep, correlation of inputs at the end 0.9999: should not train
    """

    how: str
    depth_scales: float
    correlation: float | None
    empty: tuple[str, ...]

    @property
    def trains(self) -> bool:
        """Whether it should."""
        return not self.empty and self.depth_scales <= SCALES

    def __str__(self) -> str:
        verdict = "should train" if self.trains else "should not train"
        if self.empty:
            return f"{self.how}: {len(self.empty)} layers are empty, {self.empty[0]} the first: {verdict}"
        end = "" if self.correlation is None else f", correlation of inputs at the end {self.correlation:.4f}"
        return f"by {self.how}: {self.depth_scales:.3g} depth scales deep{end}: {verdict}"


def forecast(
    model: nn.Module,
    inputs: Tensor,
    ticket: Ticket | None = None,
    *,
    activation: ActivationLike | None = None,
    labels: Tensor | None = None,
    seed: int = 0,
) -> Forecast:
    """Whether a network trains under a ticket: by theory for inputs alone, measured where labels are given too.

    By theory the only thing a mask changes is each layer's E[(W M)^2] (see `theory.propagate`), which is right for
    random masks and for those by magnitude. Masks that data chose follow the signals, which are then stronger than
    that: measure them. Theory takes chains of linear layers; measuring takes any model, and compares the gradient's
    moment at the first and the last hidden layer's output, times their sizes.

    >>> import torch
    >>> from disbud import models, prune, robust, theory
    >>> model = models.build(f"mlp:hidden={'+'.join(['64'] * 30)},activation=tanh", input_shape=(64,))
    >>> done = theory.initialize_(model, activation="tanh", sigma_b=0.2, seed=0)
    >>> ticket = prune(model, "random-uniform", sparsity=0.8)
    >>> x = torch.randn(16, 64)
    >>> robust.forecast(model, x).trains, robust.forecast(model, x, ticket).trains
    (True, False)
    """
    if not isinstance(inputs, Tensor) or len(inputs) < 2:
        raise DisbudError("give inputs=..., a tensor of at least two examples, so that they can be compared")
    empty = () if ticket is None else ticket.empty_layers
    if empty:
        return Forecast("theory" if labels is None else "measurement", math.inf, None, empty)
    if labels is not None:
        return _measured(model, inputs, labels, ticket, seed)
    chain = chain_of(model, ticket)
    found = propagate(
        activation_of(model) if activation is None else activation,
        chain,
        input_moment=float(inputs.double().square().mean()),
        input_correlation=_correlation(inputs),
    )
    # Between hidden layers: the way out through the last layer is no change of scale with depth.
    gradients = math.fsum(math.log(f) if f > 0 else -math.inf for f in found.factors[:-1])
    end = found.correlations[max(0, len(chain) - 2)] if found.correlations else None
    return Forecast("theory", max(abs(gradients), _drawn_together(inputs, end)), end, ())


def _measured(model: nn.Module, inputs: Tensor, labels: Tensor, ticket: Ticket | None, seed: int) -> Forecast:
    found = signal(model, (inputs, labels), ticket, seed=seed)
    # A table holds None in the place of NaN.
    if not all(isinstance(x, float) and math.isfinite(x) for x in (found.loss, found.gradient_norm)):
        return Forecast("measurement", math.inf, None, ())
    rows = [row for row in found if row["gradient_moment"] is not None]
    if not rows:
        raise DisbudError("no layer of the model shows its signals, so nothing can be measured")
    hidden = rows[:-1] or rows
    totals = [_number(row["gradient_moment"]) or 0.0 for row in hidden]
    gradients = math.fsum(math.log(a / b) for a, b in pairwise(totals)) if all(totals) else math.inf
    end = _number(hidden[-1]["correlation"])
    return Forecast("measurement", max(abs(gradients), _drawn_together(inputs, end)), end, ())


def _drawn_together(inputs: Tensor, end: float | None) -> float:
    """The power of e by which the inputs' distance from full correlation shrank; 0 where it grew."""
    start = _correlation(inputs)
    if end is None or start >= 1:
        return 0.0
    return max(0.0, math.log((1 - start) / (1 - end))) if end < 1 else math.inf


def _correlation(inputs: Tensor) -> float:
    """The mean over pairs of <x, x'> / (|x| |x'|)."""
    flat = inputs.detach().flatten(1).double()
    flat = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-30)
    product = flat @ flat.T
    pairs = len(flat) * (len(flat) - 1)
    return float((product.sum() - torch.diagonal(product).sum()) / pairs)


def _number(value: object) -> float | None:
    return value if isinstance(value, float) else None
