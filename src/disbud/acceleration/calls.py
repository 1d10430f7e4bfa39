"""The calls that a program makes besides layers and normalisation: torch's code as it is, and functions by rule."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from typing import TypeAlias

from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves, tree_map

from disbud.acceleration.rules import Rule
from disbud.acceleration.signals import Signal, Wish, plain

Call: TypeAlias = Callable[..., object]


def contiguous(value: object) -> object:
    """The ordinary tensor of a signal, laid out row by row; anything else as it is."""
    value = plain(value)
    return value.contiguous() if isinstance(value, Tensor) else value


class RunTorch:
    """A call of torch's own, or of a module as it is: signals become ordinary tensors."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def __call__(self, wish: Wish, *args: object, **kwargs: object) -> object:
        """What the call returns."""
        given = tree_map(plain, (args, kwargs))
        return self.call(*given[0], **given[1])

    # Some of torch's functions (max_pool2d) are made inside another and cannot be pickled but by the name they go by.
    def __getstate__(self) -> tuple[str, Call | None]:
        name = getattr(self.call, "__name__", "")
        return (name, None) if getattr(functional, name, None) is self.call else ("", self.call)

    def __setstate__(self, state: tuple[str, Call | None]) -> None:
        name, call = state
        self.call = getattr(functional, name) if call is None else call


class RunMethod:
    """A method of the first value."""

    def __init__(self, name: str) -> None:
        # torch's convolutions hand on channels_last, of which view makes no rows.
        self.name = "reshape" if name == "view" else name
        self.renamed = {"size": "shape"} if name == "view" else {}

    def __call__(self, wish: Wish, input: object, *args: object, **kwargs: object) -> object:
        """What the method returns."""
        args, kwargs = tree_map(plain, (args, kwargs))
        named = {self.renamed.get(key, key): value for key, value in kwargs.items()}
        return getattr(plain(input), self.name)(*args, **named)


class RunModule:
    """A module called as it is, with tensors laid out as the dense model would hand them over."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, wish: Wish, *args: object, **kwargs: object) -> object:
        """What the module returns."""
        given = tree_map(contiguous, (args, kwargs))
        return self.module(*given[0], **given[1])


class RunRule:
    """A function on signals by its rule, and as it is on ordinary tensors or where the rule has no way."""

    def __init__(
        self, rule: Rule, otherwise: Call, module: nn.Module | None, settings: tuple[str, ...]
    ) -> None:
        self.rule = rule
        self.otherwise = otherwise
        self.module = module
        self.settings = settings
        self.signature = inspect.signature(rule)

    def __call__(self, wish: Wish, *args: object, **kwargs: object) -> object:
        """The outcome; a signal where a signal is given and the rule has a way."""
        if any(isinstance(leaf, Signal) for leaf in tree_leaves((args, kwargs))):
            settings = {name: getattr(self.module, name) for name in self.settings}
            if self._takes(wish, *args, **kwargs, **settings):
                made = self.rule(wish, *args, **kwargs, **settings)
                if made is not NotImplemented:
                    return made
        return self.otherwise(wish, *args, **kwargs)

    def _takes(self, *args: object, **kwargs: object) -> bool:
        """Whether the rule knows these arguments: torch has more of them, and other names for some."""
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError:
            return False
        return True


class RunAttribute:
    """Something the region's module holds: read anew in each run, since weights are stood in for."""

    def __init__(self, module: nn.Module, path: str) -> None:
        self.module = module
        self.path = path

    def __call__(self, wish: Wish) -> object:
        """Its present value."""
        return operator.attrgetter(self.path)(self.module)


class OnFirst:
    """A call with the other arguments of a node in the graph filled in."""

    def __init__(self, call: Call, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        self.call = call
        self.args = args
        self.kwargs = dict(kwargs)

    def __call__(self, wish: Wish, x: object) -> object:
        """What the call returns."""
        return self.call(wish, x, *self.args, **self.kwargs)
