"""The one cache: folders of files, found by what determines their content, made once, checked when read.

An entry is named by the SHA-256 of its key, a JSON value that states everything its content depends on. It is
made in a folder beside its place, under a lock, and renamed when whole and synced: no reader sees half of
one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from disbud.errors import DisbudError

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
Key: TypeAlias = Mapping[str, Json]

_MANIFEST = "manifest.json"


def cache_folder(cache: str | os.PathLike[str] | None = None) -> Path:
    """Where entries are kept: the folder given, else $DISBUD_CACHE, else ~/.cache/disbud.

    >>> import disbud.artifacts
    >>> disbud.artifacts.cache_folder("scratch/cache").name
    'cache'
    """
    return Path(cache or os.environ.get("DISBUD_CACHE") or "~/.cache/disbud").expanduser().absolute()


def canonical(value: Json) -> str:
    """The one spelling of a JSON value, whatever the order of its keys.

    >>> import disbud.artifacts
    >>> disbud.artifacts.canonical({"size": 32, "name": "shapes"})
    '{"name":"shapes","size":32}'
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DisbudError(
            f"the key {value!r} is no JSON value ({error}); use words, finite numbers, lists"
        ) from error


def digest(key: Key) -> str:
    """The name of the entry with that key: the SHA-256 of its canonical JSON.

    >>> import disbud.artifacts
    >>> disbud.artifacts.digest({"size": 32})[:16]
    '6eba27831cd0b20d'
    """
    return hashlib.sha256(canonical(key).encode()).hexdigest()


def get_or_make(
    key: Key, make: Callable[[Path], None], *, cache: str | os.PathLike[str] | None = None
) -> Path:
    """The folder of the entry with that key; `make` fills an empty one when there is none or it is damaged.

    When several processes ask at once, one makes and the others wait for it. A whole entry needs no right to
    write.

    >>> import disbud.artifacts, tempfile
    >>> def make(folder):
    ...     _ = (folder / "square.txt").write_text(str(12**2))
    >>> with tempfile.TemporaryDirectory() as cache:
    ...     folder = disbud.artifacts.get_or_make({"square of": 12}, make, cache=cache)
    ...     print((folder / "square.txt").read_text())
    144
    """
    root = cache_folder(cache)
    entry = root / digest(key)
    if _is_whole(entry):
        return entry
    with _explained(root):
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root / f"{entry.name}.lock"):
            if not _is_whole(entry):  # it may have been made while this process waited
                _make(entry, key, make)
    return entry


def _make(entry: Path, key: Key, make: Callable[[Path], None]) -> None:
    part = entry.with_name(f".{entry.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a maker that was killed: the lock's holder is the only one
    part.mkdir()
    try:
        make(part)
        files = _contents(part)
        if not files:
            raise DisbudError(f"nothing was made for the cache entry {canonical(key)}; write at least a file")
        (part / _MANIFEST).write_text(json.dumps({"key": key, "files": files}, indent=1), encoding="utf-8")
        for folder, _, names in os.walk(part, topdown=False):
            for path in (*(Path(folder, name) for name in names), Path(folder)):
                _sync(path)
        if entry.exists():
            shutil.rmtree(entry)
        part.rename(entry)
        _sync(entry.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _contents(folder: Path) -> dict[str, list[int | str]]:
    """Size and SHA-256 of every file under the folder, but for the manifest."""
    found: dict[str, list[int | str]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / _MANIFEST:
            with open(path, "rb") as file:
                found[path.relative_to(folder).as_posix()] = [
                    path.stat().st_size,
                    hashlib.file_digest(file, "sha256").hexdigest(),
                ]
    return found


def _is_whole(entry: Path) -> bool:
    try:
        manifest = json.loads((entry / _MANIFEST).read_text(encoding="utf-8"))
        return bool(manifest["files"] == _contents(entry))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file; the system frees it when the process ends, however that happens."""
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _explained(root: Path) -> Iterator[None]:
    """Turn a refusal to write into the cache into an error that says what to do; let others pass."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        where = (
            Path(os.fsdecode(error.filename)).absolute() if isinstance(error.filename, str | bytes) else None
        )
        if not full and (where is None or not (where.is_relative_to(root) or root.is_relative_to(where))):
            raise
        raise DisbudError(
            f"the cache {root} cannot be written: {'the disk is full' if full else error.strerror}; "
            "make room or name another folder, by DISBUD_CACHE=FOLDER or cache=FOLDER"
        ) from error
