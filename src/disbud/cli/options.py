"""The options that several commands share, and how their texts are read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from disbud.catalogue import Value, parse
from disbud.errors import DisbudError

if TYPE_CHECKING:
    from collections.abc import Iterable

_JSON = "Print one JSON document on stdout and nothing else there."
_COMMON = Group("Common options", sort_key=9)


class WorkFailed(Exception):
    """What was asked was fine, and the work failed: exit code 1."""


@Parameter(name="*")
@dataclass(frozen=True)
class Common:
    """The options of every command that computes."""

    json: Annotated[bool, Parameter(group=_COMMON, show_default=False, help=_JSON)] = False
    threads: Annotated[int, Parameter(group=_COMMON, help="CPU threads that torch may use.")] = 1


COMMON = Common()

Json = Annotated[bool, Parameter(show_default=False, help=_JSON)]
Model = Annotated[
    str,
    Parameter(
        help="A model that `disbud models` lists, with settings as in resnet20:width=0.5, or your own function that "
        "returns one: package.module:function,depth=3 (the current folder can be imported from)."
    ),
]
Data = Annotated[
    str | None,
    Parameter(help="A data set that `disbud data` lists; the model's classes and input shape come from it."),
]
Classes = Annotated[int | None, Parameter(help="Classes of the model, where no data set says; else 10.")]
InputShape = Annotated[
    str | None,
    Parameter(
        help="Shape of one input, as in 3x32x32, where no data set says; else that of the model's paper."
    ),
]
Weights = Annotated[
    Path | None, Parameter(help="Weights to start from (safetensors); else they are drawn from the seed.")
]

StoreFolder = Annotated[
    Path | None,
    Parameter(help="Folder in which results are kept; else $DISBUD_STORE, else ~/.local/share/disbud/store."),
]


def shape_of(text: str | None) -> tuple[int, ...] | None:
    """Read "3x32x32"."""
    if text is None:
        return None
    parts = text.lower().replace(",", "x").split("x")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise DisbudError(f"--input-shape {text}: should be sizes above 0 joined by x, as in 3x32x32 or 784")
    return tuple(int(part) for part in parts)


def examples_of(text: str | None) -> dict[str, Value]:
    """Read `--examples-per-class`: a number, or "all"; nothing where it is not given."""
    if text is None:
        return {}
    if text == "all":
        return {"examples_per_class": None}
    if not text.isdecimal() or int(text) < 1:
        raise DisbudError(f"--examples-per-class {text}: should be a whole number of at least 1, or all")
    return {"examples_per_class": int(text)}


def settings_of(pairs: Iterable[str]) -> dict[str, Value]:
    """Read the key=value texts of `--set`."""
    settings: dict[str, Value] = {}
    for pair in pairs:
        spec = parse(f"method:{pair}")
        if spec.argument is not None or not spec.settings:
            raise DisbudError(f"--set {pair}: should read key=value, as in --set temperature=100")
        settings.update(spec.settings)
    return settings


def check_count(option: str, value: int) -> None:
    """Raise where a count is below 1."""
    if value < 1:
        raise DisbudError(f"{option} {value}: should be at least 1")


def check_writable(option: str, path: Path | None) -> None:
    """Raise before any work is done where its outcome could not be written."""
    if path is None:
        return
    if path.is_dir():
        raise DisbudError(f"{option} {path}: this is a folder; name a file in it")
    if not path.parent.is_dir():
        raise DisbudError(f"{option} {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise DisbudError(f"{option} {path}: the folder {path.parent} cannot be written to")
