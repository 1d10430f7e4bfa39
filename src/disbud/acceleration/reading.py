"""Reading a model: which parts of it torch.fx can follow as a graph of calls, and why the others cannot be."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from disbud.acceleration.noticing import Streams, contents
from disbud.errors import DisbudError
from disbud.isolation import Example, isolated
from disbud.parameters import canonical

LAYERS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Linear)


@dataclass(frozen=True)
class Region:
    """A submodule that is followed: its path, and its graphs in training and in evaluation."""

    path: str
    training: fx.Graph
    evaluation: fx.Graph


@dataclass
class Reading:
    """The regions of a model, and why what lies outside of them is not followed, by path."""

    regions: dict[str, Region] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def is_layer(module: nn.Module) -> bool:
    """Whether a module is a convolution or linear layer as torch has it: of that very class, and without hooks."""
    return type(module) in LAYERS and not hooked(module) and "weight" in module._parameters


def hooked(module: nn.Module) -> bool:
    """Whether something is to be called with the module: it must then be called itself."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name) for name in hooks)


def read(model: nn.Module, example: Example) -> Reading:
    """Follow the whole model, or else the largest submodules that can be followed."""
    reading = Reading()
    _visit(reading, model, "", given=_named(model, example))
    return reading


def _visit(reading: Reading, module: nn.Module, path: str, *, given: frozenset[str]) -> bool:
    """Make regions of the module or of what is in it; False where it has to be called as it is."""
    if is_layer(module):
        reading.regions[path] = one_call(path)
        return True
    if _is_torchs(module):
        return True
    if not any(is_layer(inner) for inner in module.modules()):
        return not isinstance(_region(module, path, set(), given), str)
    found = "it has hooks" if hooked(module) else _region(module, path, set(), given)
    if isinstance(found, str):
        opaque = {
            child
            for name, child in module.named_children()
            if not _visit(reading, child, f"{path}.{name}" if path else name, given=frozenset())
        }
        if opaque and not hooked(module):
            found = _region(module, path, opaque, given)
    if isinstance(found, str):
        reading.refused[path] = found
        return False
    inside = f"{path}." if path else ""
    within = tuple(f"{inside}{child}." for child in _opaque_of(found, module))
    for other in [name for name in reading.regions if name.startswith(inside)]:
        if not other.startswith(within):
            del reading.regions[other]
    reading.regions[path] = found
    return True


def _opaque_of(region: Region, module: nn.Module) -> Iterator[str]:
    """The paths, within the region, of modules that are called as they are."""
    for graph in (region.training, region.evaluation):
        for node in graph.nodes:
            if node.op == "call_module" and not _is_torchs(module.get_submodule(node.target)):
                yield node.target


def _region(module: nn.Module, path: str, opaque: set[nn.Module], given: frozenset[str]) -> Region | str:
    graphs = []
    for mode in (True, False):
        graph = _followed(module, opaque, given, training=mode)
        if isinstance(graph, str):
            return graph
        graphs.append(graph)
    return Region(path, graphs[0], graphs[1])


def _followed(
    module: nn.Module, opaque: set[nn.Module], given: frozenset[str], *, training: bool
) -> fx.Graph | str:
    """The module's graph in that mode, or the reason why there is none: it must be the same whatever is drawn."""
    found = []
    for seed in (0, 1):
        with isolated(module, seed=seed):
            for inner in module.modules():
                inner.training = training
            traced = _traced(
                module, opaque, given, constant=f"_disbud_{'training' if training else 'evaluation'}_"
            )
        if isinstance(traced, str):
            return traced
        found.append(traced)
    (graph, constants), (other, its_constants) = found
    if spelled(graph) != spelled(other) or not all(
        _is_equal(value, its_constants[name]) for name, value in constants.items()
    ):
        return "its code goes another way from one call to the next, as where it draws random numbers"
    for name, value in constants.items():
        setattr(module, name, value)
    return graph


def _traced(
    module: nn.Module, opaque: set[nn.Module], given: frozenset[str], *, constant: str
) -> tuple[fx.Graph, dict[str, object]] | str:
    """The module's graph and the constants in it under names that begin so, or the reason why there is none."""
    fixed = {
        name: parameter.default
        for name, parameter in inspect.signature(module.forward).parameters.items()
        if parameter.default is not inspect.Parameter.empty and name not in given
    }
    known, before, streams = set(vars(module)), contents(module), Streams(module)
    try:
        graph = _Tracer(opaque).trace(module, fixed or None)
    except Exception as error:  # whatever a model's own Python does when its tensors are symbols
        streams.drawn()
        return f"torch.fx cannot follow its code ({type(error).__name__}: {_first_line(error)})"
    # fx makes attributes of the tensors that the code makes from nothing, under other names from trace to trace.
    made = [
        node for node in graph.nodes if node.op == "get_attr" and node.target in vars(module).keys() - known
    ]
    places = {
        target: f"{constant}{i}" for i, target in enumerate(dict.fromkeys(node.target for node in made))
    }
    constants = {place: vars(module).pop(target) for target, place in places.items()}
    for node in made:
        node.target = places[node.target]
    # What is drawn, or written, while tracing would be the same for ever.
    if streams.drawn():
        return "its code draws random numbers by itself"
    if contents(module) != before:
        return "its forward changes attributes of its own"
    return graph, constants


def _is_equal(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return type(one) is type(other)


def spelled(graph: fx.Graph) -> list[tuple[object, ...]]:
    """What the graph calls on what, to tell whether two graphs are the same."""
    place = {node: f"%{i}" for i, node in enumerate(graph.nodes)}
    given = {node: fx.node.map_arg((node.args, node.kwargs), place.__getitem__) for node in graph.nodes}
    return [(node.op, node.target, repr(given[node])) for node in graph.nodes]


class _Symbol(fx.Proxy):
    """A symbol that knows x += y from x = x + y, which fx takes for one: another name of x would miss it."""

    def _in_place(self, function: Callable[..., object], other: object) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    def __iadd__(self, other: object) -> fx.Proxy:
        return self._in_place(operator.iadd, other)

    def __isub__(self, other: object) -> fx.Proxy:
        return self._in_place(operator.isub, other)

    def __imul__(self, other: object) -> fx.Proxy:
        return self._in_place(operator.imul, other)

    def __itruediv__(self, other: object) -> fx.Proxy:
        return self._in_place(operator.itruediv, other)


class _Tracer(fx.Tracer):
    """Goes into modules that are not torch's own, but for those that cannot be followed or have hooks."""

    def __init__(self, opaque: set[nn.Module]) -> None:
        super().__init__()
        self._opaque = opaque

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """The symbol of a node."""
        return _Symbol(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether the module is one call in the graph."""
        return m in self._opaque or _is_torchs(m) or hooked(m)


def _is_torchs(module: nn.Module) -> bool:
    """Whether the class is torch's own and no mere container."""
    return type(module).__module__.startswith("torch.") and not isinstance(module, nn.Sequential)


def one_call(path: str) -> Region:
    """The region of a single layer."""
    graph = fx.Graph()
    graph.output(graph.call_module("", (graph.placeholder("input"),)))
    return Region(path, graph, graph)


def _named(model: nn.Module, example: Example) -> frozenset[str]:
    """The names of the arguments of forward that the example gives."""
    signature = inspect.signature(model.forward)
    try:
        if isinstance(example, dict):
            return frozenset(signature.bind(**example).arguments)
        many = example if isinstance(example, tuple | list) else (example,)
        return frozenset(signature.bind(*many).arguments)
    except TypeError as error:
        raise DisbudError(f"the example does not fit the model's forward{signature}: {error}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def names_of(model: nn.Module) -> dict[int, str]:
    """The canonical name of every parameter, by identity."""
    return {id(parameter): canonical(name) for name, parameter in reversed(list(model.named_parameters()))}
