"""Data sets of trials: kept from one trial to the next, and known by the content that identities are made of."""

from __future__ import annotations

import hashlib
from functools import cache, lru_cache
from pathlib import Path

from disbud.artifacts import Key, cache_folder, digest, get_or_make
from disbud.catalogue import parse
from disbud.data import Dataset, load
from disbud.data.catalogue import CATALOGUE
from disbud.origin import package_version

_KEPT = 4  # data sets in memory: trials come sorted by the seed of their split
_DRAWN = "shapes"  # takes seconds to draw, and nothing but settings and seed decides its content


def loaded(data: str, split: int) -> Dataset:
    """The data set with the split of that seed, from memory where a trial before used it."""
    return _loaded(data, split, _state(data))


def fingerprint(data: str, split: int) -> str:
    """SHA-256 of the content; of data that are drawn it is kept, since drawing them takes seconds."""
    return _fingerprint(data, split, _state(data))


def guessing(data: str, split: int) -> float:
    """The accuracy of guessing, one in as many as there are classes; known of data that are drawn before they are."""
    return _guessing(data, split, _state(data))


def knows_fingerprint(data: str, split: int) -> bool:
    """Whether the fingerprint is had without drawing the data."""
    return parse(data).name != _DRAWN or (cache_folder() / digest(_key(data, split))).is_dir()


def forget_data() -> None:
    """Have what may have changed read anew by who asks next: files that are not as they were, and functions' data."""
    _state.cache_clear()


@lru_cache(maxsize=_KEPT)
def _loaded(data: str, split: int, state: object) -> Dataset:
    return load(data, seed=split)


@cache
def _fingerprint(data: str, split: int, state: object) -> str:
    if parse(data).name != _DRAWN:
        return _loaded(data, split, state).fingerprint
    entry = get_or_make(
        _key(data, split), lambda folder: _write(folder, _loaded(data, split, state).fingerprint)
    )
    return (entry / "fingerprint").read_text(encoding="ascii")


@cache
def _guessing(data: str, split: int, state: object) -> float:
    spec = parse(data)
    if spec.name != _DRAWN:
        return 1 / _loaded(data, split, state).classes
    settings = {**CATALOGUE[_DRAWN].settings, **spec.settings}
    return 1 / int(str(settings["classes"]))


@cache
def _state(data: str) -> object:
    """What stays equal while the content does: of files, their names, sizes and times; of a function, nothing."""
    spec = parse(data)
    if spec.name not in CATALOGUE:
        return object()
    place = str(spec.argument or spec.settings.get("source") or "")
    if not place or not (spec.name == "folder" or place.startswith((".", "/", "~"))):
        return None
    state = hashlib.sha256()
    for path in sorted(Path(place).expanduser().absolute().rglob("*")):
        if path.is_file():
            about = path.stat()
            state.update(f"{path}\0{about.st_size}\0{about.st_mtime_ns}\0{about.st_ino}\n".encode())
    return state.hexdigest()


def _key(data: str, split: int) -> Key:
    return {
        "made": "the fingerprint of a data set",
        "data": data,
        "seed": split,
        "revision": CATALOGUE[_DRAWN].revision,
        "version": package_version(),
    }


def _write(folder: Path, content: str) -> None:
    (folder / "fingerprint").write_text(content, encoding="ascii")
