"""The papers that disbud grew from, each as a study file with its claims, run by one command."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from disbud.reproductions.catalogue import CATALOGUE, SIZES, Reproduction

if TYPE_CHECKING:
    from disbud.reproductions.loading import reproduction

__all__ = ["CATALOGUE", "SIZES", "Reproduction", "reproduction"]


def __getattr__(name: str) -> object:
    if name != "reproduction":  # the others are read by the command line's help, which imports no torch
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = importlib.import_module("disbud.reproductions.loading").reproduction
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
