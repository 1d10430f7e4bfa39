"""The settings that each part of a trial may be given: one that nothing takes is an error where the trial is made."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import lru_cache

from disbud.catalogue import Entry, Spec, check_settings, find, parse
from disbud.data.catalogue import CATALOGUE as DATA
from disbud.errors import DisbudError
from disbud.interventions.catalogue import CATALOGUE as INTERVENTIONS
from disbud.methods.catalogue import CATALOGUE as METHODS
from disbud.models.catalogue import CATALOGUE as MODELS
from disbud.study.sources import own_function

CATALOGUES: Mapping[str, Mapping[str, Entry]] = {
    "model": MODELS,
    "data set": DATA,
    "method": METHODS,
    "intervention": INTERVENTIONS,
}
_OF_EVERY_MODEL = {"classes": None, "input_shape": None}


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
    if kind == "method":
        from disbud.pruning.asked import asked

        asked(text)
        return
    entry = find(kind, spec.name, CATALOGUES[kind])
    known = entry.settings if entry.name not in MODELS else {**entry.settings, **_OF_EVERY_MODEL}
    if spec.argument is not None and kind != "data set":
        example = next((f", as in {entry.name}:{name}=..." for name in known), "")
        raise DisbudError(f"{text!r}: {spec.argument!r} should read key=value{example}")
    if spec.settings and not known:
        raise DisbudError(f"{entry.name} has no settings, but {', '.join(sorted(spec.settings))} was given")
    check_settings(f"{kind} {entry.name!r}", spec.settings, known)


def _check_own(spec: Spec) -> None:
    """Of a function of one's own the names of its parameters are its settings."""
    reference = f"{spec.name}:{spec.argument}"
    try:
        parameters = inspect.signature(own_function(reference)).parameters
    except (TypeError, ValueError):  # some functions written in C have none
        return
    if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        check_settings(reference, spec.settings, parameters)
