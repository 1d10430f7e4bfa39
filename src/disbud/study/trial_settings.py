"""The settings that each part of a trial may be given: one that nothing takes is an error where the trial is made."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache

from disbud.catalogue import Entry, Spec, check_settings, find, parse
from disbud.data.catalogue import CATALOGUE as DATA
from disbud.errors import DisbudError
from disbud.interventions.catalogue import CATALOGUE as INTERVENTIONS
from disbud.methods.catalogue import CATALOGUE as METHODS
from disbud.methods.catalogue import Method
from disbud.models.catalogue import CATALOGUE as MODELS
from disbud.study.sources import own_function

CATALOGUES: Mapping[str, Mapping[str, Entry]] = {
    "model": MODELS,
    "data set": DATA,
    "method": METHODS,
    "intervention": INTERVENTIONS,
}
_OF_EVERY_MODEL = {"classes": None, "input_shape": None}
# What a trial itself tells `prune`.
_TOLD = {
    "sparsity", "batches", "example", "loss", "seed", "data", "recipe", "train", "checkpoint", "progress",
}  # fmt: skip


@lru_cache(maxsize=4096)
def check_settings_of(kind: str, text: str) -> None:
    """Raise for a setting that the model, data set, method or intervention of that text does not take.

    >>> from disbud.study.trial_settings import check_settings_of
    >>> check_settings_of("method", "synflow:rounds=20,densities=erk")
    >>> check_settings_of("model", "lenet-300-100:widht=2")
    Traceback (most recent call last):
        ...
    disbud.errors.DisbudError: there is no setting of model 'lenet-300-100' called 'widht'; did you mean 'width'?
    """
    spec = parse(text)
    if spec.name not in CATALOGUES[kind] and spec.argument is not None:
        _check_own(spec)
        return
    entry = find(kind, spec.name, CATALOGUES[kind])
    known = {**entry.settings, **_beyond(entry, spec)}
    if spec.argument is not None and kind != "data set":
        example = next((f", as in {entry.name}:{name}=..." for name in known), "")
        raise DisbudError(f"{text!r}: {spec.argument!r} should read key=value{example}")
    if spec.settings and not known:
        raise DisbudError(f"{entry.name} has no settings, but {', '.join(sorted(spec.settings))} was given")
    check_settings(f"{kind} {entry.name!r}", spec.settings, known)


def _beyond(entry: Entry, spec: Spec) -> Mapping[str, object]:
    """What a part takes besides the settings that its entry lists."""
    if isinstance(entry, Method):
        return dict.fromkeys(_of_pruning(spec.settings.get("densities", entry.densities)))
    return _OF_EVERY_MODEL if entry.name in MODELS else {}


@lru_cache(maxsize=64)
def _of_pruning(densities: object) -> tuple[str, ...]:
    """The keywords of `prune`, and those of the density rule."""
    from disbud.pruning import prune
    from disbud.selection import RULES

    functions: list[Callable[..., object]] = [prune]
    if isinstance(densities, str) and densities in RULES:
        functions.append(RULES[densities])
    return tuple(
        name
        for function in functions
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in _TOLD
    )


def _check_own(spec: Spec) -> None:
    """Of a function of one's own the names of its parameters are its settings."""
    reference = f"{spec.name}:{spec.argument}"
    try:
        parameters = inspect.signature(own_function(reference)).parameters
    except (TypeError, ValueError):  # some functions written in C have none
        return
    if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        check_settings(reference, spec.settings, parameters)
