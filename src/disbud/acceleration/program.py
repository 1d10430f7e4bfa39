"""A region of the model as a list of steps on signals and ordinary tensors, and the running of it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from disbud.acceleration.calls import Call, contiguous
from disbud.acceleration.signals import Branch, Signal, Wish, plain


@dataclass(frozen=True)
class Ref:
    """The value that an earlier step made."""

    name: str


@dataclass(frozen=True, eq=False)
class Step:
    """One call: what is called, with which values, and what no later step needs."""

    name: str
    call: Call
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    wish: Wish
    changes_input: bool = False
    done_with: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Program:
    """The steps of one graph, the names of what it is given, and what it returns."""

    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    output: object

    def run(self, given: Mapping[str, object]) -> object:
        """The output, as ordinary tensors."""
        values = dict(given)
        for step in self.steps:
            take_step(step, values)
        return tree_map(contiguous, _resolved(self.output, values))


Observer = Callable[[Step, tuple[object, ...], Mapping[str, object]], object]
_OBSERVER: ContextVar[Observer | None] = ContextVar("observer", default=None)


@contextlib.contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Within the block the observer makes every step's call, with the arguments it is given."""
    token = _OBSERVER.set(observer)
    try:
        yield
    finally:
        _OBSERVER.reset(token)


def _called(step: Step, args: tuple[object, ...], kwargs: Mapping[str, object]) -> object:
    observer = _OBSERVER.get()
    return step.call(step.wish, *args, **kwargs) if observer is None else observer(step, args, kwargs)


def take_step(step: Step, values: dict[str, object]) -> None:
    """Compute a step's value and put it among the values."""
    args = tuple(_resolved(arg, values) for arg in step.args)
    kwargs = {key: _resolved(value, values) for key, value in step.kwargs.items()}
    if step.changes_input and args and isinstance(args[0], Signal):
        # A step that works in place: whoever holds its input holds the outcome afterwards.
        made = _called(step, args, kwargs)
        _hand_on(args[0], made, values)
    elif step.changes_input:
        # An ordinary tensor is changed by torch, under all its names.
        given = tree_map(plain, (args, kwargs))
        made = _called(step, *given)
    else:
        made = _called(step, args, kwargs)
    if isinstance(made, Branch):
        if isinstance(args[0], Signal):
            _hand_on(args[0], made.input, values)
        made = made.made
    values[step.name] = made
    for name in step.done_with:
        values.pop(name, None)


def _hand_on(before: Signal, after: object, values: dict[str, object]) -> None:
    """Give everyone who holds a signal, or a flattening of it, the other value in its place."""
    for name, value in values.items():
        if isinstance(value, Signal) and value.blocked is before.blocked:
            if isinstance(after, Signal):
                values[name] = Signal(after.blocked, value.shape)
            elif isinstance(after, Tensor):
                values[name] = after.reshape(after.shape[0], *value.shape)


def _resolved(value: object, values: Mapping[str, object]) -> object:
    if isinstance(value, Ref):
        return values[value.name]
    if isinstance(value, tuple | list):
        made = [_resolved(item, values) for item in value]
        return tuple(made) if isinstance(value, tuple) else made
    if isinstance(value, Mapping):
        return {key: _resolved(item, values) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(*(_resolved(part, values) for part in (value.start, value.stop, value.step)))
    return value


class Runner:
    """What stands in for the forward of a region's module: by its mode, and by whether gradients are asked for.

    Where the graphs of the two modes differ, modules of one's own may ask for theirs, and all of them must be in one:
    the module's own code runs where they are not, its layers by their kernels.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        follows_modes: bool,
        training: Program,
        evaluation: Program,
        inference: Program,
    ) -> None:
        self.module = module
        # torch's own modules are asked for their modes at each call.
        self.asking = [
            inner
            for inner in module.modules()
            if follows_modes and not type(inner).__module__.startswith("torch.")
        ]
        self.training = training
        self.evaluation = evaluation
        self.inference = inference

    def __call__(self, *args: object, **kwargs: object) -> object:
        """The module's output on ordinary tensors."""
        modes = {inner.training for inner in self.asking}
        if len(modes) == 2:
            return type(self.module).forward(self.module, *args, **kwargs)
        program = self.evaluation if torch.is_grad_enabled() else self.inference
        program = self.training if (modes or {self.module.training}) == {True} else program
        return program.run(self.bound(program, args, kwargs))

    def bound(
        self, program: Program, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> dict[str, object]:
        """The arguments under the names of the graph's inputs."""
        if len(program.inputs) == 1 and len(args) == 1 and not kwargs:
            return {program.inputs[0]: args[0]}
        bound = inspect.signature(type(self.module).forward).bind(self.module, *args, **kwargs)
        bound.apply_defaults()
        # The graph's inputs are the arguments in order, without the module itself; some get other names there.
        return dict(zip(program.inputs, list(bound.arguments.values())[1:], strict=True))
