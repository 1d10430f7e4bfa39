"""Files of a store, named by the SHA-256 of their content: on the disk before a row names them, checked when read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from disbud.errors import DisbudError
from disbud.files import write_atomically
from disbud.study.store.folder import OBJECTS, explained

_SUFFIX = ".safetensors"


class Objects:
    """The files of one store."""

    def __init__(self, folder: Path) -> None:
        self._store, self._folder = folder, folder / OBJECTS

    def path(self, sha256: str) -> Path:
        """Where the content of that hash lies, if it does."""
        return self._folder / sha256[:2] / f"{sha256}{_SUFFIX}"

    def put(self, content: bytes) -> str:
        """Have the content lie there, synced to the disk; its hash."""
        sha256 = hashlib.sha256(content).hexdigest()
        path = self.path(sha256)
        with explained(self._store):
            if not path.exists() or path.read_bytes() != content:
                for folder in (self._folder, path.parent):
                    _have(folder)
                write_atomically(path, content)
        return sha256

    def get(self, sha256: str, what: str) -> bytes:
        """The content of that hash; anything else on the disk is an error that says whose it was."""
        path = self.path(sha256)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DisbudError(f"{what} cannot be read from the store: {path}: {error.strerror}") from None
        if hashlib.sha256(content).hexdigest() != sha256:
            raise DisbudError(
                f"{what} is damaged: the content of {path} is not what its name says. Forget the trial and run it again"
            )
        return content

    @property
    def any(self) -> bool:
        """Whether there is a file at all."""
        return any(True for _ in self._folder.glob("??/*"))

    def remove_all_but(self, wanted: Iterable[str]) -> tuple[int, int]:
        """Remove what is not wanted, and what was left half written; how many files, how many bytes."""
        keep = {self.path(sha256) for sha256 in wanted}
        files = size = 0
        with explained(self._store):
            for path in sorted(self._folder.glob("??/*")):
                if path not in keep:
                    size += path.stat().st_size
                    path.unlink()
                    files += 1
        return files, size


def settled(content: bytes) -> bytes:
    """The same safetensors file with its header in the order of names, so that equal contents are equal bytes.

    safetensors writes metadata in whatever order its hash table has; readers take any.
    """
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def _have(folder: Path) -> None:
    """A folder whose name is on the disk, so that what is put there will be found."""
    if folder.is_dir():
        return
    folder.mkdir(exist_ok=True)
    descriptor = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
