"""The flow of a signal of ones through a linearised network, and how much of it passes through each weight."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from disbud.errors import DisbudError
from disbud.isolation import Example, leaves
from disbud.methods.flow.arithmetic import Rule, inherit
from disbud.methods.flow.rules import TABLE
from disbud.methods.flow.signals import Signals, tensors_in
from disbud.methods.flow.survivors import Survivors
from disbud.methods.scoring import Scoring, Tensors
from disbud.parameters import parameters

Inputs = tuple[tuple[object, ...], dict[str, object]]
Holder = dict[str, Tensor | None]


class _Linearised(TorchFunctionMode):
    """While active, every function of a signal does what the linearised network does."""

    def __init__(self, signals: Signals) -> None:
        super().__init__()
        self.signals = signals

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        found = [value for value in tensors_in((args, kwargs)) if value in self.signals]
        if any(value.is_floating_point() for value in found):
            rule: Rule = TABLE.get(func, inherit)
            return rule(self.signals, func, *args, **kwargs)
        if found:  # token ids and masks that were put in: what is looked up with them is a signal
            return inherit(self.signals, func, *args, **kwargs)
        output = func(*args, **kwargs)
        for value in tensors_in((output,)):
            if value.requires_grad:
                self.signals.put_constant(value)
        return output


class Network:
    """The model under scoring with weights of one sign, `theta` where they can be pruned, and a signal of ones."""

    def __init__(
        self,
        scoring: Scoring,
        magnitude: Callable[[Tensor], Tensor],
        inputs: Inputs,
        *,
        keep_biases: bool,
        dtype: torch.dtype,
    ) -> None:
        self._scoring = scoring
        self._inputs = inputs
        self._keep_biases = keep_biases
        self._state = {
            name: magnitude(parameter.detach().to(dtype)).contiguous()
            if parameter.is_floating_point()
            else parameter
            for name, parameter in parameters(scoring.model).items()
        }
        self.theta = {name: self._state[name].requires_grad_() for name in scoring.weights}
        self._buffers = list(_buffers(scoring.model, dtype, positive=keep_biases))

    def prune(self) -> None:
        """Take out what was pruned since the last time."""
        for name, leaf in self.theta.items():
            if self._scoring.dropped is not None:
                leaf.detach().view(-1).index_fill_(0, self._scoring.dropped[name].long(), 0)
            elif self._scoring.masks is not None:
                leaf.detach().masked_fill_(~self._scoring.masks[name], 0)

    def sensitivities(self) -> Tensors:
        """theta * dR/dtheta of the weights still kept, R the sum of all outputs, up to one power of two."""
        survivors = Survivors(self.theta, self._scoring.positions)
        signals = Signals(self._state.values(), survivors, keep_biases=self._keep_biases)
        for leaf in leaves(self._inputs):
            if isinstance(leaf, Tensor):
                signals.put(leaf)
        args, kwargs = self._inputs
        with self._scoring.using(self._state), _replaced(self._buffers), _Linearised(signals):
            # The derivative belongs inside: activation checkpointing computes forward once more for it.
            return survivors.scores(_total(signals, self._scoring.model(*args, **kwargs)))


def _total(signals: Signals, output: object) -> Tensor:
    """R = the sum of all outputs."""
    found, _ = signals.align(signals.outputs([leaf for leaf in leaves(output) if isinstance(leaf, Tensor)]))
    sums = [tensor.sum() for tensor in found]
    if not any(value.requires_grad for value in sums):
        raise DisbudError(
            "the signal reaches the model's outputs through no prunable weight: what the example leads to does not "
            "depend on any, or a softmax that is not attention's cuts the way"
        )
    return torch.stack(sums).sum()


def _buffers(model: nn.Module, dtype: torch.dtype, *, positive: bool) -> Iterator[tuple[Holder, str, Tensor]]:
    """What stands in for each buffer of numbers: the same in this type, and positive if it belongs to the state."""
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_floating_point():
                positive_too = positive and name not in module._non_persistent_buffers_set
                yield module._buffers, name, (buffer.abs() if positive_too else buffer).to(dtype)


@contextlib.contextmanager
def _replaced(buffers: list[tuple[Holder, str, Tensor]]) -> Iterator[None]:
    own = [holder[name] for holder, name, _ in buffers]
    try:
        for holder, name, value in buffers:
            holder[name] = value
        yield
    finally:
        for (holder, name, _), buffer in zip(buffers, own, strict=True):
            holder[name] = buffer


def ones_like_example(example: Example, dtype: torch.dtype, device: torch.device | None) -> Inputs:
    """The example's positional and named inputs, with ones of batch 1 for its numbers; whole numbers stay."""
    found = [leaf for leaf in leaves(example) if isinstance(leaf, Tensor)]
    alone = all(leaf.is_floating_point() for leaf in found)  # else the batch is that of the token ids

    def ones(leaf: object) -> object:
        if not isinstance(leaf, Tensor):
            return leaf
        if not leaf.is_floating_point():
            return leaf.to(device)
        shape = (1, *leaf.shape[1:]) if alone and leaf.dim() > 1 else leaf.shape
        return torch.ones(shape, dtype=dtype, device=device)

    if isinstance(example, Mapping):
        return (), {name: tree_map(ones, value) for name, value in example.items()}
    inputs = tuple(example) if isinstance(example, tuple | list) else (example,)
    return tuple(tree_map(ones, value) for value in inputs), {}
