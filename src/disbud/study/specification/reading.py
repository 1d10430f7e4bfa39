"""Reading a study file: TOML to forms, every complaint a sentence that names the key and the nearest valid one."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict, TypeVar, cast

from pydantic import BaseModel, ValidationError

from disbud.errors import DisbudError, unknown_name
from disbud.study.specification.forms import (
    CLAIMS,
    AnyClaim,
    GridForm,
    Place,
    SeedsForm,
    StudyForm,
)

_TABLES: Mapping[str, type[BaseModel]] = {
    "trial": GridForm,
    "seeds": SeedsForm,
    "where": Place,
    "left": Place,
    "right": Place,
}
AnyForm = TypeVar("AnyForm", bound=BaseModel)
_ORDER = {"extra_forbidden": 0, "missing": 1}
_TYPES = ("str", "int", "float", "SeedsForm")
_NAMES = "a name as on the command line, or a list of them"
_FRACTIONS = "a fraction from 0 to below 1, or a list of them, as [0.9, 0.98]"
_SEED = "a whole number for all seeds, or a list with one each"
_EXPECTED = {
    **dict.fromkeys(
        ("data", "model", "recipe", "methods", "interventions", "measures", "method", "intervention"), _NAMES
    ),
    **dict.fromkeys(("sparsities", "sparsity"), _FRACTIONS),
    **dict.fromkeys(("split", "init", "mask", "order"), _SEED),
    "seeds": "how many there are, a list of whole numbers, or a table as { count = 5, init = 0 }",
    "count": "a whole number of at least 1",
    "name": "letters, digits, dots, dashes and underscores, since files are named by it",
    "margin": "a number above 0; for accuracies a fraction, as 0.005 for half a point",
    "controls": "true or false",
    "trial": "a list of tables, each under [[trial]]",
}


def read_study(path: str | os.PathLike[str]) -> tuple[StudyForm, str]:
    """The study of a file, and the file's text.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from disbud.study.specification import read_study
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "mine.toml")
    ...     _ = file.write_text('name = "mine"\\ndata = "digits"\\nmethds = "snip"')
    ...     read_study(file)
    Traceback (most recent call last):
        ...
    disbud.errors.DisbudError: mine.toml: there is no key 'methds'; did you mean 'methods' or 'seeds'?
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DisbudError(f"{path}: cannot be read as a study file: {error}") from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DisbudError(f"{path.name}: not TOML: {error}") from error
    return study_of(values, named=path.name), text


def study_of(values: Mapping[str, object], *, named: str = "the study") -> StudyForm:
    """The study of plain values, as they stand in a file."""
    values = dict(values)
    claims = values.pop("claim", [])
    if not isinstance(claims, list):
        raise DisbudError(f"{named}: claims are a list of tables, each under [[claim]]")
    form = _validated(StudyForm, values, named)
    return form.model_copy(
        update={"claim": [_claim(claim, f"{named}: claim {i}") for i, claim in enumerate(claims, start=1)]}
    )


def _claim(values: object, named: str) -> AnyClaim:
    if not isinstance(values, Mapping):
        raise DisbudError(f"{named} is a table, not {values!r}")
    if isinstance(values.get("name"), str):
        named = f"{named} ({values['name']})"
    kind = values.get("kind", "compare")
    if kind not in CLAIMS:
        raise DisbudError(f"{named}: {unknown_name('kind of claim', str(kind), CLAIMS)}")
    return cast("AnyClaim", _validated(CLAIMS[kind], values, named))


class Problem(TypedDict):
    """What pydantic says of one place."""

    type: str
    loc: tuple[str | int, ...]
    msg: str


def _validated(form: type[AnyForm], values: Mapping[str, object], named: str) -> AnyForm:
    try:
        return form.model_validate(dict(values))
    except ValidationError as error:
        problems = cast("Sequence[Problem]", error.errors(include_url=False))
        raise DisbudError(f"{named}: {_sentence(form, values, problems)}") from None


def _sentence(form: type[BaseModel], values: Mapping[str, object], problems: Sequence[Problem]) -> str:
    """The first problem to mend: an unknown key before what is missing, and that before what a key holds."""
    first = min(problems, key=lambda problem: _ORDER.get(problem["type"], 2))
    place = [part for part in first["loc"] if not _names_a_type(part)]
    if first["type"] == "extra_forbidden":
        keys = [field.alias or name for name, field in _table(form, place[:-1]).model_fields.items()]
        inside = f"in {_dotted(place[:-1])}: " if len(place) > 1 else ""
        return f"{inside}{unknown_name('key', str(place[-1]), keys)}"
    if first["type"] == "missing":
        return f"{_dotted(place)} is missing"
    if not place:
        return first["msg"].removeprefix("Value error, ")
    while isinstance(place[-1], int) and place[-2] in _EXPECTED:
        place.pop()  # a place within a list of values is the list's
    given: object = values
    for part in place:
        given = given[part]  # type: ignore[index]
    expected = _EXPECTED.get(str(place[-1]))
    if expected is None:
        return f"{_dotted(place)}: {first['msg'][0].lower()}{first['msg'][1:]}, not {given!r}"
    return f"{_dotted(place)} is {expected}, not {given!r}"


def _names_a_type(part: str | int) -> bool:
    """Within the place, pydantic names the alternative of a union that it tried."""
    return isinstance(part, str) and (part in _TYPES or part.startswith(("list[", "constrained")))


def _table(form: type[BaseModel], place: Sequence[str | int]) -> type[BaseModel]:
    names = [part for part in place if isinstance(part, str)]
    return _TABLES[names[-1]] if names else form


def _dotted(place: Sequence[str | int]) -> str:
    """`trial 2.methods` for ("trial", 1, "methods"); a place within a list of values is the list's."""
    parts: list[str] = []
    for part in place:
        if isinstance(part, int):
            parts[-1] += f" {part + 1}"
        else:
            parts.append(part)
    return ".".join(parts)
