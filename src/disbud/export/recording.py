"""A run of a network as it is written down: which tensors come from the input, and the number of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from disbud.errors import DisbudError
from disbud.export.operations import Constant, Numbers, Operation, View
from disbud.isolation import leaves
from disbud.parameters import canonical

Apply: TypeAlias = Callable[
    ["Recorder", Callable[..., object], object, tuple[object, ...], dict[str, object]], None
]


class Recorder(TorchFunctionMode):
    """Writes down what is computed from the input; what is computed from parameters alone is constant."""

    def __init__(self, model: nn.Module, apply: Apply) -> None:
        super().__init__()
        self._apply = apply  # writes down what one function did
        self.operations: list[Operation] = []
        self._arrays = 0  # how many there are
        self._names = {id(p): canonical(name) for name, p in model.named_parameters()}
        self._values: dict[int, tuple[Tensor, int]] = {}
        self._stale: dict[int, str] = {}

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = dict(kwargs or {})
        output = func(*args, **kwargs)
        if any(self.follows(leaf) for leaf in leaves((args, kwargs))):
            self._apply(self, func, output, args, kwargs)
        return output

    def follows(self, value: object) -> bool:
        """Whether this is a tensor that comes from the input."""
        return id(value) in self._values

    def value(self, tensor: object, reader: str) -> View:
        """The array that the tensor is, in the tensor's shape."""
        if id(tensor) in self._stale:
            raise DisbudError(
                f"{reader} reads a tensor that shares its memory with one changed in place by "
                f"{self._stale[id(tensor)]}; use the form that is not in place there"
            )
        if id(tensor) not in self._values:
            raise DisbudError(f"{reader} does not come from the network's input by way of torch's functions")
        found, array = self._values[id(tensor)]
        return View(array, tuple(found.shape))

    def new(self, tensor: Tensor) -> View:
        """An array for a tensor that is made here."""
        made = View(self._arrays, tuple(tensor.shape))
        self._arrays += 1
        self.same(tensor, made)
        return made

    def same(self, tensor: Tensor, view: View) -> None:
        """Note that the tensor holds the entries of that array in the same order, in whatever shape."""
        self._values[id(tensor)] = (tensor, view.array)
        self._stale.pop(id(tensor), None)

    def overwritten(self, tensor: Tensor, by: str) -> None:
        """Note that the memory of this tensor was written to: no other tensor there is what it was."""
        place = tensor.untyped_storage().data_ptr()
        for key, (other, _) in self._values.items():
            if other is not tensor and other.untyped_storage().data_ptr() == place:
                self._stale[key] = by

    def add(self, operation: Operation) -> None:
        """Write an operation down."""
        self.operations.append(operation)

    def name_of(self, weight: Tensor) -> str:
        """What the parameter is called; a weight that is computed goes by its place."""
        return self._names.get(id(weight), f"layer {len(self.operations)}")

    def constant(self, value: object, reader: str) -> Constant:
        """A number, or a tensor that does not come from the input."""
        if isinstance(value, int | float):
            return Constant(np.array(float(value)))
        if isinstance(value, Tensor) and not self.follows(value) and not value.is_complex():
            return Constant(numbers_of(value))
        raise DisbudError(f"{reader} with {value!r} cannot be written as C")


def numbers_of(tensor: Tensor) -> Numbers:
    """The tensor's numbers in double precision."""
    with torch._C.DisableTorchFunction():
        found: Numbers = tensor.detach().to("cpu", torch.float64).contiguous().numpy().copy()
    return found
