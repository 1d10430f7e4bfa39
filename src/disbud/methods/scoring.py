"""What a score may look at: the weights, what is still kept of them, and losses as functions of weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from disbud.batches import Loss, mean_loss, size_of
from disbud.errors import DisbudError
from disbud.graph.flow import Inputs
from disbud.graph.layers import Layer
from disbud.isolation import Example, device_of, on_device, standing_in, to_write_on, usable
from disbud.methods.evidence import Evidence
from disbud.selection.flags import pick, places

Tensors = dict[str, Tensor]
Kept = TypeVar("Kept")
Score = Callable[..., Tensors]


class Scoring:
    """A model under scoring: losses are functions of weights that stand in for the model's own, which stay as they are.

    `weights` are the dense weights of the layers that can be pruned, `masks` and `positions` what is kept in this round
    (None: all), `dropped` where the weights are that the last round took from fewer than all.
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
        streams: Callable[..., torch.Generator],
    ) -> None:
        owned = {name: usable(parameter).detach() for name, parameter in model.named_parameters()}
        self.model = model
        self.layers = list(layers)
        self.weights: Tensors = {layer.name: owned[names[layer.name]] for layer in layers}
        self.dropped: Tensors | None = None
        self.example = example
        self.round = 0
        self.signed = False  # whether a score that is an absolute value is to be given with its sign
        self.memo: dict[str, object] = {}  # what a score carries from one round to the next
        self._constants = {name: owned[full] for name, full in names.items()}
        self._evidence = evidence
        self._loss = loss
        self._streams = streams
        self._masks: Tensors | None = None
        self._positions: Tensors | None = None

    @property
    def masks(self) -> Tensors | None:
        """What is kept in this round; None while all is."""
        if self._masks is None and self._positions is not None:
            self._masks = {
                layer.name: torch.zeros(layer.shape, dtype=torch.bool, device=self.weights[layer.name].device)
                for layer in self.layers
            }
            for name, mask in self._masks.items():
                mask.view(-1)[self._positions[name]] = True
        return self._masks

    @masks.setter
    def masks(self, masks: Tensors) -> None:
        self._masks, self._positions, self.dropped = masks, None, None

    @property
    def positions(self) -> Tensors | None:
        """Where the weights still kept are in each flattened layer, in order; None while all are kept."""
        if self._positions is None and self._masks is not None:
            self._positions = {name: places(mask.reshape(-1)) for name, mask in self._masks.items()}
        return self._positions

    def narrow(self, chosen: Tensors) -> None:
        """Of the weights still kept, keep those chosen."""
        assert self.positions is not None
        where = self.positions
        self.dropped = {name: where[name].index_select(0, places(~choice)) for name, choice in chosen.items()}
        self._positions = {name: pick(where[name], choice) for name, choice in chosen.items()}
        self._masks = None

    def once(self, what: str, make: Callable[[], Kept]) -> Kept:
        """What `make` gives, in the first round that asks for it and in all later ones."""
        if what not in self.memo:
            self.memo[what] = make()
        return self.memo[what]  # type: ignore[return-value]

    def generator(self, layer: str) -> torch.Generator:
        """The random stream of one layer in this round: no layer's draws depend on the others or on their order."""
        return self._streams(layer, self.round)

    def masked(self) -> Tensors:
        """The weights with those pruned so far at zero."""
        if self.masks is None:
            return dict(self.weights)
        return {name: weight.masked_fill(~self.masks[name], 0) for name, weight in self.weights.items()}

    def batches(self) -> Iterator[object]:
        """The batches of this round, on the model's device."""
        if self._evidence is None:
            raise DisbudError(
                "this method looks at data: give batches=..., an iterable of batches such as a DataLoader"
            )
        device = device_of(self.model)
        for batch in self._evidence.read():
            yield on_device(batch, device)

    @contextlib.contextmanager
    def using(self, weights: Mapping[str, Tensor], *, temperature: float = 1.0) -> Iterator[None]:
        """Within the block the model computes with these weights in the place of its own; outputs are divided by T.

        Its other parameters are constants there, so that nothing is spent on their derivatives. The user's loss gets
        the model itself: methods, submodules and type are there. Derivatives belong inside the block too.
        """
        hook = self.model.register_forward_hook(_divided_by(temperature)) if temperature != 1 else None
        try:
            with standing_in(self.model, {**self._constants, **weights}):
                yield
        finally:
            if hook is not None:
                hook.remove()

    def loss(self, batch: object) -> Tensor:
        """The mean loss of the batch, with the weights in use."""
        with enough_examples():
            return mean_loss(self.model, batch, self._loss)

    def gradients(self, weights: Tensors) -> Tensors:
        """dL/dw of the mean loss over the batches of this round, at the weights given; zeros where none arrives."""
        total: Tensors = {}
        seen = 0.0
        leaves = as_leaves(weights)
        for batch in self.batches():
            size = float(size_of(batch) or 1)
            seen += size
            with self.using(leaves):
                new = gradient(self.loss(batch), leaves)
            for name, part in new.items():
                total[name] = total[name].lerp(part, size / seen) if name in total else part
        return total

    def given(self, batch: object) -> Inputs:
        """What the model is given for a batch: the batch itself if it is a tensor, else what the loss calls it with."""
        met: list[Inputs] = []
        handle = self.model.register_forward_pre_hook(
            lambda _, *call: met.append(to_write_on(call)), with_kwargs=True
        )
        try:
            with enough_examples():
                self.model(to_write_on(batch)) if isinstance(batch, Tensor) else self.loss(batch)
        finally:
            handle.remove()
        if not met:
            raise DisbudError("the loss never called the model, so what it is given cannot be seen")
        return met[0]

    def call(self, weights: Mapping[str, Tensor], *args: object, **kwargs: object) -> object:
        """The model's output with these weights in the place of its own."""
        with self.using(weights):
            args, kwargs = to_write_on((args, kwargs))
            return self.model(*args, **kwargs)


@contextlib.contextmanager
def enough_examples(
    remedy: str = "batches of two at least; drop_last=True in a DataLoader, or another batch_size, leaves none of one",
) -> Iterator[None]:
    """Say what is wrong where BatchNorm computes with one example: it has no spread."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise DisbudError(
            f"BatchNorm computes with the batch here, and one example has no spread; give {remedy}"
        ) from error


def _divided_by(temperature: float) -> Callable[[nn.Module, object, object], Tensor]:
    def divide(model: nn.Module, inputs: object, output: object) -> Tensor:
        if not isinstance(output, Tensor):
            raise DisbudError(
                f"the method divides the outputs by a temperature of {temperature:g}, but the model returns "
                f"a {type(output).__name__}; give temperature=1, or a model that returns logits"
            )
        return output / temperature

    return divide


def as_leaves(weights: Tensors) -> Tensors:
    """The same values as leaves of a new graph; nothing is copied."""
    return {name: weight.detach().requires_grad_() for name, weight in weights.items()}


def gradient(value: Tensor, leaves: Tensors, *, create_graph: bool = False) -> Tensors:
    """d value / d leaf for each leaf, zeros where the value does not depend on it."""
    found: Sequence[Tensor | None] = [None]
    if value.requires_grad:
        found = torch.autograd.grad(
            value, list(leaves.values()), create_graph=create_graph, allow_unused=True
        )
    if all(one is None for one in found):
        raise DisbudError("the loss does not depend on any prunable weight, so no score can be drawn from it")
    return {
        name: torch.zeros_like(leaf) if one is None else one
        for (name, leaf), one in zip(leaves.items(), found, strict=True)
    }


def unsigned(s: Scoring, score: Tensor) -> Tensor:
    """The absolute value of a score that is made to be overwritten; with its sign where that is asked for."""
    return score if s.signed else score.abs_()


def at_least_single(values: Tensor) -> Tensor:
    """The values, in float32 where they are in half precision: products there underflow, or tie for want of digits."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
