"""Layer by layer, the factors that give a pruned network's signals the second moments they have in the dense one."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from disbud.errors import DisbudError
from disbud.graph import LayerUse, LayerUses
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
from disbud.parameters import parameters
from disbud.ticket import Ticket


def matched_(model: nn.Module, ticket: Ticket, how: str, *, inputs: Example, seed: int) -> dict[str, float]:
    """The factor of each layer, once the model's kept weights were multiplied by it and the others set to zero."""
    model = bare(model)
    ticket.check(model)
    inputs = on_device(inputs, device_of(model))
    if how == "differences" and _examples(inputs) < 2:
        raise DisbudError('"differences" are between inputs: give a batch of at least two')
    owned = parameters(model)
    wanted: dict[str, float] = {}
    factors: dict[str, float] = {}
    dense = {name: owned[name].detach() for name in ticket.masks}
    pruned = {
        name: weight.masked_fill(~ticket.masks[name].to(weight.device), 0) for name, weight in dense.items()
    }
    for weights, met in (
        (dense, lambda use: _noted(use, how, wanted)),
        (pruned, lambda use: _matched(use, how, wanted, factors)),
    ):
        with (
            isolated(model, seed=seed, batch_norm="train"),
            torch.no_grad(),
            standing_in(model, weights),
            LayerUses(weights, met),
        ):
            forward(model, to_write_on(inputs))  # a model may write to what it is given
    missing = [name for name in ticket.masks if name not in factors]
    if missing:
        raise DisbudError(
            f"{missing[0]} is handed to no linear or convolution function on these inputs (attention uses its weights "
            'in another way), so its signals cannot be seen; take how="weights"'
        )
    with torch.no_grad():
        for name, weight in pruned.items():
            owned[name].copy_(weight * factors[name])
    return {name: factors[name] for name in ticket.masks}


def _noted(use: LayerUse, how: str, moments: dict[str, float]) -> Tensor:
    """What the layer gives; its moment is noted when it is first used."""
    moments.setdefault(use.layer, _moment(use.output, how))
    return use.output


def _matched(use: LayerUse, how: str, wanted: Mapping[str, float], factors: dict[str, float]) -> Tensor:
    """What the layer gives once its weights are multiplied by the factor that brings its moment back; biases stay."""
    shift = None if use.bias is None else use.bias.reshape(-1, *[1] * (use.weight.dim() - 2))
    signal = use.output if shift is None else use.output - shift
    if use.layer not in factors:
        factors[use.layer] = _solve(use.layer, signal, shift, how, wanted[use.layer])
    signal = signal * factors[use.layer]
    return signal if shift is None else signal + shift


def _solve(name: str, signal: Tensor, shift: Tensor | None, how: str, wanted: float) -> float:
    """The positive rho with the moment of rho * signal + shift as wanted."""
    square = _moment(signal, how)
    if not (0 < square < math.inf and math.isfinite(wanted)):
        raise DisbudError(
            f"the signals of {name} have the moment {square:.4g} under the ticket and {wanted:.4g} without, so no "
            "factor makes them alike; the layer, or one before it, may be empty"
        )
    if how == "differences" or shift is None:
        return math.sqrt(wanted / square)
    cross = float((signal.double() * shift.double()).mean())
    constant = float((torch.zeros_like(signal, dtype=torch.float64) + shift.double()).square().mean())
    # rho^2 square + 2 rho cross + constant = wanted
    inside = cross**2 - square * (constant - wanted)
    root = (-cross + math.sqrt(inside)) / square if inside >= 0 else -1.0
    if root <= 0:
        raise DisbudError(
            f"the biases of {name} alone give more than the mean square {wanted:.4g} of the dense net's signals, so "
            'no factor of its weights brings that back; take how="differences"'
        )
    return root


def _moment(output: Tensor, how: str) -> float:
    output = output.detach().double()
    if how == "differences":
        # Over all pairs of examples, half the mean square of their difference is the variance over examples.
        return float(output.var(0, correction=0).mean())
    return float(output.square().mean())


def _examples(inputs: object) -> int:
    sizes = [len(leaf) for leaf in leaves(inputs) if isinstance(leaf, Tensor) and leaf.dim()]
    return sizes[0] if sizes else 0
