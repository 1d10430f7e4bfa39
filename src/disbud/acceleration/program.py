"""A region of the model as a list of steps on signals and ordinary tensors, and the running of it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from disbud.acceleration.calls import Call, contiguous
from disbud.acceleration.signals import Signal, Wish, plain


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
        made = _changed(step, values, args, kwargs)
    elif step.changes_input:
        # An ordinary tensor is changed by torch, under all its names.
        given = tree_map(plain, (args, kwargs))
        made = _called(step, *given)
    else:
        made = _called(step, args, kwargs)
    values[step.name] = made
    for name in step.done_with:
        values.pop(name, None)


def _changed(
    step: Step, values: dict[str, object], args: tuple[object, ...], kwargs: Mapping[str, object]
) -> object:
    """A step that works in place: whoever holds its input, or a flattening of it, holds the outcome afterwards."""
    before = args[0]
    assert isinstance(before, Signal)
    holders = {
        name: value.shape
        for name, value in values.items()
        if isinstance(value, Signal) and value.blocked is before.blocked
    }
    made = _called(step, args, kwargs)
    for name, shape in holders.items():
        if isinstance(made, Signal):
            values[name] = Signal(made.blocked, shape)
        elif isinstance(made, Tensor):
            values[name] = made.reshape(made.shape[0], *shape)
    return made


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
    """What stands in for the forward of a region's module."""

    def __init__(self, module: nn.Module, programs: Mapping[bool, Program]) -> None:
        self.module = module
        self.programs = dict(programs)

    def __call__(self, *args: object, **kwargs: object) -> object:
        """The module's output on ordinary tensors."""
        program = self.programs[self.module.training]
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
