"""The store where things go wrong: what it says when full, foreign, damaged or closed, and that nothing is lost."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from disbud import DisbudError
from disbud.study import Failure, InProcess, Outcome, Store, perform
from disbud.study.store.objects import Objects
from stored_trials import DENSE, LENET, dense_outcome, filled_store, lenet_outcome  # noqa: F401 - fixtures


def limited(folder: Path, limit: int) -> str:
    """Add trials from a process that may write files of so many bytes only; what it said."""
    script = (
        "import resource, sys\n"
        "from disbud.study import Outcome, Store, Trial\n"
        "from disbud import Ticket\n"
        "import torch\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        f"with Store.open({str(folder)!r}, write=True) as store:\n"
        "    for seed in range(1000):\n"
        "        trial = Trial('lenet-300-100', 'digits', 'digits:epochs=1').with_seed(seed % 5)\n"
        "        weights = {'w': torch.full((60_000,), float(seed))} if seed > 20 else None\n"
        "        store.add(trial, Outcome(seed / 1000, 1.0, (), weights=weights))\n"
        "        sys.stdout.write(f'{seed}\\n'); sys.stdout.flush()\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    last = int(ended.stdout.split()[-1]) if ended.stdout else -1
    with Store.open(folder) as store:
        assert max((record.accuracy or 0.0 for record in store.all()), default=-0.001) >= last / 1000
    return ended.stderr.strip().splitlines()[-1]


def test_a_disk_that_is_full_loses_nothing_that_was_stored(tmp_path: Path) -> None:
    assert hasattr(resource, "RLIMIT_FSIZE")
    for number, limit in enumerate(
        (200_000, 120_000)
    ):  # a file of weights does not fit; the database does not
        said = limited(tmp_path / str(number), limit)
        assert "disk is full" in said
        assert "make room and run again" in said
        with Store.open(tmp_path / str(number), write=True) as store:
            store.add(DENSE.with_seed(99), Failure("there is room again"))


def test_a_full_database_is_told_so(filled: Path, outcome: Outcome) -> None:
    with Store.open(filled, write=True) as store:
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(DisbudError, match="there is no room left for the store"):
            for seed in range(2, 99):
                store.add(LENET.with_seed(seed), Failure("x" * 4000))
        stored = len(store.all())
        store._connection.execute(f"PRAGMA max_page_count = {pages + 100}")
        store.add(LENET.with_seed(99), outcome)
        assert len(store.all()) == stored + 1


@pytest.fixture
def unwritable(filled: Path) -> Iterator[Path]:
    """The store where nobody may write."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's own folders are closed to others
    shutil.copytree(filled, folder, dirs_exist_ok=True)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield folder
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(folder)


def as_nobody(look: Callable[[], None]) -> None:
    """Do it in a process without root's right to write anywhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forking beside threads: the child only looks
        child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            look()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("log", [False, True])
def test_a_folder_that_cannot_be_written_can_be_read(unwritable: Path, *, log: bool) -> None:
    if log:  # as a driver that was killed leaves it
        unwritable.chmod(0o755)
        for name in ("store.sqlite-wal", "store.sqlite-shm"):
            (unwritable / name).touch(0o444)
        unwritable.chmod(0o555)

    def look() -> None:
        with pytest.raises(PermissionError):
            (unwritable / "file").touch()
        with Store.open(unwritable) as store:
            assert [store.ticket(record) is None for record in store.all()] == [False, True]
        with pytest.raises(DisbudError, match="cannot be used: Permission denied; name another folder"):
            Store.open(unwritable, write=True).__enter__()

    as_nobody(look)


def test_a_store_of_a_newer_disbud_is_left_alone(filled: Path) -> None:
    with sqlite3.connect(filled / "store.sqlite") as database:
        database.execute("PRAGMA user_version = 99")
    before = (filled / "store.sqlite").read_bytes()
    for write in (False, True):
        with pytest.raises(
            DisbudError, match=r"written by a newer disbud \(its version is 99, this disbud reads up to 1"
        ):
            Store.open(filled, write=write).__enter__()
    assert (filled / "store.sqlite").read_bytes() == before


def test_what_is_no_store_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "store.sqlite").write_text("my diary\n" * 1000)
    (tmp_path / "other").mkdir()
    with sqlite3.connect(tmp_path / "other" / "store.sqlite") as database:
        database.execute("CREATE TABLE mine (x)")
    for name, says in (("text", "file is not a database"), ("other", "no store of disbud")):
        before = (tmp_path / name / "store.sqlite").read_bytes()
        for write in (False, True):
            with pytest.raises(DisbudError, match=says):
                Store.open(tmp_path / name, write=write).__enter__()
        assert (tmp_path / name / "store.sqlite").read_bytes() == before


def test_every_damaged_byte_is_an_error_or_harmless(filled: Path) -> None:
    """Overwriting any part of the database never gives other numbers, and never an error that is not explained."""
    with Store.open(filled) as store:
        truth = store.all()
    path = filled / "store.sqlite"
    whole = path.read_bytes()
    refused = 0
    for at in range(0, len(whole), 53):
        damage = b"\xa5" * 16 if at % 2 else bytes([whole[at] ^ 1])  # much, or a single bit
        path.write_bytes(whole[:at] + damage + whole[at + len(damage) :])
        try:
            with Store.open(filled) as store:
                found, asked = store.all(), store.records([LENET, DENSE])
            assert found == truth, f"other records after damage at byte {at}"
            assert asked.keys() == {LENET, DENSE}, f"records are not found after damage at byte {at}"
        except DisbudError as error:
            assert any(
                said in str(error)
                for said in ("damaged", "not what was written", "no store", "newer", "cannot be used")
            ), error
            refused += 1
    assert refused > 30
    for length in (0, 100, 5000, len(whole) // 2, len(whole) - 4096):
        path.write_bytes(whole[:length])
        for write in (False, True):
            with pytest.raises(DisbudError, match="is damaged"):
                Store.open(filled, write=write).__enter__()
        assert path.read_bytes() == whole[:length]
    path.unlink()
    with pytest.raises(DisbudError, match=r"no store\.sqlite that names them"):
        Store.open(filled).__enter__()


@pytest.mark.parametrize(
    "damage",
    ["accuracy = 0.99", "recipe = CAST(x'ff' AS TEXT)", "seconds = 'x', finished = 7", "split = 'x'"],
)
def test_a_damaged_row_stops_nothing_but_what_asks_for_it(
    damage: str, filled: Path, outcome: Outcome
) -> None:
    with Store.open(filled, write=True) as store:
        store.note_study("mine", "name = 'mine'", [LENET])
        store.note_study("other", "name = 'other'", [DENSE])
        with store._commit() as database:
            database.execute(f"UPDATE trial SET {damage} WHERE method = 'snip'")
    with Store.open(filled, write=True) as store, InProcess() as engine:
        with pytest.raises(DisbudError, match="is not what was written") as caught:
            perform([LENET], store=store, engine=engine)
        found = perform([DENSE, DENSE.with_seed(1)], store=store, engine=engine)
        assert not any(record.failed for record in found.values())
        assert len(store.in_brief()) == 3
        store.forget_study("mine")
        (gone,) = [each for each in store.unwanted() if each.trial.method == "snip"]
        said = re.search(r"disbud study gc --trial ([0-9a-f]{16})", str(caught.value))
        assert said is not None
        assert store.identity(said.group(1)) == gone.identity
        store.forget([gone])
        assert store.gc().files == 2  # its ticket, and the weights trained on it
        store.add(LENET, outcome)
        assert not store.records([LENET])[LENET].failed


def test_a_damaged_or_missing_file_is_told_by_its_trial(filled: Path, outcome: Outcome) -> None:
    with Store.open(filled, write=True) as store:
        record = store.records([LENET])[LENET]
        assert record.weights is not None
        path = Objects(filled).path(record.weights)
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + b"x")
        with pytest.raises(
            DisbudError, match=r"the weights of lenet-300-100 on digits, snip at 0.9, seed 1 is damaged"
        ):
            store.weights(record)
        store.add(LENET, outcome)  # which writes it anew
        assert path.read_bytes() == whole
        path.unlink()
        with pytest.raises(DisbudError, match=r"cannot be read from the store: .*No such file"):
            store.weights(record)


def test_an_interrupted_write_leaves_nothing_behind(filled: Path, outcome: Outcome) -> None:
    with Store.open(filled, write=True) as store:
        before = store.all()
        bad = dataclasses.replace(
            outcome, curve=({"epoch": 1, "train_loss": 1.0, "test_loss": 1.0, "test_accuracy": "?"},)
        )
        with pytest.raises(AssertionError):
            store.add(LENET.with_seed(3), bad)
        with pytest.raises(TypeError), store._commit() as database:
            database.execute("DELETE FROM trial")
            json.dumps(object())
        assert store.all() == before
