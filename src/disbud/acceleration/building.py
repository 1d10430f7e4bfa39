"""From a graph to a program: which calls are fused, what each next layer wishes, and when a value is done with."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from disbud.acceleration.calls import Call, OnFirst, RunAttribute, RunMethod, RunModule, RunRule, RunTorch
from disbud.acceleration.layers import SPARSE, Layer, RunLayer
from disbud.acceleration.norms import RunNorm
from disbud.acceleration.program import Program, Ref, Runner, Step
from disbud.acceleration.reading import Region, hooked
from disbud.acceleration.rectified import RunRectifiedSum
from disbud.acceleration.rules import EACH, FUNCTIONS, METHODS, MODULES, Rule
from disbud.acceleration.signals import Signal, Wish
from disbud.kernels.normalisation import RELU


def runner_of(module: nn.Module, region: Region, layers: Mapping[int, Layer]) -> Runner:
    """The programs of a region whose layers run by the kernels they have now."""
    programs = {
        mode: _Builder(module, graph, layers).program()
        for mode, graph in ((True, region.training), (False, region.evaluation))
    }
    return Runner(module, programs)


class _Builder:
    """From a graph to a program: which call is fused with which, what each next layer wishes, what is done with."""

    def __init__(self, module: nn.Module, graph: fx.Graph, layers: Mapping[int, Layer]) -> None:
        self.module = module
        self.nodes = list(graph.nodes)
        self.layers = layers
        self.wishes: dict[fx.Node, list[Layer]] = {}
        self.then_blocked: dict[fx.Node, bool] = {}
        for node in reversed(self.nodes):
            self._look_ahead(node)

    def program(self) -> Program:
        inputs = tuple(node.name for node in self.nodes if node.op == "placeholder")
        steps: list[Step] = []
        fused: dict[fx.Node, fx.Node] = {}
        output: object = None
        for node in self.nodes:
            if node.op == "output":
                output = _with_refs(node.args[0])
            elif node.op != "placeholder" and node not in fused:
                last = node
                for follower in self._fused(node):
                    fused[follower], last = node, follower
                wish = Wish(layer.pattern for layer in self.wishes[last])
                steps.append(
                    Step(
                        last.name,
                        self._call(node),
                        tuple(_with_refs(arg) for arg in node.args),
                        {key: _with_refs(value) for key, value in node.kwargs.items()},
                        wish,
                        changes_input=self._changes_input(node),
                    )
                )
        return Program(inputs, tuple(_freeing(steps, output)), output)

    # Looking ahead

    def _look_ahead(self, node: fx.Node) -> None:
        """What the sparse layers that read this value next want, and whether the next layers are sparse at all."""
        self.wishes[node] = []
        self.then_blocked[node] = False
        for user in node.users:
            layer = self._layer(user)
            if layer is not None:
                if layer.kernel == SPARSE:
                    self.wishes[node].append(layer)
                    self.then_blocked[node] = True
            elif self._is_followed(user):
                self.then_blocked[node] |= self.then_blocked[user]
                if self._rule(user) in _HANDED_ON:
                    self.wishes[node] += self.wishes[user]

    def _layer(self, node: fx.Node) -> Layer | None:
        return self.layers.get(id(self._module(node)))

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.module.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _is_followed(self, node: fx.Node) -> bool:
        return self._rule(node) is not None or self._is_norm(node)

    def _is_norm(self, node: fx.Node) -> bool:
        module = self._module(node)
        return type(module) in (nn.BatchNorm1d, nn.BatchNorm2d) and not hooked(module)  # type: ignore[arg-type]

    def _function(self, node: fx.Node) -> Call | None:
        """The function of a call, or the one that a module with settings amounts to."""
        module = self._module(node)
        if module is not None:
            return MODULES[type(module)][0] if type(module) in MODULES and not hooked(module) else None
        return node.target if node.op == "call_function" and callable(node.target) else None

    def _rule(self, node: fx.Node) -> Rule | None:
        module = self._module(node)
        if type(module) is nn.Identity and not hooked(module):
            return METHODS["contiguous"]
        if node.op == "call_method":
            return METHODS.get(str(node.target))
        if node.target is getattr and node.args[1] in _SEEN:
            return _look_at
        function = self._function(node)
        try:
            return FUNCTIONS.get(function) if function is not None else None
        except TypeError:  # a callable that cannot be hashed
            return None

    # Fusing

    def _fused(self, node: fx.Node) -> list[fx.Node]:
        """What is done in the same pass: a ReLU and a pooling after a BatchNorm, a ReLU after a sum."""
        after = self._only_user(node)
        if self._is_sum(node):
            # In place, whoever holds the first of them is handed the outcome: both or neither must be so.
            agrees = after is not None and (not self._changes_input(node) or self._changes_input(after))
            return [after] if after is not None and self._is_relu(after) and agrees else []
        if not self._is_norm(node) or after is None or not self._is_relu(after):
            return []
        pool = self._only_user(after)
        return [after, pool] if pool is not None and self._halves(pool) else [after]

    def _is_sum(self, node: fx.Node) -> bool:
        is_rule = self._rule(node) is FUNCTIONS[operator.add]
        return is_rule and len(node.args) == 2 and not node.kwargs and len(node.all_input_nodes) == 2

    def _is_relu(self, node: fx.Node) -> bool:
        return self._rule(node) is FUNCTIONS[torch.relu]

    def _only_user(self, node: fx.Node) -> fx.Node | None:
        users = list(node.users)
        return users[0] if len(users) == 1 and users[0].all_input_nodes == [node] else None

    def _halves(self, node: fx.Node) -> bool:
        if self._function(node) not in (F.max_pool2d,):
            return False
        module = self._module(node)
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

    # Calls

    def _call(self, node: fx.Node) -> Call:
        layer = self._layer(node)
        if layer is not None:
            (source,) = node.all_input_nodes
            return RunLayer(layer, then_blocked=self.then_blocked[node], is_first=source.op == "placeholder")
        if self._is_norm(node):
            return self._norm(node)
        after = self._fused(node)
        if after:
            return RunRectifiedSum([self._by_rule(node), _on_first(self._by_rule(after[0]), after[0])])
        return self._by_rule(node)

    def _by_rule(self, node: fx.Node) -> Call:
        rule, module = self._rule(node), self._module(node)
        if rule is None:
            return self._plain(node)
        settings = MODULES[type(module)][1] if module is not None and type(module) in MODULES else ()
        return RunRule(rule, self._plain(node), module, settings)

    def _norm(self, node: fx.Node) -> RunNorm:
        after = self._fused(node)
        module = self._module(node)
        assert isinstance(module, _BatchNorm)
        first = _on_first(self._plain(node), node)
        parts = [first, *(_on_first(self._by_rule(part), part) for part in after)]
        if not after:
            return RunNorm(module, parts)
        return RunNorm(module, parts, slope=RELU, pool=len(after))

    def _plain(self, node: fx.Node) -> Call:
        if node.op == "get_attr":
            return RunAttribute(self.module, str(node.target))
        if node.op == "call_method":
            return RunMethod(str(node.target))
        module = self._module(node)
        if module is not None:
            torchs = type(module).__module__.startswith("torch.nn.modules")
            return RunTorch(module) if torchs else RunModule(module)
        assert callable(node.target)
        return RunTorch(node.target)

    def _changes_input(self, node: fx.Node) -> bool:
        name = getattr(node.target, "__name__", str(node.target))
        in_place = (
            name.endswith("_") and not name.endswith("__")
            if node.op != "call_module"
            else bool(getattr(self._module(node), "inplace", False))
        )
        return in_place or bool(node.kwargs.get("inplace", False)) or node.target in _IN_PLACE


def _look_at(wish: Wish, input: object, name: str) -> object:
    """What a model asks of a signal without needing its numbers."""
    if not isinstance(input, Signal):
        return NotImplemented
    data = input.blocked.data
    return {"shape": input.size, "ndim": len(input.size), "dtype": data.dtype, "device": data.device}[name]


_SEEN = ("shape", "ndim", "dtype", "device")
_IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv)
_HANDED_ON = frozenset(
    {*EACH.values(), *(METHODS[name] for name in METHODS if name not in ("mean", "size", "dim"))}
)


def _on_first(call: Call, node: fx.Node) -> Call:
    kwargs = {key: value for key, value in node.kwargs.items() if not isinstance(value, fx.Node)}
    return OnFirst(call, node.args[1:], kwargs)


def _with_refs(value: object) -> object:
    """A node's argument with the nodes in it as references."""
    if isinstance(value, fx.Node):
        return Ref(value.name)
    if isinstance(value, tuple | list):
        made = [_with_refs(item) for item in value]
        return tuple(made) if isinstance(value, tuple) else made
    if isinstance(value, Mapping):
        return {key: _with_refs(item) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(*map(_with_refs, (value.start, value.stop, value.step)))
    return value


def _freeing(steps: list[Step], output: object) -> Iterator[Step]:
    """The steps, each with the values that nothing after it reads."""
    last: dict[str, int] = {}
    for place, step in enumerate(steps):
        for name in _names((step.args, step.kwargs)):
            last[name] = place
    for name in _names(output):
        last[name] = len(steps)
    for place, step in enumerate(steps):
        done = tuple(name for name, at in last.items() if at == place)
        unread = () if step.name in last else (step.name,)
        yield replace(step, done_with=(*done, *unread))


def _names(value: object) -> Iterator[str]:
    if isinstance(value, Ref):
        yield value.name
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _names(item)
    elif isinstance(value, Mapping):
        yield from _names(list(value.values()))
    elif isinstance(value, slice):
        yield from _names((value.start, value.stop, value.step))
