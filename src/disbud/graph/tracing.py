"""Which weights of a model can be pruned, in the order the signal meets them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from disbud.errors import DisbudError
from disbud.graph.layers import Layer
from disbud.isolation import Example, bare, device_of, forward, isolated, on_device
from disbud.parameters import canonical, parameters

if TYPE_CHECKING:
    from collections.abc import Iterator

Chosen = str | Iterable[str] | Callable[[Layer], bool]


def prunable(
    model: nn.Module, *, include: Chosen | None = None, exclude: Chosen | None = None, example: Example | None = None
) -> list[Layer]:
    """The weights that can be pruned, in the order the signal meets them; a shared one comes once.

    These are the weights of linear, convolution and transposed convolution layers and the input projections of
    attention; biases and normalisation never. `include` and `exclude` narrow them by name pattern ("layer3.*"),
    several patterns, or a predicate on a `Layer`. The order is read off a forward pass on `example` where one is given,
    else off a symbolic trace, else it is the order of registration.

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
    kinds = _kinds(model)
    if not kinds:
        raise DisbudError(_nothing_prunable(model))
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(canonical(name))
    found = [
        Layer(name, tuple(parameter.shape), kinds[id(parameter)], tuple(names[id(parameter)][1:]))
        for name, parameter in _in_order(model, example)
        if id(parameter) in kinds
    ]
    chosen = [
        layer
        for layer in found
        if (include is None or _matches(layer, include)) and not (exclude is not None and _matches(layer, exclude))
    ]
    if not chosen:
        raise DisbudError(
            f"include={include!r} and exclude={exclude!r} leave nothing to prune; "
            f"the model has {', '.join(layer.name for layer in found[:8])}{', ...' if len(found) > 8 else ''}"
        )
    return chosen


def _kinds(model: nn.Module) -> dict[int, str]:
    """The kind of each prunable parameter, by identity."""
    kinds: dict[int, str] = {}
    for name, module in model.named_modules():
        own = module._parameters
        candidates: dict[str, str] = {}
        if isinstance(module, _ConvNd):
            candidates = {"weight": "transposed-conv" if isinstance(module, _ConvTransposeNd) else "conv"}
        elif isinstance(module, nn.Linear):
            candidates = {"weight": "linear"}
        elif isinstance(module, nn.MultiheadAttention):
            projections = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
            candidates = dict.fromkeys(projections, "attention")
        for key, kind in candidates.items():
            parameter = own.get(key)
            if isinstance(parameter, nn.parameter.UninitializedParameter):
                raise DisbudError(f"{name}.{key} has no shape yet: run the model once on an input before pruning it")
            if parameter is not None and parameter.is_floating_point() and parameter.dim() >= 2:
                kinds.setdefault(id(parameter), kind)
    return kinds


def _nothing_prunable(model: nn.Module) -> str:
    owned = [name for name, _ in model.named_parameters()]
    if any("parametrizations." in name or name.endswith("_orig") for name in owned):
        return (
            "the model's weights are computed by a parametrization or by torch.nn.utils.prune, so there is no plain "
            "parameter to prune; remove it first (torch.nn.utils.parametrize.remove_parametrizations, prune.remove)"
        )
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
    """Notes every tensor that is handed to a torch function, in order."""

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
        self.seen += [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, nn.Parameter)]
        return func(*args, **(kwargs or {}))


def _met_on_example(model: nn.Module, example: Example) -> list[Tensor]:
    with isolated(model, seed=0), torch.no_grad(), _Watch() as watch:
        forward(model, on_device(example, device_of(model)))
    return watch.seen


def _met_symbolically(model: nn.Module) -> list[Tensor]:
    trace = _symbolic_trace(model)
    return [parameter for node in trace.nodes for parameter in _parameters_of(model, node)] if trace else []


def is_chain(model: nn.Module) -> bool:
    """Whether each layer feeds only the next: nothing in the model joins two signals. False where that cannot be told."""
    trace = _symbolic_trace(bare(model))
    if trace is None:
        return False
    return all(len(node.all_input_nodes) <= 1 for node in trace.nodes if node.op.startswith("call"))


def _symbolic_trace(model: nn.Module) -> fx.Graph | None:
    try:
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


def _matches(layer: Layer, chosen: Chosen) -> bool:
    if callable(chosen):
        return bool(chosen(layer))
    patterns = [chosen] if isinstance(chosen, str) else list(chosen)
    return any(
        re.fullmatch(fnmatch.translate(pattern), name) for pattern in patterns for name in (layer.name, *layer.aliases)
    )
