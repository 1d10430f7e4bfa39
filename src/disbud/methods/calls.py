"""How a loss calls a model: by position, by name or both, and with labels that the model only computes a loss from."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from disbud.errors import DisbudError
from disbud.graph.flow import Inputs
from disbud.isolation import Example, isolated, leaves

_LOSSES = frozenset(
    getattr(functional, name)
    for name in dir(functional)
    if name.endswith("_loss") or "cross_entropy" in name or name == "kl_div"
)


class _Losses(TorchFunctionMode):
    """Notes which losses are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.met: list[str] = []

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if func in _LOSSES:
            self.met.append(func.__name__)
        return func(*args, **(kwargs or {}))


def without_labels(model: nn.Module, inputs: Inputs) -> Inputs:
    """The inputs without the one that makes the model compute its loss, as labels=...: a loss is on no path."""
    if sum(isinstance(leaf, Tensor) for leaf in leaves(inputs)) < 2 or not (met := _losses_in(model, inputs)):
        return inputs
    args, kwargs = inputs
    signature = inspect.signature(model.forward)
    names = dict.fromkeys([*signature.bind(*args, **kwargs).arguments, *kwargs])
    for name in reversed(names):  # labels mostly come last
        try:
            bound = signature.bind(*args, **{key: value for key, value in kwargs.items() if key != name})
            bound.arguments.pop(name, None)
            fewer: Inputs = (bound.args, bound.kwargs)
            if not _losses_in(model, fewer):
                return fewer
        except Exception:  # whatever a model's own Python does without one of its inputs
            continue
    raise DisbudError(
        f"the model computes its loss itself ({', '.join(met)}) and cannot do without its labels, so signals cannot be "
        "followed to its outputs; let it return logits where it is given no labels, and call it so: "
        'loss=lambda model, batch: functional.cross_entropy(model(batch["x"]), batch["y"])'
    )


def as_example(model: nn.Module, inputs: Inputs) -> tuple[Example, dict[str, object]]:
    """The inputs as an example, by position or by name; and, where it takes both, those by name beside it."""
    args, kwargs = inputs
    if not kwargs:
        return args, {}
    signature = inspect.signature(model.forward)
    bound = signature.bind(*args, **kwargs)
    kinds = {name: signature.parameters[name].kind for name in bound.arguments}
    if any(
        kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
        for kind in kinds.values()
    ):
        return bound.args, bound.kwargs
    named: dict[str, object] = {}
    for name, value in bound.arguments.items():
        named |= value if kinds[name] is inspect.Parameter.VAR_KEYWORD else {name: value}
    return named, {}


@contextlib.contextmanager
def called_with(model: nn.Module, named: Mapping[str, object]) -> Iterator[None]:
    """Within the block every call of the model has these inputs by name too."""
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: (args, {**kwargs, **named}), with_kwargs=True
    )
    try:
        yield
    finally:
        handle.remove()


def _losses_in(model: nn.Module, inputs: Inputs) -> list[str]:
    """The losses that the model computes from these inputs."""
    args, kwargs = inputs
    with isolated(model, seed=0), torch.no_grad(), _Losses() as losses:
        model(*args, **kwargs)
    met: list[str] = losses.met
    return met
