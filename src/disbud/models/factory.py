"""From what a user typed to a network: `resnet20:width=0.5`, `package.module:function,depth=3`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from disbud.catalogue import Spec, Value, check_settings, find, parse, resolve
from disbud.errors import DisbudError
from disbud.models.catalogue import CATALOGUE, ModelEntry
from disbud.models.sizes import checked_shape, whole
from disbud.seeds import global_streams

if TYPE_CHECKING:
    from torch import nn

_CAN_BE_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class ParameterCount(NamedTuple):
    """How many parameters a network has: the weights of its convolutions and linear layers, and all of them.

    >>> from disbud.models import ParameterCount
    >>> ParameterCount(prunable=266_200, total=266_610).prunable
    266200
    """

    prunable: int
    total: int


def build(
    spec: str, *, classes: int = 10, input_shape: tuple[int, ...] = (3, 32, 32), seed: int = 0
) -> nn.Module:
    """Make the network that `spec` names, its weights drawn from the seed and from nothing else.

    `package.module:function` calls your own factory with the settings that follow; it is given `classes` and
    `input_shape` where it has parameters of those names. Settings in the spec win over the arguments.

    >>> from disbud.models import build
    >>> model = build("resnet20:width=0.5", classes=100)
    >>> model.fc
    Linear(in_features=32, out_features=100, bias=True)
    >>> build("mlp:hidden=64+32,activation=tanh", input_shape=(1, 8, 8)).fc1
    Linear(in_features=64, out_features=64, bias=True)
    """
    from disbud.models.initialise import initialise

    parsed = parse(spec)
    with global_streams(seed, "init"):
        if parsed.argument is not None:
            return _from_user(spec, parsed, {"classes": classes, "input_shape": input_shape})
        entry = find("model", parsed.name, CATALOGUE)
        settings = _settings(entry, parsed.settings)
        init = settings.pop("init")
        model = _construct(entry, {"classes": classes, "input_shape": input_shape, **settings})
        initialise(model, init)
        return model


def parameter_count(
    spec: str, *, classes: int = 10, input_shape: tuple[int, ...] | None = None
) -> ParameterCount:
    """Count a catalogue model's parameters without allocating them, at its paper's input shape by default.

    >>> from disbud.models import parameter_count
    >>> parameter_count("resnet20")
    ParameterCount(prunable=270896, total=272474)
    """
    import torch
    from torch import nn

    parsed = parse(spec)
    if parsed.argument is not None:
        raise DisbudError(f"{spec!r}: parameters are counted for the models disbud knows by name")
    entry = find("model", parsed.name, CATALOGUE)
    settings = _settings(entry, parsed.settings)
    settings.pop("init")
    shape = entry.input_shape if input_shape is None else input_shape
    with torch.device("meta"):
        model = _construct(entry, {"classes": classes, "input_shape": shape, **settings})
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return ParameterCount(
        prunable=sum(layer.weight.numel() for layer in layers),
        total=sum(parameter.numel() for parameter in model.parameters()),
    )


def _settings(entry: ModelEntry, given: Mapping[str, Value]) -> dict[str, object]:
    """The entry's settings with those given put over them."""
    check_settings(entry.name, given, {**entry.settings, "classes": None, "input_shape": None})
    return {**entry.settings, **given}


def _construct(entry: ModelEntry, settings: Mapping[str, object]) -> nn.Module:
    """Call the entry's function with checked sizes."""
    sizes = {
        "classes": whole("classes", settings["classes"]),
        "input_shape": checked_shape(entry, settings["input_shape"]),
    }
    return _module(entry.name, entry.load()(**{**settings, **entry.fixed, **sizes}))


def _from_user(spec: str, parsed: Spec, offered: Mapping[str, object]) -> nn.Module:
    """Call the user's own factory, having checked that its signature fits what is given."""
    from torch import nn

    if parsed.name in CATALOGUE:
        raise DisbudError(
            f"{spec!r}: {parsed.argument!r} should read key=value; settings of {parsed.name} are "
            f"{', '.join(CATALOGUE[parsed.name].settings)}, classes and input_shape"
        )
    reference = f"{parsed.name}:{parsed.argument}"
    function = resolve(reference)
    if isinstance(function, nn.Module):
        raise DisbudError(
            f"{reference!r} is a model, not a function that makes one: each seed needs a new one"
        )
    return _module(reference, function(**_arguments(reference, function, parsed.settings, offered)))


def _arguments(
    reference: str, function: Callable[..., object], given: Mapping[str, Value], offered: Mapping[str, object]
) -> dict[str, object]:
    """What the user's function is called with: the settings, and what is offered if it has that parameter."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some functions written in C have none
        return dict(given)
    parameters = signature.parameters.values()
    named = {p.name: None for p in parameters if p.kind in _CAN_BE_NAMED}
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        check_settings(reference, given, named)
    # Nothing offered goes into **kwargs: a factory that hands those on fails on names it does not know.
    arguments = {**{key: value for key, value in offered.items() if key in named}, **given}
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise DisbudError(f"{reference}{signature} cannot be called with {arguments}: {error}") from error
    return arguments


def _module(name: str, made: object) -> nn.Module:
    """What a factory returned, if it is a module."""
    from torch import nn

    if not isinstance(made, nn.Module):
        raise DisbudError(f"{name} returned a {type(made).__name__}, not a torch.nn.Module")
    return made
