"""Running a model as its ticket leaves it, and differentiating it, without touching the model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from disbud.errors import DisbudError
from disbud.graph import prunable
from disbud.isolation import bare, device_of, isolated, on_device, standing_in
from disbud.parameters import parameters
from disbud.ticket import Ticket


@dataclass(frozen=True)
class Pruned:
    """A model that computes with its kept weights.

    `weights` are those of the layers that can be pruned, as leaves of the graph, `masks` where they are kept (None:
    everywhere), `trained` all parameters that are not frozen, the weights among them.
    """

    model: nn.Module
    weights: dict[str, Tensor]
    masks: dict[str, Tensor | None]
    trained: dict[str, Tensor]

    def kept(self, name: str, values: Tensor) -> Tensor:
        """Of values in the shape of a weight, those at the weights kept, in float64 on the CPU."""
        mask = self.masks[name]
        values = values.detach()
        return (values.reshape(-1) if mask is None else values[mask]).cpu().double()

    def gradients(self, loss: Tensor) -> dict[str, Tensor]:
        """dL/dw of each weight, zeros where the loss does not depend on it."""
        found = torch.autograd.grad(loss, list(self.weights.values()), materialize_grads=True)
        return dict(zip(self.weights, found, strict=True))


@contextlib.contextmanager
def pruned(
    model: nn.Module, ticket: Ticket | None, *, seed: int, batch_norm: str = "eval"
) -> Iterator[Pruned]:
    """Within the block the model computes with the weights the ticket keeps, those removed being zero.

    Dropout is off, BatchNorm in the mode asked; the model is left as it was, down to its random streams.
    """
    if not isinstance(model, nn.Module):
        raise DisbudError(f"a model is a torch.nn.Module, not a {type(model).__name__}")
    model = bare(model)
    if ticket is not None:
        ticket.check(model)
    owned = parameters(model)
    names = dict.fromkeys([layer.name for layer in prunable(model)] + list(ticket.masks if ticket else ()))
    masks: dict[str, Tensor | None] = {}
    weights: dict[str, Tensor] = {}
    for name in names:
        if owned[name].is_meta:
            raise DisbudError(
                f"{name} is on the meta device and holds no values; materialise the model first"
            )
        weight = owned[name].detach()
        mask = ticket.masks.get(name) if ticket else None
        if mask is not None:
            mask = mask.to(weight.device)
            weight = weight.masked_fill(~mask, 0)
        masks[name], weights[name] = mask, weight.requires_grad_()
    trained = {name: weights.get(name, given) for name, given in owned.items() if given.requires_grad}
    with isolated(model, seed=seed, batch_norm=batch_norm), standing_in(model, weights):
        yield Pruned(model, weights, masks, trained)


def hold_batch_statistics(model: nn.Module, inputs: Tensor) -> None:
    """Give every BatchNorm the statistics of this batch as its running ones, so that eval mode computes with them.

    Examples then no longer act on each other. For use inside `pruned`, which puts the running statistics back.
    """
    handles = [
        module.register_forward_pre_hook(_hold)
        for module in model.modules()
        if isinstance(module, _BatchNorm)
    ]
    try:
        if handles:
            with torch.no_grad():
                model(inputs.clone())
    finally:
        for handle in handles:
            handle.remove()


def _hold(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    x = inputs[0]
    around = [axis for axis in range(x.dim()) if axis != 1]
    # Assigned, not copied into: a module that tracks no statistics has no buffers to copy into.
    module.running_mean = x.mean(around)
    module.running_var = x.var(around, correction=0)


def on_model(model: nn.Module, inputs: object) -> Tensor:
    """A batch of inputs, on the model's device."""
    if not isinstance(inputs, Tensor):
        raise DisbudError(f"inputs should be one tensor, a batch of them, not a {type(inputs).__name__}")
    if inputs.dim() < 2 or not len(inputs):
        raise DisbudError(
            f"inputs should be a batch, with the examples along the first axis, not of shape {tuple(inputs.shape)}"
        )
    return on_device(inputs.detach(), device_of(model))


def outputs_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """The model's output on a batch, one row an example; a model that writes to its input is given a copy."""
    output = model(inputs.clone())
    if not isinstance(output, Tensor) or not output.is_floating_point():
        raise DisbudError(
            f"the model should return one tensor of floating-point numbers, not a {type(output).__name__}"
        )
    if not output.dim() or len(output) != len(inputs):
        raise DisbudError(
            f"the model should return one output an example; {len(inputs)} examples gave shape {tuple(output.shape)}"
        )
    return output.flatten(1) if output.dim() > 1 else output.unsqueeze(1)


def check_batch_norm(batch_norm: str) -> None:
    """Raise for anything but the two modes."""
    if batch_norm not in ("train", "eval"):
        raise DisbudError(f"BatchNorm is measured in 'train' or in 'eval' mode, not {batch_norm!r}")
