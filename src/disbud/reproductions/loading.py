"""From the name of a paper and a size to the study that reproduces it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources

from disbud.errors import DisbudError, unknown_name
from disbud.reproductions.catalogue import CATALOGUE, SIZES
from disbud.study import Study
from disbud.training.recipes import recipe_for

_COMMON: tuple[str, ...] = ("name", "says", "source")


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

    Other data come with their own recipe, unless one is named.

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
    sizes = values.pop("size")
    more = dict(sizes[size])
    values["trial"] = [*values.get("trial", []), *more.pop("trial", [])]
    values |= more
    given = {"data": data, "model": model, "recipe": recipe, "seeds": seeds}
    if data is not None and recipe is None:
        given["recipe"] = str(recipe_for(data))
    values |= {key: value for key, value in given.items() if value is not None}
    values["name"] = name if size == "default" else f"{name}-{size}"
    values["claim"] = [_claim(claim, size) for claim in _tables(values["claim"])]
    said = [
        f" --{key} {value}" for key, value in (("data", data), ("model", model), ("recipe", recipe)) if value
    ]
    command = f"disbud reproduce {name}{'' if size == 'default' else f' --{size}'}{''.join(said)}"
    return Study.of(values, text=text_of(name), command=command)


def text_of(name: str) -> str:
    """The study file of a paper."""
    return resources.files("disbud.reproductions").joinpath(f"{name}.toml").read_text(encoding="utf-8")


def _claim(claim: Mapping[str, object], size: str) -> Mapping[str, object]:
    """A claim, or why this size cannot test it: `untested = { quick = "..." }` in the study file."""
    said = {key: value for key, value in claim.items() if key != "untested"}
    reasons = claim.get("untested", {})
    if not isinstance(reasons, Mapping) or size not in reasons:
        return said
    return {**{key: said[key] for key in _COMMON if key in said}, "kind": "untested", "why": reasons[size]}


def _tables(value: object) -> Sequence[Mapping[str, object]]:
    if not isinstance(value, list):
        raise DisbudError("claims are a list of tables")
    return value
