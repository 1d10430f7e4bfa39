"""SynFlow's network: a signal of ones through absolute weights, and how much of it passes through each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from disbud.errors import DisbudError
from disbud.graph.flow.running import Inputs, buffers_in, given, linearised
from disbud.graph.flow.signals import Signals
from disbud.graph.flow.survivors import Survivors
from disbud.isolation import leaves
from disbud.parameters import parameters


class Network:
    """A model with weights of one sign, `theta` where they can be pruned, and a signal of ones."""

    def __init__(
        self,
        model: nn.Module,
        prunable: Iterable[str],
        magnitude: Callable[[Tensor], Tensor],
        inputs: Inputs,
        *,
        keep_biases: bool,
        dtype: torch.dtype,
    ) -> None:
        self._model = model
        self._inputs = inputs
        self._keep_biases = keep_biases
        self._state = {
            name: magnitude(parameter.detach().to(dtype)).contiguous()
            if parameter.is_floating_point()
            else parameter
            for name, parameter in parameters(model).items()
        }
        self.theta = {name: self._state[name].requires_grad_() for name in prunable}
        self._buffers = list(buffers_in(model, dtype, positive=keep_biases))

    def keep(self, masks: Mapping[str, Tensor]) -> None:
        """Take out what the masks do not keep."""
        for name, leaf in self.theta.items():
            leaf.detach().masked_fill_(~masks[name], 0)

    def drop(self, positions: Mapping[str, Tensor]) -> None:
        """Take out the weights at these positions of each flattened layer."""
        for name, leaf in self.theta.items():
            leaf.detach().view(-1).index_fill_(0, positions[name].long(), 0)

    def sensitivities(self, positions: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """theta * dR/dtheta at the positions kept (None: all), R the sum of all outputs, up to one power of two."""
        survivors = Survivors(self.theta, positions)
        signals = Signals(self._state.values(), survivors, keep_biases=self._keep_biases)
        args, kwargs = given(signals, self._inputs)
        with linearised(self._model, self._state, self._buffers, signals):
            return survivors.scores(total(signals, self._model(*args, **kwargs)))


def total(signals: Signals, output: object) -> Tensor:
    """R = the sum of all outputs, up to a power of two."""
    found, _ = signals.align(signals.outputs([leaf for leaf in leaves(output) if isinstance(leaf, Tensor)]))
    sums = [tensor.sum() for tensor in found]
    if not any(value.requires_grad for value in sums):
        raise DisbudError(
            "the signal reaches the model's outputs through no prunable weight: what the example leads to does not "
            "depend on any, or a softmax that is not attention's cuts the way"
        )
    return torch.stack(sums).sum()
