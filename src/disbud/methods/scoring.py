"""What a score may look at: the weights, what is still kept of them, and losses as functions of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from disbud.errors import DisbudError
from disbud.graph.layers import Layer
from disbud.isolation import Example, device_of, on_device
from disbud.methods.evidence import Evidence, Loss, size_of

Tensors = dict[str, Tensor]
Score = Callable[..., Tensors]


class Scoring:
    """A model under scoring: every loss is a function of weights given from outside, so the model stays as it is.

    `weights` are the dense weights of the layers that can be pruned, `masks` what is kept in this round (None: all).
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        names: Mapping[str, str],
        *,
        evidence: Evidence | None,
        loss: Loss,
        example: Example | None,
        generator: torch.Generator,
    ) -> None:
        owned = dict(model.named_parameters())
        self.model = model
        self.layers = list(layers)
        self.weights: Tensors = {layer.name: owned[names[layer.name]].detach() for layer in layers}
        self.masks: Tensors | None = None
        self.example = example
        self.generator = generator
        self.round = 0
        self.memo: dict[str, object] = {}  # what a score carries from one round to the next
        self._names = dict(names)
        self._evidence = evidence
        self._loss = loss

    def masked(self) -> Tensors:
        """The weights with those pruned so far at zero."""
        if self.masks is None:
            return dict(self.weights)
        return {name: weight.masked_fill(~self.masks[name], 0) for name, weight in self.weights.items()}

    def batches(self) -> Iterator[object]:
        """The batches of this round, on the model's device."""
        if self._evidence is None:
            raise DisbudError("this method looks at data: give batches=..., an iterable of batches such as a DataLoader")
        device = device_of(self.model)
        for batch in self._evidence.read():
            yield on_device(batch, device)

    def loss(self, weights: Tensors, batch: object, *, temperature: float = 1.0) -> Tensor:
        """The mean loss of the batch, as a function of the weights given; outputs are divided by the temperature."""
        value = self._loss(_Bound(self, weights, temperature), batch)  # type: ignore[arg-type]
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise DisbudError(f"loss(model, batch) should return one number, the mean loss of the batch, not {shape}")
        return value.reshape(())

    def gradients(self, weights: Tensors) -> Tensors:
        """dL/dw of the mean loss over the batches of this round, at the weights given; zeros where none arrives."""
        total: Tensors = {}
        seen = 0.0
        for batch in self.batches():
            size = float(size_of(batch) or 1)
            leaves = as_leaves(weights)
            seen += size
            for name, new in gradient(self.loss(leaves, batch), leaves).items():
                total[name] = total[name].lerp(new, size / seen) if name in total else new
        return total

    def call(self, weights: Tensors, *args: object, **kwargs: object) -> object:
        """The model's output with these weights in the place of its own."""
        given = {self._names[name]: weight for name, weight in weights.items()}
        return torch.func.functional_call(self.model, given, args, kwargs)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Bound:
    """The model with given weights, as a user's loss calls it; anything else is the model's own attribute."""

    scoring: Scoring
    weights: Tensors
    temperature: float

    def __call__(self, *args: object, **kwargs: object) -> object:
        output = self.scoring.call(self.weights, *args, **kwargs)
        if self.temperature == 1:
            return output
        if not isinstance(output, Tensor):
            raise DisbudError(
                f"the method divides the outputs by a temperature of {self.temperature:g}, but the model returns "
                f"a {type(output).__name__}; give temperature=1, or a model that returns logits"
            )
        return output / self.temperature

    def __getattr__(self, name: str) -> object:
        return getattr(self.scoring.model, name)


def as_leaves(weights: Tensors) -> Tensors:
    """The same values as leaves of a new graph; nothing is copied."""
    return {name: weight.detach().requires_grad_() for name, weight in weights.items()}


def gradient(value: Tensor, leaves: Tensors, *, create_graph: bool = False) -> Tensors:
    """d value / d leaf for each leaf, zeros where the value does not depend on it."""
    if not value.requires_grad:
        raise DisbudError("the loss does not depend on any prunable weight, so no score can be drawn from it")
    found = torch.autograd.grad(
        value, list(leaves.values()), create_graph=create_graph, allow_unused=True, materialize_grads=not create_graph
    )
    return {
        name: torch.zeros_like(leaf) if one is None else one
        for (name, leaf), one in zip(leaves.items(), found, strict=True)
    }
