"""Following units through a run of the model: what each tensor's entries are of, and what each parameter belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from disbud.compaction.coupling import Coupling, Flags, Numbers
from disbud.isolation import leaves
from disbud.parameters import canonical

Rule: TypeAlias = Callable[..., None]


@dataclass
class Layer:
    """A weight that makes units of units: the number of each input and output.

    `usable` says which taps of its kernels ever meet more than padding.
    """

    name: str
    transposed: bool
    groups: int
    inputs: Numbers
    outputs: Numbers
    usable: Flags


@dataclass
class Owned:
    """A parameter or buffer, and the number of each of its entries along the axes that go by units."""

    name: str
    tensor: Tensor
    axes: dict[int, Numbers] = field(default_factory=dict)


class Watch(TorchFunctionMode):
    """Notes for every tensor that comes from the input which unit each entry is of.

    The numbers of a tensor are kept with one entry along each axis on which they do not change. What no rule is known
    for is held: all units that it reads, and all parameters it uses, stay as they are.
    """

    def __init__(
        self,
        model: nn.Module,
        coupling: Coupling,
        *,
        rule_of: Callable[[object, Mapping[str, object]], Rule],
        strict: bool,
    ) -> None:
        super().__init__()
        self.coupling = coupling
        self._rule_of = rule_of
        self.strict = strict  # whether sizes given as plain numbers are taken to be meant
        self.layers: dict[str, Layer] = {}
        self.multiply_adds: dict[str, int] = {}  # of each weight, for all rows of the run
        named: list[tuple[str, Tensor]] = [*model.named_parameters(), *model.named_buffers()]
        self.owned = {id(tensor): Owned(canonical(name), tensor) for name, tensor in named}
        self.met: set[str] = set()  # parameters and buffers that something was made of
        self._numbers: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = dict(kwargs or {})
        given = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        output = func(*args, **kwargs)
        used = [self.owned[id(tensor)].name for tensor in given if id(tensor) in self.owned]
        if used and any(isinstance(leaf, Tensor) for leaf in leaves(output)):
            self.met.update(used)
        if used or any(id(tensor) in self._numbers for tensor in given):
            self._rule_of(func, kwargs)(self, func, output, *args, **kwargs)
        return output

    # Numbers of tensors

    def start(self, inputs: object) -> None:
        """Note the model's own inputs."""
        self.put(inputs, None)

    def forget(self) -> None:
        """Let go of the tensors of a run that is over."""
        self._numbers.clear()

    def numbers(self, value: object) -> Tensor | None:
        """The numbers of a tensor that comes from the input; None for any other."""
        found = self._numbers.get(id(value))
        return None if found is None else found[1]

    def full(self, tensor: Tensor) -> Tensor:
        """The number of every entry; 0 where nothing is known."""
        numbers = self.numbers(tensor)
        return (
            torch.zeros(tensor.shape, dtype=torch.int64) if numbers is None else numbers.expand(tensor.shape)
        )

    def put(self, values: object, numbers: Tensor | None) -> None:
        """Note the numbers of every tensor in the values; None says that all is to stay."""
        for tensor in leaves(values):
            if isinstance(tensor, Tensor):
                found = (
                    torch.zeros([1] * tensor.dim(), dtype=torch.int64)
                    if numbers is None
                    else compact(numbers)
                )
                self._numbers[id(tensor)] = (tensor, found)

    def along(self, tensor: Tensor, axis: int) -> Numbers | None:
        """The numbers along one axis; None where they change along another too."""
        numbers = self.numbers(tensor)
        if numbers is None:
            return np.zeros(tensor.shape[axis], np.int64)
        axis %= tensor.dim()
        if any(size > 1 for i, size in enumerate(numbers.shape) if i != axis):
            return None
        found: Numbers = numbers.reshape(-1).expand(tensor.shape[axis]).numpy()
        return found

    # What stays

    def hold(self, value: object, reason: str) -> None:
        """Have what the value is of stay: the units of a signal, or a parameter along all its axes."""
        for leaf in leaves(value):
            numbers = self.numbers(leaf)
            if numbers is not None:
                self.coupling.hold(numbers.numpy(), reason)
            if id(leaf) in self.owned:
                self.hold_owned(self.owned[id(leaf)], reason)

    def hold_owned(self, owned: Owned, reason: str) -> None:
        """Have a parameter stay whole, and with it the units it goes by."""
        for axis, size in enumerate(owned.tensor.shape):
            self.goes_by(owned, axis, np.zeros(size, np.int64), reason)
        layer = self.layers.get(owned.name)
        if layer is not None and layer.groups > 1:
            self.coupling.hold(np.concatenate([layer.inputs, layer.outputs]), reason)

    def own(self, name: str, tensor: Tensor) -> Owned:
        """Count a tensor among those that the model owns."""
        return self.owned.setdefault(id(tensor), Owned(name, tensor))

    def goes_by(self, owned: Owned, axis: int, numbers: Numbers, reason: str | None = None) -> Numbers:
        """Note that the parameter's entries along that axis are of these units; gives their numbers.

        Used a second time, the units of both times go together.
        """
        known = owned.axes.setdefault(axis, numbers)
        if reason is not None:
            self.coupling.hold(known, reason)
        if known is not numbers:
            self.coupling.unite(known, numbers)
        return known

    def layer_of(self, weight: Owned, *, inputs: Numbers, groups: int, transposed: bool) -> Layer:
        """The layer that this weight is, its inputs united with those of its other uses."""
        shape = weight.tensor.shape
        layer = self.layers.get(weight.name)
        if layer is not None:
            self.coupling.unite(layer.inputs, inputs)
            return layer
        outputs = self.coupling.new(shape[1] * groups if transposed else shape[0])
        if groups == 1:
            into, out_of = (0, 1) if transposed else (1, 0)
            inputs, outputs = self.goes_by(weight, into, inputs), self.goes_by(weight, out_of, outputs)
        elif weight.axes:
            self.coupling.hold(
                np.concatenate([inputs, outputs]), "is of a weight that is used in another way too"
            )
        layer = Layer(weight.name, transposed, groups, inputs, outputs, np.zeros(shape[2:], np.bool_))
        self.layers[weight.name] = layer
        return layer

    def count(self, weight: Tensor, multiply_adds: int) -> None:
        """Note what a use of a weight costs."""
        owned = self.owned.get(id(weight))
        if owned is not None:
            self.multiply_adds[owned.name] = self.multiply_adds.get(owned.name, 0) + multiply_adds


def compact(numbers: Tensor) -> Tensor:
    """The numbers with one entry along each axis on which they do not change."""
    for axis in range(numbers.dim()):
        if numbers.shape[axis] > 1:
            first = numbers.narrow(axis, 0, 1)
            if numbers.stride(axis) == 0 or bool((numbers == first).all()):
                numbers = first
    return numbers.contiguous()


def varying(numbers: Tensor) -> list[int]:
    """The axes along which the numbers change."""
    return [axis for axis, size in enumerate(numbers.shape) if size > 1]
