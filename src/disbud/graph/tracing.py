"""Which weights of a model can be pruned, in the order the signal meets them."""

from __future__ import annotations

import difflib
import fnmatch
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from disbud.errors import DisbudError
from disbud.graph.layers import Layer
from disbud.isolation import Example, bare, device_of, forward, isolated, on_device
from disbud.parameters import canonical, parameters

if TYPE_CHECKING:
    from collections.abc import Iterator

Chosen = str | Iterable[str] | Callable[[Layer], bool]


def prunable(
    model: nn.Module,
    *,
    include: Chosen | None = None,
    exclude: Chosen | None = None,
    example: Example | None = None,
) -> list[Layer]:
    """The weights that can be pruned, in the order the signal meets them; a shared one comes once.

    These are the weights of linear, convolution and transposed convolution layers and the input projections of
    attention; biases and normalisation never. `include` and `exclude` narrow them by name pattern ("layer3.*"),
    several patterns, or a predicate on a `Layer`; a pattern must match some parameter of the model. The order is read
    off a forward pass on `example` where one is given, else off a symbolic trace, else it is the order of registration.

    >>> import disbud, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2))
    >>> [layer.name for layer in disbud.prunable(model)]
    ['0.weight', '2.weight']
    >>> [layer.name for layer in disbud.prunable(model, exclude="2.*")]
    ['0.weight']
    """
    if not isinstance(model, nn.Module):
        raise DisbudError(f"a model is a torch.nn.Module, not a {type(model).__name__}")
    model = bare(model)
    _check_shapes_known(model)
    kinds = _kinds(model)
    if not kinds:
        raise DisbudError(_nothing_prunable(model))
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(canonical(name))
    found = []
    for name, parameter in _in_order(model, example):
        if id(parameter) in kinds:
            kind, groups = kinds[id(parameter)]
            found.append(Layer(name, tuple(parameter.shape), kind, tuple(names[id(parameter)][1:]), groups))
    every_name = [name for shared in names.values() for name in shared]
    wanted, unwanted = _predicate(include, every_name), _predicate(exclude, every_name)
    chosen = [
        layer
        for layer in found
        if (wanted is None or wanted(layer)) and not (unwanted is not None and unwanted(layer))
    ]
    if not chosen:
        raise DisbudError(
            f"include={include!r} and exclude={exclude!r} leave nothing to prune; "
            f"the model has {', '.join(layer.name for layer in found[:8])}{', ...' if len(found) > 8 else ''}"
        )
    return chosen


def _check_shapes_known(model: nn.Module) -> None:
    owned = [*model.named_parameters(), *model.named_buffers()]
    unknown = (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer)
    lazy = next((name for name, value in owned if isinstance(value, unknown)), None)
    if lazy is not None:
        raise DisbudError(f"{lazy} has no shape yet: run the model once on an input before pruning it")


def _kinds(model: nn.Module) -> dict[int, tuple[str, int]]:
    """The kind of each prunable parameter and its groups, by identity."""
    kinds: dict[int, tuple[str, int]] = {}
    computed: list[str] = []
    for name, module in model.named_modules():
        for key, kind in _weights_of(module).items():
            parameter = module._parameters.get(key)
            if _is_computed(module, key):
                computed.append(_full(name, key))
            elif parameter is not None and parameter.is_floating_point() and parameter.dim() >= 2:
                groups = module.groups if isinstance(module, _ConvNd) else 1
                kinds.setdefault(id(parameter), (kind, groups))
    if kinds and computed:
        listed = f"{', '.join(computed[:3])}{', ...' if len(computed) > 3 else ''}"
        warnings.warn(f"{listed} cannot be pruned: {_COMPUTED}", stacklevel=3)
    return kinds


def _weights_of(module: nn.Module) -> dict[str, str]:
    """What the module calls the weights that can be pruned, and their kind."""
    if isinstance(module, _ConvNd):
        return {"weight": "transposed-conv" if isinstance(module, _ConvTransposeNd) else "conv"}
    if isinstance(module, nn.Linear):
        return {"weight": "linear"}
    if isinstance(module, nn.MultiheadAttention):
        projections = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
        return dict.fromkeys(projections, "attention")
    return {}


def _full(module: str, key: str) -> str:
    return f"{module}.{key}" if module else key


def _is_computed(module: nn.Module, key: str) -> bool:
    # Reading the attribute would compute it, which advances the power iteration of spectral_norm.
    return key not in module._parameters and (is_parametrized(module, key) or key in vars(module))


_COMPUTED = (
    "a parametrization or torch.nn.utils.prune computes the weight, so it is no plain parameter; remove that first "
    "(torch.nn.utils.parametrize.remove_parametrizations, torch.nn.utils.prune.remove)"
)


def _nothing_prunable(model: nn.Module) -> str:
    for name, module in model.named_modules():
        for key in _weights_of(module):
            if _is_computed(module, key):
                return f"the model has nothing to prune; {_full(name, key)}: {_COMPUTED}"
    owned = [name for name, _ in model.named_parameters()]
    return (
        "the model has nothing to prune: no linear, convolution or attention layer with a floating-point weight "
        f"(its parameters: {', '.join(owned[:5]) or 'none'})"
    )


def _in_order(model: nn.Module, example: Example | None) -> list[tuple[str, nn.Parameter]]:
    """All parameters, those the signal meets first in the order it meets them, the others after them as registered."""
    owned = parameters(model)
    name_of = {id(parameter): name for name, parameter in owned.items()}
    met = _met_on_example(model, example) if example is not None else _met_symbolically(model)
    ordered = dict.fromkeys(id(parameter) for parameter in met if id(parameter) in name_of)
    ordered.update(dict.fromkeys(name_of))
    return [(name_of[key], owned[name_of[key]]) for key in ordered]


class _Watch(TorchFunctionMode):
    """Notes every parameter that a tensor is computed from, in order; asking for its shape or device does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            self.seen += [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, nn.Parameter)]
        return result


def _met_on_example(model: nn.Module, example: Example) -> list[Tensor]:
    with isolated(model, seed=0), torch.no_grad(), _Watch() as watch:
        forward(model, _of_its_type(model, on_device(example, device_of(model))))
    seen: list[Tensor] = watch.seen
    return seen


def _of_its_type(model: nn.Module, example: Example) -> Example:
    """A copy of the example, in the type of all the model's parameters where they have one: only sizes matter."""
    types = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}

    def fitted(leaf: object) -> object:
        if not isinstance(leaf, Tensor):
            return leaf
        dtype = next(iter(types)) if len(types) == 1 and leaf.is_floating_point() else leaf.dtype
        return leaf.to(dtype, copy=True)

    return cast("Example", tree_map(fitted, example))


def _met_symbolically(model: nn.Module) -> list[Tensor]:
    trace = _symbolic_trace(model)
    return [parameter for node in trace.nodes for parameter in _parameters_of(model, node)] if trace else []


def is_chain(model: nn.Module) -> bool:
    """Whether each layer feeds only the next: no two signals are joined. False where that cannot be told."""
    trace = _symbolic_trace(bare(model))
    if trace is None:
        return False
    signals: set[fx.Node] = set()
    for node in trace.nodes:
        incoming = [source for source in node.all_input_nodes if source in signals]
        if len(incoming) > 1 and node.op.startswith("call"):
            return False
        if node.op == "placeholder" or (incoming and not _asks_for_shape(node)):
            signals.add(node)
    return True


def _asks_for_shape(node: fx.Node) -> bool:
    """Whether the node reads the size of a signal, as in x.view(x.size(0), -1), and not its values."""
    if node.op == "call_method":
        return node.target in ("size", "dim", "numel")
    return node.target in (getattr, len)


def _symbolic_trace(model: nn.Module) -> fx.Graph | None:
    try:
        with isolated(model, seed=0):
            return fx.Tracer().trace(model)
    except Exception:  # whatever a model's own Python does when its tensors are symbols
        return None


def _parameters_of(model: nn.Module, node: fx.Node) -> Iterator[nn.Parameter]:
    if node.op == "call_module":
        yield from model.get_submodule(str(node.target)).parameters()
    elif node.op == "get_attr":
        holder, _, attribute = str(node.target).rpartition(".")
        found = getattr(model.get_submodule(holder), attribute, None)
        if isinstance(found, nn.Parameter):
            yield found


def _predicate(chosen: Chosen | None, names: Iterable[str]) -> Callable[[Layer], bool] | None:
    if chosen is None or callable(chosen):
        return chosen
    patterns = [chosen] if isinstance(chosen, str) else list(chosen)
    compiled = [re.compile(fnmatch.translate(pattern)) for pattern in patterns]
    for pattern, matching in zip(patterns, compiled, strict=True):
        if not any(matching.match(name) for name in names):
            close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.5)
            raise DisbudError(
                f"no parameter of the model matches {pattern!r}; "
                + (f"the closest is {' or '.join(close)}; " if close else "")
                + f"for all of a module write {pattern.rstrip('.*')}.*"
            )
    return lambda layer: any(m.match(name) for m in compiled for name in (layer.name, *layer.aliases))
