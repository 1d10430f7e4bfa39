"""Signals that count paths, and signals that only say whether there is one.

Every kept weight is an edge and every constant factor a plain link: neither sizes nor signs act. Biases, and whatever
else is added without coming from the input, are nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from disbud.errors import DisbudError
from disbud.graph.flow.arithmetic import blank
from disbud.graph.flow.rules import linear_rule
from disbud.graph.flow.signals import Signals, tensors_in
from disbud.graph.flow.survivors import Survivors

_REACHED = (
    2.0**-10  # sums of ones are whole numbers; below lies the noise of a device that sums in another way
)


DETACHING = (Tensor.detach, torch.detach, Tensor.data.__get__)  # type: ignore[attr-defined]
_SUBTRACTING = (
    Tensor.sub,
    Tensor.subtract,
    Tensor.__sub__,
    Tensor.__rsub__,
    Tensor.sub_,
    torch.sub,
    torch.subtract,
)


class Counts(Signals):
    """Signals whose entries are numbers of paths from the input."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__(state.values(), Survivors({}, None), keep_biases=False)
        self._gates: dict[int, tuple[Tensor, Tensor]] = {}
        self._conditions: dict[int, Tensor] = {}

    def factor(self, value: Tensor) -> Tensor:
        """What multiplies: a signal or a mask as it is, any other constant by whether it is zero."""
        known = value in self or id(value) in self._magnitudes
        if known:
            return super().factor(value)
        return torch.ones_like(value, dtype=self.dtype) if self.is_condition(value) else _indicator(value)

    def constant(self, func: Callable[..., object], *args: object, **kwargs: object) -> object:
        """As it is; a weight stays a weight also where the model takes it out of the graph.

        What is made of comparisons of signals stands for either outcome as they do.
        """
        if func in DETACHING:
            return args[0]
        if func in _SUBTRACTING and any(value.requires_grad for value in tensors_in(args)):
            raise DisbudError(
                "the model subtracts something from its weights before it uses them (weight standardisation?), so a "
                "weight removed is no edge removed, and paths are not defined"
            )
        output = func(*args, **kwargs)
        if linear_rule(func) is not blank and any(map(self.is_condition, tensors_in((args, kwargs)))):
            for value in tensors_in((output,)):
                self.put_condition(value)
        return output

    def copied(self, signal: Tensor) -> Tensor:
        """The same signal, a gate if it is one, in memory of its own."""
        copy = super().copied(signal)
        return self.put_gate(copy, self.links(signal)) if self.is_gate(signal) else copy

    def put_gate(self, tensor: Tensor, links: Tensor) -> Tensor:
        """Note a signal that steers another when multiplied with it, and the links that are there without it."""
        self._gates[id(tensor)] = (tensor, links)
        return tensor

    def is_gate(self, value: object) -> bool:
        """Whether the value came from a sigmoid or a softmax."""
        return id(value) in self._gates

    def links(self, gate: Tensor) -> Tensor:
        """Where a gate lets pass what it is multiplied with, whatever it is itself."""
        return self._gates[id(gate)][1]

    def opened(self, gate: Tensor) -> Tensor:
        """What a gate multiplies with: paths lead past it, not through it."""
        return self.links(gate)

    def put_condition(self, tensor: Tensor) -> None:
        """Note what a comparison of signals gave: it stands for either outcome."""
        self._conditions[id(tensor)] = tensor

    def is_condition(self, value: object) -> bool:
        """Whether the value came from a comparison of signals."""
        return id(value) in self._conditions

    def reads(self, weight: Tensor, input: Tensor) -> Tensor:
        """Note that a layer with this weight reads this signal; gives what it is to compute with."""
        return input

    def gives(self, output: Tensor) -> Tensor:
        """Note what the layer that read last makes of it."""
        return output

    def joined(self, a: Tensor, b: Tensor) -> Tensor:
        """A product of two signals: paths come from both sides, and neither lives without the other."""
        (a, b), exponent = self.align([a, b])
        return self.settle((a + b) * (a > 0) * (b > 0), exponent)


@dataclass
class Use:
    """One reading of a signal by a layer: what it reads, through a copy of its own, and what it makes of it."""

    layer: str
    source: Tensor
    inputs: Tensor
    unit_axis: int
    weights: int
    output: Tensor = field(default_factory=lambda: torch.zeros(0))


class Rooted(Counts):
    """Signals whose derivatives end at `roots`: the input, or what whole numbers look up."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__(state)
        self.roots: list[Tensor] = []

    def put(self, tensor: Tensor, exponent: int = 0) -> Tensor:
        """Note a signal; one that comes from nothing else that was noted is a root."""
        if tensor.is_floating_point() and not tensor.requires_grad:
            self.roots.append(tensor.requires_grad_())
        return super().put(tensor, exponent)

    def begin(self, tensor: Tensor) -> Tensor:
        """Note a root; the model is handed a copy, since autograd lets nobody write over what derivatives end at."""
        root = self.put(tensor)
        return self.put(root.clone()) if root.requires_grad else root


class Reach(Rooted):
    """Signals whose entries are 1 where any path comes from the input, and derivatives 1 where any leads on."""

    def __init__(self, state: Mapping[str, Tensor], layers: Iterable[str]) -> None:
        super().__init__(state)
        self.uses: list[Use] = []
        self._layer_of = {id(state[name]): name for name in layers}
        self._reading: Use | None = None

    def settle(self, tensor: Tensor, exponent: int) -> Tensor:
        """Note a signal by whether anything reaches each entry."""
        return self.put(saturated(tensor))

    def convolved(self, input: Tensor, weight: Tensor, *args: object, **kwargs: object) -> Tensor:
        """conv2d at every position: those that are reached alike were not all reached by the same taps."""
        return torch.conv2d(input, weight, None, *args, **kwargs)  # type: ignore[call-overload,no-any-return]

    def reads(self, weight: Tensor, input: Tensor) -> Tensor:
        """Note the use, and hand on a copy of the signal whose derivative is that of this use alone."""
        self._reading = None
        base = (
            weight._base if weight._base is not None else weight
        )  # a slice or transpose belongs to the same layer
        name = self._layer_of.get(id(weight), self._layer_of.get(id(base)))
        if name is None:
            return input
        copy = self.put(saturated(input))
        axis = -1 if weight.dim() == 2 else 1 - weight.dim()
        self._reading = Use(name, input, copy, axis, weight.numel())
        return copy

    def gives(self, output: Tensor) -> Tensor:
        """Note the output of the use that was just begun; the model is handed a copy, which it may write over."""
        if self._reading is None:
            return output
        self._reading.output = output
        self.uses.append(self._reading)
        self._reading = None
        return self.put(output.clone())

    def joined(self, a: Tensor, b: Tensor) -> Tensor:
        """Alive where both are."""
        return self.settle(a * b, 0)

    def opened(self, gate: Tensor) -> Tensor:
        """Links, and where the gate is alive too, the outcome depends on it."""
        return self.put(self.links(gate) * (1 + gate.clamp(min=0)))


def saturated(tensor: Tensor) -> Tensor:
    """1 where the tensor is positive, in its derivative too."""
    reached: Tensor = _Saturated.apply(tensor)  # type: ignore[no-untyped-call]
    return reached


class _Saturated(torch.autograd.Function):
    """Whether an entry is reached, and backwards whether anything is reached from it; attention's masks stay."""

    @staticmethod
    def forward(ctx, signal):  # type: ignore[no-untyped-def]
        return _positive(signal).masked_fill_(signal == -math.inf, -math.inf)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return _positive(gradient)


def _positive(values: Tensor) -> Tensor:
    return (values > _REACHED).to(values.dtype)


def _indicator(value: Tensor) -> Tensor:
    indicator: Tensor = _Indicator.apply(value)  # type: ignore[no-untyped-call]
    return indicator


class _Indicator(torch.autograd.Function):
    """Whether a constant is zero; what is made of weights, such as their transpose, hands its derivative on to them."""

    @staticmethod
    def forward(ctx, value):  # type: ignore[no-untyped-def]
        return (value != 0).to(value.dtype if value.is_floating_point() else torch.get_default_dtype())

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return gradient
