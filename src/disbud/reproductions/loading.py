"""From the name of a paper and a size to the study that reproduces it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from disbud.errors import DisbudError, unknown_name
from disbud.reproductions.catalogue import CATALOGUE, SIZES
from disbud.study import Study
from disbud.training.recipes import recipe_for

_COMMON: tuple[str, ...] = ("name", "says", "source")
_PLACES = ("where", "left", "right")


@dataclass(frozen=True)
class _Here:
    """What becomes of claims in a size of a study.

    `called` maps what claims name to what the size runs in its place, `without` what the size leaves out to the reason.
    `model` is the one that was asked for in place of the size's own.
    """

    size: str
    called: Mapping[str, str]
    without: Mapping[str, str]
    model: str | None


def reproduction(
    name: str,
    *,
    size: str = "default",
    data: str | None = None,
    model: str | None = None,
    recipe: str | None = None,
    seeds: int | None = None,
) -> Study:
    """The study of a paper: "quick" on digits, "default" on drawn shapes, "full" as in the paper; or on what is given.

    Other data come with their own recipe, unless one is named. Another model takes the place of all that the study
    trains, so claims about certain models are not tested with it.

    >>> from disbud.reproductions import reproduction
    >>> study = reproduction("immunity", size="quick")
    >>> study.name, len(study.form.claim), len(study.trials()) > 100
    ('immunity-quick', 9, True)
    """
    if name not in CATALOGUE:
        raise unknown_name("reproduction", name, CATALOGUE)
    if size not in SIZES:
        raise unknown_name("size of a reproduction", size, SIZES)
    values = tomllib.loads(text_of(name))
    more = values.pop("size")[size]
    here = _Here(size, more.pop("called", {}), more.pop("without", {}), model)
    blocks = [*values.get("trial", []), *more.pop("trial", [])]
    asked = {"data": data, "model": model, "recipe": recipe, "seeds": seeds}
    given = {key: value for key, value in asked.items() if value is not None}
    if data is not None and recipe is None:
        more["recipe"] = str(recipe_for(data))
    values |= more | given
    values["name"] = name if size == "default" else f"{name}-{size}"
    values["trial"] = [block for block in blocks if model is None or "model" not in block]
    values["claim"] = [_claim(claim, here) for claim in _tables(values["claim"])]
    options = [*([] if size == "default" else [f"--{size}"]), *(f"--{key} {given[key]}" for key in given)]
    command = " ".join(["disbud reproduce", name, *options])
    return Study.of(values, command=command)


def text_of(name: str) -> str:
    """The study file of a paper."""
    return resources.files("disbud.reproductions").joinpath(f"{name}.toml").read_text(encoding="utf-8")


def _claim(claim: Mapping[str, object], here: _Here) -> Mapping[str, object]:
    """A claim in the names of the size, or why it is not tested there."""
    why = _why_untested(claim, here)
    if why is not None:
        return {**{key: claim[key] for key in _COMMON if key in claim}, "kind": "untested", "why": why}
    places = {
        key: {
            axis: _one_or_all([here.called.get(str(name), name) for name in names])
            for axis, names in place.items()
        }
        for key, place in _places(claim).items()
    }
    return {**{key: value for key, value in claim.items() if key != "untested"}, **places}


def _one_or_all(names: list[object]) -> object:
    return names[0] if len(names) == 1 else names


def _why_untested(claim: Mapping[str, object], here: _Here) -> str | None:
    """As the claim says, `untested = { quick = "..." }`; or since a side of it is nothing that the size runs."""
    places = _places(claim)
    if here.model is not None and any("model" in place for place in places.values()):
        return f"it is about certain models, and {here.model} was asked for in their place"
    reasons = claim.get("untested", {})
    if isinstance(reasons, Mapping) and here.size in reasons:
        return str(reasons[here.size])
    for key, place in places.items():
        for names in place.values():
            missing = [str(name) for name in names if name in here.without]
            if missing and (key == "left" or len(missing) == len(names)):
                return here.without[missing[0]]
    return None


def _places(claim: Mapping[str, object]) -> Mapping[str, Mapping[str, Sequence[object]]]:
    """What a claim says of where it looks: by `where`, `left` and `right`, the values of each axis."""
    return {
        key: {axis: names if isinstance(names, list) else [names] for axis, names in place.items()}
        for key in _PLACES
        if isinstance(place := claim.get(key), Mapping)
    }


def _tables(value: object) -> Sequence[Mapping[str, object]]:
    if not isinstance(value, list):
        raise DisbudError("claims are a list of tables")
    return value
