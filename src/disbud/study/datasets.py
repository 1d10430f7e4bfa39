"""Data sets of trials: kept from one trial to the next, and known by the content that identities are made of."""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path

from disbud.artifacts import Key, cache_folder, digest, get_or_make
from disbud.catalogue import parse
from disbud.data import Dataset, load
from disbud.data.catalogue import CATALOGUE
from disbud.origin import package_version

_KEPT = 4  # data sets in memory: trials come sorted by the seed of their split
_DRAWN = "shapes"  # takes seconds to draw, and nothing but settings and seed decides its content


@lru_cache(maxsize=_KEPT)
def loaded(data: str, split: int) -> Dataset:
    """The data set with the split of that seed, from memory where a trial before used it."""
    return load(data, seed=split)


@cache
def fingerprint(data: str, split: int) -> str:
    """SHA-256 of the content; of data that are drawn it is kept, since drawing them takes seconds."""
    if parse(data).name != _DRAWN:
        return loaded(data, split).fingerprint
    entry = get_or_make(_key(data, split), lambda folder: _write(folder, loaded(data, split).fingerprint))
    return (entry / "fingerprint").read_text(encoding="ascii")


def knows_fingerprint(data: str, split: int) -> bool:
    """Whether the fingerprint is had without drawing the data."""
    return parse(data).name != _DRAWN or (cache_folder() / digest(_key(data, split))).is_dir()


def _key(data: str, split: int) -> Key:
    return {
        "made": "the fingerprint of a data set",
        "data": data,
        "seed": split,
        "revision": CATALOGUE[_DRAWN].revision,
        "version": package_version(),
    }


def forget_data() -> None:
    """Have what is loaded next read anew: files may have changed since."""
    loaded.cache_clear()
    fingerprint.cache_clear()


def _write(folder: Path, content: str) -> None:
    (folder / "fingerprint").write_text(content, encoding="ascii")
