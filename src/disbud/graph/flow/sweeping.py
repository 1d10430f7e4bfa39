"""Signals that count paths and let each layer's mask be decided as they meet it, on the way there or on the way back.

On the way there the paths that reach each entry of a layer's input are known; on the way back, how many lead on from
each entry of its output. With both, the paths by way of each weight are known, kept or not: `gains`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from disbud.graph.flow import counting
from disbud.graph.flow.arithmetic import Rule, homes
from disbud.graph.flow.counting import counting_rule
from disbud.graph.flow.counts import Rooted
from disbud.graph.flow.signals import Function, Signals

Operation = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Visit:
    """One layer as a sweep meets it.

    `arriving` counts the paths that reach each input unit, `gains` those that would lead through each weight if it were
    kept, in the weight's own shape: each up to a factor common to the layer. `gains` is None where they cannot be read
    off one use of the layer: before the first way back, in a layer used twice or by parts.
    """

    layer: str
    arriving: Tensor
    gains: Tensor | None


Decide = Callable[[Visit], Tensor | None]


class Sweep(Rooted):
    """Counts of paths; masks are decided where a layer reads, or where what leads on from it comes back."""

    def __init__(
        self,
        state: Mapping[str, Tensor],
        layers: Iterable[str],
        *,
        leading: Mapping[int, Tensor],
        there: Decide | None,
        back: Decide | None,
        shared: frozenset[str],
    ) -> None:
        super().__init__(state)
        self.met: list[str] = []  # the layer of each reading, in order
        self.led: dict[int, Tensor] = {}  # what leads on from each reading, by its place in that order
        self.operation: Operation | None = None
        self._weights = {name: state[name] for name in layers}
        self._name_of = {id(weight): name for name, weight in self._weights.items()}
        self._leading = leading
        self._there, self._back = there, back
        self._shared = shared
        self._last: tuple[int, str, Tensor] | None = None

    def convolved(self, input: Tensor, weight: Tensor, *args: object, **kwargs: object) -> Tensor:
        """conv2d at every position: the mask may still change on the way back."""
        return torch.conv2d(input, weight, None, *args, **kwargs)  # type: ignore[call-overload,no-any-return]

    def reads(self, weight: Tensor, input: Tensor) -> Tensor:
        """Decide the layer's mask, if it is the first to read with it and masks are decided on the way there."""
        base = weight if weight._base is None else weight._base
        name = self._name_of.get(id(weight), self._name_of.get(id(base)))
        self._last = None
        if name is None:
            return input
        if weight is not self._weights[name]:
            self.operation = None  # of a part of the weight, and of no use for the rest
        place = len(self.met)
        first = name not in self.met
        self.met.append(name)
        self._last = (place, name, input.detach())
        if self._there is not None and first:
            leading = self._leading.get(place)
            gains = None if leading is None else self._gains(name, input, leading)
            self._put(name, self._there(Visit(name, _arriving(input, weight), gains)))
        return input

    def gives(self, output: Tensor) -> Tensor:
        """Note what comes back to the output of this reading, and decide the mask then, if that is asked."""
        if self._last is not None and output.requires_grad:
            place, name, input = self._last
            operation = self.operation

            def back(leading: Tensor) -> None:
                self.led[place] = leading
                if self._back is not None and name not in self._shared and operation is not None:
                    gains = _through(operation, input, self._weights[name], leading)
                    self._put(name, self._back(Visit(name, _arriving(input, self._weights[name]), gains)))

            output.register_hook(back)
        return output

    def _gains(self, name: str, input: Tensor, leading: Tensor) -> Tensor | None:
        if name in self._shared or self.operation is None:
            return None
        return _through(self.operation, input.detach(), self._weights[name], leading)

    def _put(self, name: str, mask: Tensor | None) -> None:
        if mask is not None:
            # The derivative by the input is still to be taken, and is that of the new mask.
            self._weights[name].data.copy_(mask)


def layer(
    signals: Signals, func: Function, input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: object,
    **kwargs: object,
) -> Tensor:  # fmt: skip
    """A layer with weights, known to be one function of its input and its weight."""
    assert isinstance(signals, Sweep)
    signals.operation = lambda x, w: func(x, w, None, *args, **kwargs)
    try:
        return counting.layer(signals, func, input, weight, None, *args, **kwargs)
    finally:
        signals.operation = None


_LAYERS = frozenset(homes("linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d"))


def sweeping_rule(function: object) -> Rule:
    """What the function does in a sweep."""
    return layer if function in _LAYERS else counting_rule(function)


def _through(operation: Operation, input: Tensor, weight: Tensor, leading: Tensor) -> Tensor:
    """The derivative of the number of paths by each weight."""
    with torch._C.DisableTorchFunction(), torch.enable_grad():
        leaf = weight.detach().requires_grad_()
        (found,) = torch.autograd.grad(operation(input, leaf), leaf, leading)
    return found


def _arriving(input: Tensor, weight: Tensor) -> Tensor:
    axis = -1 if weight.dim() == 2 else 1 - weight.dim()
    return input.detach().movedim(axis, 0).flatten(1).sum(1)
