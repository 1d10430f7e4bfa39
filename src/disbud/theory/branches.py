"""Where a model adds a branch to its shortcut: seen in one forward pass, from what the additions add."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from disbud.errors import DisbudError
from disbud.graph import LAYER_FUNCTIONS
from disbud.isolation import Example, bare, device_of, forward, isolated, leaves, on_device, to_write_on

_ADDITIONS: frozenset[object] = frozenset(
    {
        torch.add,
        Tensor.add,
        Tensor.add_,
        Tensor.__add__,
        Tensor.__radd__,
        Tensor.__iadd__,
        operator.add,
        operator.iadd,
    }
)
_WEIGHTED: frozenset[object] = LAYER_FUNCTIONS | frozenset(
    {
        functional.multi_head_attention_forward,
        torch.matmul,
        torch.bmm,
        Tensor.matmul,
        Tensor.__matmul__,
    }
)


@dataclass
class _Value:
    """A tensor computed from the input: what it came from, how often it was used, and the modules that returned it."""

    before: int = 0  # of all values it depends on, one bit each, its own too
    weighted: bool = False
    uses: int = 0
    modules: list[str] = field(default_factory=list)


def branch_ends(model: nn.Module, example: Example) -> list[str]:
    """The names of the modules whose outputs are added to a shortcut, one for each addition, in order.

    Of two signals that are added and have a common origin, the branch is the one with more weighted layers since then.
    """
    watch = _Watch()
    model = bare(model)
    # A model may write to what it is given.
    inputs = to_write_on(on_device(example, device_of(model)))
    calls: dict[str, int] = {}
    handles = []
    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_hook(_noter(watch, calls, name)))
    for leaf in leaves(inputs):
        if isinstance(leaf, Tensor):
            watch.new(leaf, [], weighted=False)
    try:
        with isolated(model, seed=0), torch.no_grad(), watch:
            forward(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    found = [
        end
        for first, second in watch.added
        if (end := _end(watch, first, second, len(watch.added))) is not None
    ]
    if not found:
        raise DisbudError(
            "the model adds no branch to a shortcut: in one forward pass no two signals were added of which one has "
            "more weighted layers behind it than the other"
        )
    for name in found:
        if calls[name] != 1:
            raise DisbudError(
                f"{name} ends a branch and is used {calls[name]} times in one forward pass, so its output cannot be "
                "scaled for one place alone; give the branch a module of its own at its end"
            )
    return found


def _noter(watch: _Watch, calls: dict[str, int], name: str) -> Callable[..., None]:
    def note(module: nn.Module, inputs: object, output: object) -> None:
        calls[name] = calls.get(name, 0) + 1
        if isinstance(output, Tensor) and id(output) in watch.at:
            watch.values[watch.at[id(output)]].modules.append(name)

    return note


class _Watch(TorchFunctionMode):
    """Follows every tensor computed from the input."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[_Value] = []
        self.at: dict[int, int] = {}
        self.held: list[Tensor] = []  # so that no identity is used twice
        self.added: list[tuple[int, int]] = []

    def new(self, tensor: Tensor, before: Iterable[int], *, weighted: bool) -> None:
        """A value just computed; in place, it takes over the tensor's identity."""
        number = len(self.values)
        value = _Value(1 << number, weighted)
        for other in before:
            value.before |= self.values[other].before
        self.values.append(value)
        self.at[id(tensor)] = number
        self.held.append(tensor)

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        before = [self.at[id(leaf)] for leaf in inputs if id(leaf) in self.at]
        output = func(*args, **(kwargs or {}))
        if not before:
            return output
        if func in _ADDITIONS and len(before) == 2 and before[0] != before[1]:
            self.added.append((before[0], before[1]))
        made = [
            leaf
            for leaf in tree_leaves(output)
            if isinstance(leaf, Tensor) and (id(leaf) not in self.at or _in_place(func))
        ]
        for number in set(before) if made else ():
            self.values[number].uses += 1
        for leaf in made:
            self.new(leaf, before, weighted=func in _WEIGHTED)
        return output


def _in_place(func: Callable[..., object]) -> bool:
    name = str(getattr(func, "__name__", ""))
    return (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")


def _end(watch: _Watch, first: int, second: int, additions: int) -> str | None:
    """The module that returned the branch of one addition; None where it adds no branch to a shortcut."""
    a, b = watch.values[first], watch.values[second]
    common = a.before & b.before
    if not common:
        return None
    layers = [_weighted(watch, value.before & ~common) for value in (a, b)]
    if layers[0] == layers[1]:
        if not layers[0]:
            return None
        raise DisbudError(
            f"of two signals that are added both have {layers[0]} weighted layers behind them since they parted "
            f"({_called(a)} and {_called(b)}), so which is the shortcut cannot be told"
        )
    branch = a if layers[0] > layers[1] else b
    if not branch.modules:
        raise DisbudError(
            f"one of {additions} branches ends in a function, not in a module, so there is nothing to scale its output "
            "at; let a module compute it last (torch.nn.Identity() will do)"
        )
    if branch.uses > 1:
        raise DisbudError(
            f"what {branch.modules[0]} gives is added to a shortcut and read elsewhere too, so scaling it would change "
            "more than the branch"
        )
    return branch.modules[0]


def _weighted(watch: _Watch, some: int) -> int:
    return sum(watch.values[i].weighted for i in range(some.bit_length()) if some >> i & 1)


def _called(value: _Value) -> str:
    return value.modules[0] if value.modules else "a function's result"
