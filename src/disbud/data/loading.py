"""From what a user types to a data set: a name of the catalogue with settings, or a function of their own."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import cast

from disbud.catalogue import Spec, check_settings, find, parse, resolve
from disbud.data.catalogue import CATALOGUE
from disbud.data.dataset import Dataset
from disbud.data.request import Request
from disbud.data.tensors import Array, from_tensors
from disbud.errors import DisbudError


def load(spec: str, *, seed: int = 0, cache: str | os.PathLike[str] | None = None) -> Dataset:
    """The data set asked for: `digits`, `shapes:size=16`, `folder:PATH`, `hf:ORG/NAME`, `module:function`.

    `disbud.data.CATALOGUE` lists the names and their settings. Images decoded from files are kept in `cache`
    (default: $DISBUD_CACHE, else ~/.cache/disbud) and read from there afterwards. A function of the user's
    own returns a Dataset, or (images, labels) with or without (test_images, test_labels); it is given its
    settings, and the seed if it takes one.

    >>> import disbud.data
    >>> dataset = disbud.data.load("shapes:size=16,train=200,test=100")
    >>> dataset.input_shape, dataset.class_names[:4]
    ((3, 16, 16), ('disc', 'square', 'triangle', 'ring'))
    """
    parsed = parse(spec)
    if parsed.name not in CATALOGUE and _is_function(parsed):
        return _own(spec, parsed, seed)
    entry = find("data set", parsed.name, CATALOGUE)
    check_settings(f"the data set {entry.name}", parsed.settings, entry.settings)
    make = cast("Callable[..., Dataset]", entry.load())
    request = Request(spec.strip(), parsed.argument, seed, cache)
    return make(request, **{**entry.settings, **parsed.settings})


def _is_function(parsed: Spec) -> bool:
    return (parsed.argument or "").isidentifier() and all(
        part.isidentifier() for part in parsed.name.split(".")
    )


def _own(spec: str, parsed: Spec, seed: int) -> Dataset:
    reference = f"{parsed.name}:{parsed.argument}"
    function = resolve(reference)
    signature = inspect.signature(function)
    settings: dict[str, object] = dict(parsed.settings)
    if "seed" in signature.parameters:
        settings.setdefault("seed", seed)
    try:
        signature.bind(**settings)
    except TypeError as error:
        raise DisbudError(
            f"{spec!r}: {reference}{signature} cannot be called with {settings}: {error}"
        ) from error
    result = function(**settings)
    if isinstance(result, Dataset):
        return result
    if isinstance(result, tuple) and len(result) in (2, 4):
        images, labels, *test = cast("tuple[Array, ...]", result)
        test_images, test_labels = test or (None, None)
        return from_tensors(
            images, labels, test_images=test_images, test_labels=test_labels, name=spec.strip(), seed=seed
        )
    raise DisbudError(
        f"{spec!r}: {reference} returned {type(result).__name__}; it should return a disbud.data.Dataset, "
        "(images, labels) or (images, labels, test_images, test_labels)"
    )
