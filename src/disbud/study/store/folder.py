"""Where a store lies, what file system that is, and the lock that lets one driver at a time write to it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from disbud.errors import DisbudError

DATABASE, OBJECTS, _LOCK = "store.sqlite", "objects", "driver.lock"
_NETWORK = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "9p",
    "afs",
    "glusterfs",
}
_MOUNTS = Path("/proc/mounts")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def store_folder(folder: str | os.PathLike[str] | None = None) -> Path:
    """The folder given, else $DISBUD_STORE, else disbud/store in $XDG_DATA_HOME or ~/.local/share.

    >>> from disbud.study import store_folder
    >>> store_folder("scratch/store").name
    'store'
    """
    given = folder or os.environ.get("DISBUD_STORE")
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(given or Path(data, "disbud", "store")).expanduser().absolute()


def is_on_a_network(folder: Path, mounts: Path = _MOUNTS) -> bool:
    """Whether other machines may write there too: SQLite's write-ahead log needs memory that all writers share."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    real, found, kind = os.path.realpath(folder), "", ""
    for line in lines:
        _, where, type_, *_ = [*line.split(" "), "", "", ""]
        where = where.encode().decode("unicode_escape")  # a blank is written \040
        inside = real == where or real.startswith(where.rstrip("/") + "/")
        if inside and len(where) >= len(found):
            found, kind = where, type_
    return kind in _NETWORK or (
        kind.startswith("fuse.") and kind.removeprefix("fuse.") in {"sshfs", "s3fs", *_NETWORK}
    )


@contextlib.contextmanager
def driver_lock(folder: Path) -> Iterator[None]:
    """Be the one that writes to the store; the system frees the lock when the process ends, however that happens."""
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / _LOCK, "a+", encoding="utf-8")  # noqa: SIM115 - closed below, whoever gets the lock
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DisbudError(
                f"the store {folder} is being written by {_holder(folder)}; wait for it, or name another folder with "
                "store=FOLDER or DISBUD_STORE=FOLDER. Reading a store needs no waiting"
            ) from None
        with explained(folder):
            file.truncate(0)
            since = datetime.now(UTC).isoformat(timespec="seconds")
            file.write(json.dumps({"pid": os.getpid(), "host": platform.node(), "since": since}))
            file.flush()
        yield


def _holder(folder: Path) -> str:
    try:
        told = json.loads((folder / _LOCK).read_text(encoding="utf-8"))
        return f"process {told['pid']} on {told['host']} since {told['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # it has the lock and has not yet written who it is


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Say what it means for the store when the system or SQLite refuses something."""
    try:
        yield
    except sqlite3.Error as error:
        raise DisbudError(_meaning(folder, error)) from error
    except UnicodeDecodeError as error:  # Python's, of text that SQLite handed over or of its own message
        raise DisbudError(damaged(folder, str(error))) from error
    except OSError as error:
        if error.errno in _FULL:
            raise _full(folder) from error
        raise DisbudError(
            f"the store {folder} cannot be used: {error.strerror or error}; name another folder with store=FOLDER or "
            "DISBUD_STORE=FOLDER"
        ) from error


def _meaning(folder: Path, error: sqlite3.Error) -> str:
    said, code = str(error), getattr(error, "sqlite_errorname", "")
    if code == "SQLITE_FULL":
        return str(_full(folder))
    if code.startswith("SQLITE_READONLY") or code.startswith("SQLITE_CANTOPEN"):
        return (
            f"the store {folder} cannot be written: {said}; get the right to write there, or name another folder with "
            "store=FOLDER or DISBUD_STORE=FOLDER"
        )
    if code.startswith("SQLITE_IOERR"):
        return (
            f"the store {folder} cannot be read or written ({said}): the disk is full, a limit on the size of files is "
            "reached, or the disk fails. What was committed is safe; make room and run again"
        )
    if code.startswith("SQLITE_CORRUPT") or code.startswith("SQLITE_NOTADB"):
        return damaged(folder, said)
    return f"the store {folder} cannot be used: {said}"


def _full(folder: Path) -> DisbudError:
    return DisbudError(
        f"there is no room left for the store {folder}: the disk is full, or a limit on the size of files is reached. "
        "What was committed is safe; make room and run again, and what is done is not run again"
    )


def damaged(folder: Path, said: str) -> str:
    """What to say of a database that is not what was written."""
    return (
        f"the store {folder} is damaged: {said}. Nothing in it was changed. Restore {DATABASE} from a copy, or move "
        f"the folder away and run again; `sqlite3 {DATABASE} .recover` prints what can still be read"
    )
