"""Catalogues: what disbud knows by name (methods, models, data sets, recipes), readable without importing torch.

A user writes an entry as `name` or `name:key=value,key=value`; `module:function` names their own.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from disbud.errors import DisbudError, unknown_name

Value = None | bool | int | float | str | tuple["Value", ...]


@dataclass(frozen=True)
class Entry:
    """One named thing: what it is, the function behind it ("package.module:function"), its settings' defaults."""

    name: str
    summary: str
    function: str
    settings: Mapping[str, Value] = field(default_factory=dict)
    revision: int = 1

    def load(self) -> Callable[..., object]:
        """Import the function behind the name."""
        return resolve(self.function)


AnyEntry = TypeVar("AnyEntry", bound=Entry)


def find(kind: str, name: str, entries: Mapping[str, AnyEntry]) -> AnyEntry:
    """The entry of that name, or the error that suggests the closest one."""
    try:
        return entries[name]
    except KeyError:
        raise unknown_name(kind, name, entries) from None


def resolve(reference: str) -> Callable[..., object]:
    """The function that "package.module:function" names."""
    module_name, _, function_name = reference.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise DisbudError(f"{reference!r} names no function that can be imported: {error}") from error
    if not callable(function):
        raise DisbudError(f"{reference!r} is a {type(function).__name__}, not a function")
    return function  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Spec:
    """What a user typed for a model, data set or recipe: `name`, `name:argument`, `name:argument,key=value`."""

    name: str
    argument: str | None
    settings: Mapping[str, Value]


def parse(text: str) -> Spec:
    """Read "resnet20:width=0.5,classes=10", "folder:photos,size=32" or "package.module:function,depth=3".

    Values are read as JSON where they can be (true, 0.5, null), else as words; `300+100` is a tuple.
    """
    name, _, rest = text.partition(":")
    parts = [part.strip() for part in rest.split(",") if part.strip()]
    argument = parts.pop(0) if parts and "=" not in parts[0] else None
    settings: dict[str, Value] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise DisbudError(f"{text!r}: {part!r} should read key=value, as in {name}:width=0.5")
        settings[key.strip().replace("-", "_")] = _value(value.strip())
    return Spec(name.strip(), argument, settings)


def check_settings(what: str, given: Mapping[str, object], known: Mapping[str, object]) -> None:
    """Raise for a setting that is not among the known ones."""
    for key in given:
        if key not in known:
            raise unknown_name(f"setting of {what} called", key, known)


def _value(text: str) -> Value:
    if "+" in text.strip("+") and "e+" not in text.lower():
        return tuple(_value(part) for part in text.split("+"))
    for read in (json.loads, float):
        try:
            value = read(text)
        except ValueError:
            continue
        if (
            value is None
            or isinstance(value, bool | int | str)
            or (isinstance(value, float) and math.isfinite(value))
        ):
            return value
    return text
