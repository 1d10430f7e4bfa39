"""What a node of a region's graph is: a layer, a BatchNorm, a function that a rule knows, a change made in place."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from disbud.acceleration.layers import Layer
from disbud.acceleration.reading import hooked
from disbud.acceleration.rules import FUNCTIONS, METHODS, MODULES, Rule
from disbud.acceleration.signals import Signal, Wish

_SEEN = ("shape", "ndim", "dtype", "device")
_IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv)


class Nodes:
    """The nodes of graphs of one module, whose layers run by the kernels they have now."""

    def __init__(self, module: nn.Module, layers: Mapping[int, Layer]) -> None:
        self.root = module
        self._layers = layers

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that is called."""
        return self.root.get_submodule(str(node.target)) if node.op == "call_module" else None

    def layer(self, node: fx.Node) -> Layer | None:
        """The layer that is called."""
        return self._layers.get(id(self.module(node)))

    def norm(self, node: fx.Node) -> _BatchNorm | None:
        """The BatchNorm that is called, where nothing else is to be called with it."""
        module = self.module(node)
        return module if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d) and not hooked(module) else None  # type: ignore[arg-type, return-value]

    def is_followed(self, node: fx.Node) -> bool:
        """Whether a signal may stay in the blocked layout through a call that is no layer."""
        return self.rule(node) is not None or self.norm(node) is not None

    def function(self, node: fx.Node) -> Callable[..., object] | None:
        """The function of a call, or the one that a module with settings amounts to."""
        module = self.module(node)
        if module is not None:
            return MODULES[type(module)][0] if type(module) in MODULES and not hooked(module) else None
        return node.target if node.op == "call_function" and callable(node.target) else None

    def rule(self, node: fx.Node) -> Rule | None:
        """What the call does to a signal, where that is known."""
        module = self.module(node)
        if type(module) is nn.Identity and not hooked(module):
            return METHODS["contiguous"]
        if node.op == "call_method":
            return METHODS.get(str(node.target))
        if node.target is getattr and node.args[1] in _SEEN:
            return _look_at
        function = self.function(node)
        try:
            return FUNCTIONS.get(function) if function is not None else None
        except TypeError:  # a callable that cannot be hashed
            return None

    def is_sum(self, node: fx.Node) -> bool:
        """Whether it is the sum of two values."""
        is_rule = self.rule(node) is FUNCTIONS[operator.add]
        return is_rule and len(node.args) == 2 and not node.kwargs and len(node.all_input_nodes) == 2

    def is_relu(self, node: fx.Node) -> bool:
        """Whether it is a ReLU."""
        return self.rule(node) is FUNCTIONS[torch.relu]

    def halves(self, node: fx.Node) -> bool:
        """Whether it is a 2x2 max pooling of stride 2."""
        if self.function(node) not in (F.max_pool2d,):
            return False
        module = self.module(node)
        settings: dict[str, object]
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
        settings = dict(zip(names, (2, None, 0, 1, False, False), strict=True))
        if module is not None:
            settings |= {name: getattr(module, name) for name in names}
        else:
            settings |= {**dict(zip(names, node.args[1:], strict=False)), **node.kwargs}
        settings.pop("input", None)
        sizes = [settings[name] for name in names[:4]]
        both = [list(size) if isinstance(size, tuple | list) else [size] * 2 for size in sizes]
        return both in ([[2, 2], [2, 2], [0, 0], [1, 1]], [[2, 2], [None, None], [0, 0], [1, 1]]) and not (
            settings["ceil_mode"] or settings["return_indices"]
        )

    def changes_input(self, node: fx.Node) -> bool:
        """Whether the call works in place."""
        name = getattr(node.target, "__name__", str(node.target))
        in_place = (
            name.endswith("_") and not name.endswith("__")
            if node.op != "call_module"
            else bool(getattr(self.module(node), "inplace", False))
        )
        return in_place or bool(node.kwargs.get("inplace", False)) or node.target in _IN_PLACE


def only_user(node: fx.Node) -> fx.Node | None:
    """The one node that reads this one, and nothing else."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].all_input_nodes == [node] else None


def _look_at(wish: Wish, input: object, name: str) -> object:
    """What a model asks of a signal without needing its numbers."""
    if not isinstance(input, Signal):
        return NotImplemented
    device = input.blocked.data.device
    return {"shape": input.size, "ndim": len(input.size), "dtype": torch.float32, "device": device}[name]
