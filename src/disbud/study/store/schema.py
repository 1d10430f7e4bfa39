"""The database of a store: its tables, its version, and opening it to write or to read."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import quote

from disbud.errors import DisbudError
from disbud.study.store.folder import DATABASE, OBJECTS, damaged, explained, is_on_a_network
from disbud.study.store.objects import Objects

VERSION = 1
_APPLICATION = 0x64697362  # "disb" in SQLite's header: this file is a store and no other database
_CHECKED_AT_ONCE = 64 * 2**20  # bytes up to which the whole file is checked when it is opened
_PATIENCE = 30.0  # seconds to wait for another process that is in the middle of a commit

_TABLES = """
CREATE TABLE environment (id TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE trial (
    identity TEXT PRIMARY KEY,
    model TEXT NOT NULL, data TEXT NOT NULL, recipe TEXT NOT NULL, method TEXT NOT NULL,
    sparsity REAL, intervention TEXT,
    split INTEGER NOT NULL, init INTEGER NOT NULL, mask INTEGER NOT NULL, "order" INTEGER NOT NULL,
    described TEXT NOT NULL,
    accuracy REAL, loss REAL, diverged TEXT, error TEXT, traceback TEXT,
    ticket TEXT, weights TEXT, start TEXT,
    seconds REAL NOT NULL, memory INTEGER NOT NULL, attempts INTEGER NOT NULL, finished TEXT NOT NULL,
    environment TEXT NOT NULL REFERENCES environment (id),
    checksum TEXT NOT NULL
);
CREATE TABLE epoch (
    trial TEXT NOT NULL REFERENCES trial (identity) ON DELETE CASCADE,
    epoch INTEGER NOT NULL, train_loss REAL, test_loss REAL, test_accuracy REAL,
    PRIMARY KEY (trial, epoch)
) WITHOUT ROWID;
CREATE TABLE measure (
    trial TEXT NOT NULL REFERENCES trial (identity) ON DELETE CASCADE,
    name TEXT NOT NULL, revision INTEGER NOT NULL,
    content TEXT, error TEXT, traceback TEXT, finished TEXT NOT NULL, checksum TEXT NOT NULL,
    PRIMARY KEY (trial, name, revision)
);
CREATE TABLE study (name TEXT PRIMARY KEY, content TEXT NOT NULL, noted TEXT NOT NULL);
CREATE TABLE study_trial (
    study TEXT NOT NULL REFERENCES study (name) ON DELETE CASCADE, trial TEXT NOT NULL,
    PRIMARY KEY (study, trial)
) WITHOUT ROWID;
"""


def open_to_write(folder: Path) -> sqlite3.Connection:
    """The database of the folder, made if there is none. Commits are synced to the disk."""
    with explained(folder):
        connection = sqlite3.connect(folder / DATABASE, timeout=_PATIENCE, isolation_level=None)
        try:
            new = _is_empty(connection, folder)
            if not new:
                _check(connection, folder)
            mode = "DELETE" if is_on_a_network(folder) else "WAL"
            connection.execute(f"PRAGMA journal_mode = {mode}")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            if new:
                _create(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def open_to_read(folder: Path) -> sqlite3.Connection:
    """The database as it is now, also while a driver writes; an empty one where there is no store yet."""
    path = folder / DATABASE
    if not path.exists():
        return _nothing(folder)
    with explained(folder):
        address = f"file:{quote(str(path))}?mode=ro"
        connection = sqlite3.connect(address, uri=True, timeout=_PATIENCE, isolation_level=None)
        try:
            try:
                empty = _is_empty(connection, folder)
            except sqlite3.OperationalError:
                log = path.with_name(f"{DATABASE}-wal")
                if log.exists() and log.stat().st_size:
                    raise
                # In a folder that cannot be written SQLite cannot set up its log; there is none to read either.
                connection.close()
                connection = sqlite3.connect(f"{address}&immutable=1", uri=True, isolation_level=None)
                empty = _is_empty(connection, folder)
            if empty:  # its driver has only begun
                connection.close()
                return _nothing(folder)
            _check(connection, folder)
        except BaseException:
            connection.close()
            raise
    return connection


def _nothing(folder: Path) -> sqlite3.Connection:
    if Objects(folder).any:
        raise DisbudError(damaged(folder, f"there are files in {OBJECTS}, and no {DATABASE} that names them"))
    connection = sqlite3.connect(":memory:", isolation_level=None)
    _create(connection)
    return connection


def _is_empty(connection: sqlite3.Connection, folder: Path) -> bool:
    """Whether the database holds nothing at all, as a new one; one that lost everything is damaged."""
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        return False
    if Objects(folder).any:
        raise DisbudError(
            damaged(folder, f"{DATABASE} is empty, and there are files in {OBJECTS} that it should name")
        )
    return True


def _create(connection: sqlite3.Connection) -> None:
    """All tables or none: version and tables become true in one commit."""
    marks = f"PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {VERSION};"
    connection.executescript(f"BEGIN IMMEDIATE; {marks} {_TABLES} COMMIT;")


def _check(connection: sqlite3.Connection, folder: Path) -> None:
    """Raise for what is no store, one of a newer disbud, or a damaged one."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != _APPLICATION:
        raise DisbudError(
            f"{folder / DATABASE} is a database, but no store of disbud; name another folder with store=FOLDER"
        )
    if version > VERSION:
        raise DisbudError(
            f"the store {folder} was written by a newer disbud (its version is {version}, this disbud reads up to "
            f"{VERSION}); update disbud, or name another folder with store=FOLDER"
        )
    if (folder / DATABASE).stat().st_size <= _CHECKED_AT_ONCE:
        found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise DisbudError(damaged(folder, " ".join(str(found).split())))
