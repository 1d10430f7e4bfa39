"""The small network held to the full one, in float64: outputs, statistics and derivatives, or an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from disbud.compaction.following import run
from disbud.compaction.kept import Kept
from disbud.compaction.widening import real
from disbud.errors import DisbudError
from disbud.isolation import Example, isolated, leaves
from disbud.parameters import canonical
from disbud.seeds import generator
from disbud.ticket import Ticket

TOLERANCE = 1e-9  # of norms, in float64; sums in another order differ by some 1e-13 after many BatchNorms
_SMALL = (
    1e-3  # what is this much smaller than the largest of its kind is held to that: it may be rounding alone
)
_ROUNDING = 1e-13  # what has a norm below this is rounding, whatever it is of


class Disagrees(DisbudError):
    """The small network does not run, or does not compute what the full one does."""


@dataclass(frozen=True)
class _Seen:
    """What a run shows: the outputs by number, the buffers as they are after it, the derivatives by parameter."""

    outputs: dict[str, Tensor]
    buffers: dict[str, Tensor]
    gradients: dict[str, Tensor]


def verify(
    work: nn.Module, small: nn.Module, ticket: Ticket, kept: Mapping[str, Kept], inputs: Example
) -> None:
    """Raise where the two differ in evaluation, or with BatchNorm in training, on inputs drawn at random.

    Training is left out where the full model cannot be trained on inputs such as these.
    """
    for batch_norm, mode in (("eval", "in evaluation"), ("train", "in training")):
        try:
            full = _seen(work, inputs, batch_norm)
        except Exception:
            if batch_norm == "train":
                continue
            raise
        try:
            found = _seen(small, inputs, batch_norm)
        except Exception as error:
            raise Disagrees(f"the small network does not run: {error}") from error
        for name, want in full.outputs.items():
            _compare(f"{name} {mode}", want, found.outputs.get(name))
        largest = _largest(full.buffers)
        for name, want in full.buffers.items():
            _compare(f"{name} {mode}", kept[name].take(want), found.buffers[name], at_least=_SMALL * largest)
        largest = _largest(full.gradients)
        for name, want in full.gradients.items():
            want, have = kept[name].take(want), found.gradients[name]
            mask = ticket.masks.get(name)
            if mask is not None:
                removed = ~kept[name].take(mask)  # whose derivatives nothing follows
                want, have = want.masked_fill(removed, 0), have.masked_fill(removed, 0)
            _compare(f"the derivative of {name} {mode}", want, have, at_least=_SMALL * largest)


def _seen(model: nn.Module, inputs: Example, batch_norm: str) -> _Seen:
    with isolated(model, seed=0, batch_norm=batch_norm):
        outputs = [leaf for leaf in leaves(run(model, inputs)) if isinstance(leaf, Tensor)]
        buffers = {canonical(name): buffer.detach().clone() for name, buffer in model.named_buffers()}
        draws = generator(0, "compaction is exact")
        total = torch.zeros((), dtype=torch.float64)
        for tensor in outputs:
            if tensor.requires_grad:
                numbers = real(tensor)
                weights = torch.randn(numbers.shape, generator=draws, dtype=torch.float64)
                total = total + (numbers * weights).sum()
        gradients = {}
        trained = {canonical(name): p for name, p in model.named_parameters() if p.requires_grad}
        if total.requires_grad and trained:
            found = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
            for (name, parameter), gradient in zip(trained.items(), found, strict=True):
                gradients[name] = torch.zeros_like(parameter) if gradient is None else gradient.detach()
    return _Seen({f"output {i}": tensor.detach() for i, tensor in enumerate(outputs)}, buffers, gradients)


def _largest(tensors: Mapping[str, Tensor]) -> float:
    numbers = [
        real(tensor) for tensor in tensors.values() if tensor.is_floating_point() or tensor.is_complex()
    ]
    return max((float(each.norm()) for each in numbers), default=0.0)


def _compare(what: str, wanted: Tensor, found: Tensor | None, *, at_least: float = 0.0) -> None:
    if found is None or found.shape != wanted.shape:
        shape = None if found is None else tuple(found.shape)
        raise Disagrees(f"{what}: the small network gives {shape}, the full one {tuple(wanted.shape)}")
    if not bool(wanted.isfinite().all()):
        raise DisbudError(
            f"{what}: the full model gives what is not finite, so the small one cannot be held to it; give an example "
            "with numbers that the model is meant for, or keep what is divided or put under a root away from zero"
        )
    scale = max(float(real(wanted).norm()), at_least)
    error = float((real(found) - real(wanted)).norm())
    if not error <= TOLERANCE * scale + _ROUNDING:
        raise Disagrees(
            f"{what}: the small network differs from the full one by {error:.1e}, where the norm is {scale:.1e}"
        )
