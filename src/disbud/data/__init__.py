"""Data sets as tensors: known by name, drawn, decoded from files, or a user's own; torch is loaded on use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from disbud.data.catalogue import CATALOGUE

if TYPE_CHECKING:
    from disbud.data.augmentation import POLICIES as POLICIES
    from disbud.data.augmentation import augment as augment
    from disbud.data.dataset import Batches as Batches
    from disbud.data.dataset import Dataset as Dataset
    from disbud.data.dataset import Split as Split
    from disbud.data.loading import load as load
    from disbud.data.tensors import from_tensors as from_tensors

_HOMES = {
    "POLICIES": "augmentation",
    "augment": "augmentation",
    "Batches": "dataset",
    "Dataset": "dataset",
    "Split": "dataset",
    "load": "loading",
    "from_tensors": "tensors",
}

__all__ = ["CATALOGUE", "POLICIES", "Batches", "Dataset", "Split", "augment", "from_tensors", "load"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
