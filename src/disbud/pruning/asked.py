"""A method and its settings as they are written in one text: "synflow:rounds=10,densities=erk"."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from disbud.catalogue import check_settings, find, parse
from disbud.errors import DisbudError
from disbud.methods.catalogue import CATALOGUE, Method
from disbud.pruning.prune import prune
from disbud.selection import RULES

# What `prune` is told by whoever reads the text, so that it cannot be a setting in it as well.
_TOLD = {
    "sparsity", "batches", "example", "loss", "seed", "data", "recipe", "train", "checkpoint", "progress",
}  # fmt: skip


def asked(text: str, more: Mapping[str, object] | None = None) -> tuple[Method, dict[str, object]]:
    """The method that a text names, and its settings; those in `more` win. Names and settings are known to exist.

    >>> from disbud.pruning.asked import asked
    >>> method, settings = asked("synflow:rounds=10", {"densities": "erk"})
    >>> method.name, settings
    ('synflow', {'rounds': 10, 'densities': 'erk'})
    """
    spec = parse(text)
    method = find("method", spec.name, CATALOGUE)
    if spec.argument is not None:
        raise DisbudError(f"{text!r}: {spec.argument!r} should read key=value, as in {spec.name}:rounds=1")
    settings: dict[str, object] = {**spec.settings, **(more or {})}
    known = {*method.settings, *_keywords(settings.get("densities") or method.densities)}
    check_settings(f"method {method.name!r}", settings, dict.fromkeys(known))
    return method, settings


def _keywords(densities: object) -> list[str]:
    """What `prune` takes for every method, and the settings of the density rule."""
    functions: list[Callable[..., object]] = [prune]
    if isinstance(densities, str) and densities in RULES:
        functions.append(RULES[densities])
    return [
        name
        for function in functions
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in _TOLD
    ]
