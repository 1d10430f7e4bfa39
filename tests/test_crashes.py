"""Drivers and workers killed at random moments: nothing reported is lost, nothing run again, every bit is the same."""

from __future__ import annotations

import contextlib
import os
import queue
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import crash_study
from disbud.study import InProcess, Store

CRASHES = int(os.environ.get("DISBUD_CRASHES", "5"))
SCRIPT = Path(crash_study.__file__)
NOT_COMPARED = {
    "trial": {"seconds", "memory", "attempts", "finished", "checksum"},
    "measure": {"finished", "checksum"},
}


def content(folder: Path) -> dict[str, object]:
    """Every row but for how the run went, and every file's bytes."""
    found: dict[str, object] = {}
    with contextlib.closing(sqlite3.connect(folder / "store.sqlite")) as database:
        database.row_factory = sqlite3.Row
        for table in ("environment", "trial", "epoch", "measure", "study", "study_trial"):
            left_out = NOT_COMPARED.get(table, set())
            rows = [
                {name: row[name] for name in row.keys() if name not in left_out}  # noqa: SIM118 - a Row is no mapping
                for row in database.execute(f"SELECT * FROM {table}")
            ]
            found[table] = sorted(rows, key=repr)
    for path in sorted((folder / "objects").rglob("*")):
        if path.is_file():
            found[path.name] = path.read_bytes()
    return found


@dataclass
class Driver:
    """A process that does the study; its lines as they come."""

    store: Path
    process: subprocess.Popen[str] = field(init=False)
    said: queue.Queue[str] = field(default_factory=queue.Queue)
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        environment = {
            **os.environ,
            "DISBUD_CACHE": str(self.store.parent / f"{self.store.name}-cache"),
            "PYTHONPATH": os.pathsep.join(
                [str(SCRIPT.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
        }
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(self.store)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.strip())
            self.said.put(line.strip())

    @property
    def stored(self) -> list[str]:
        """The identities of the trials that it said are stored; complete once it has ended."""
        if self.process.poll() is not None:
            self._reader.join(30)
        return [line.split()[1] for line in list(self.lines) if line.startswith("stored ")]

    def wait_until_it_works(self, *, results: int = 0) -> bool:
        """Whether a trial is under way and so many results more are stored; not if it ended before."""
        while self.process.poll() is None:
            with contextlib.suppress(queue.Empty):
                line = self.said.get(timeout=0.05)
                if line == "finished":
                    return False
                results -= line.startswith(("stored", "measured"))
                if results <= 0:
                    return True
        return False

    def workers(self) -> list[int]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                parent = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if parent == self.process.pid and b"spawn_main" in (process / "cmdline").read_bytes():
                    found.append(int(process.name))
        return found

    def kill(self) -> list[int]:
        """End it as a power cut would; the workers it had."""
        workers = self.workers()
        self.process.kill()
        self.process.wait()
        return workers

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(30)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


@contextlib.contextmanager
def driver(store: Path) -> Iterator[Driver]:
    started = Driver(store)
    try:
        yield started
    finally:
        started.close()


def all_gone(processes: list[int], seconds: float = 60.0) -> bool:
    """Whether none of them runs any more, soon: one that is still importing torch ends when it has done so."""

    def runs(process: int) -> bool:
        try:
            return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
        except OSError:
            return False

    until = time.monotonic() + seconds
    while any(runs(process) for process in processes):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def crash(running: Driver, draw: random.Random, budget: int) -> Counter[str]:
    """Kill up to two workers, then the driver, at moments drawn by chance; fewer if it finishes before.

    Moments are drawn around results, and not by the clock alone: a busy machine would be killed before the first.
    """
    killed: Counter[str] = Counter()
    if draw.random() < 0.2:
        time.sleep(draw.uniform(0, 3))  # while it starts
    elif not running.wait_until_it_works(results=draw.randrange(8)):
        return killed
    while running.process.poll() is None and killed.total() < budget:
        time.sleep(draw.uniform(0, 0.3))
        workers = running.workers()
        if draw.random() < 0.5 and killed["worker"] < 2 and workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(draw.choice(workers), signal.SIGKILL)
                killed["worker"] += 1
        elif running.process.poll() is None:
            left = running.kill()
            killed["driver"] += 1
            assert all_gone(left), "workers outlived their driver"
    return killed


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The store of the same study, done at one go by the other engine."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISBUD_CACHE", str(folder.parent / "cache"))
        with Store.open(folder, write=True) as store, InProcess() as engine:
            records = crash_study.do(store, engine)
    assert [record.failed for record in records.values()] == [False] * 12 + [True]
    return content(folder)


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_run_again(uninterrupted: dict[str, object], tmp_path: Path) -> None:
    draw = random.Random(7)
    killed: Counter[str] = Counter()
    stores = runs = 0
    while killed.total() < CRASHES:
        stores += 1
        folder = tmp_path / f"store{stores}"
        said: Counter[str] = Counter()
        finished = False
        while not finished:
            runs += 1
            with driver(folder) as running:
                killed += crash(running, draw, CRASHES - killed.total())
                if running.process.poll() is None:
                    running.process.wait(120)
                finished = running.process.returncode == 0
                if running.process.returncode not in (0, -signal.SIGKILL):
                    assert running.process.stderr is not None
                    pytest.fail(running.process.stderr.read())
                said.update(running.stored)
            with Store.open(folder) as store:
                assert said.keys() <= {record.identity for record in store.all()}, "a stored trial is gone"
        assert set(said.values()) <= {1}, "a stored trial was run again"
        with Store.open(folder, write=True) as store:
            store.gc()
        assert content(folder) == uninterrupted
    told = f"{killed['driver']} drivers and {killed['worker']} workers killed in {runs} runs over {stores} stores"
    sys.stdout.write(f"{told}\n")


@pytest.mark.slow
def test_control_c_reaches_the_driver_alone_and_the_next_run_goes_on(
    uninterrupted: dict[str, object], tmp_path: Path
) -> None:
    folder = tmp_path / "store"
    with driver(folder) as running:
        assert running.wait_until_it_works()
        while not running.stored and running.process.poll() is None:
            time.sleep(0.01)
        workers = running.workers()
        assert workers
        for process in [*workers, running.process.pid]:  # as a terminal does
            os.kill(process, signal.SIGINT)
        assert running.process.wait(20) != 0
        assert all_gone(workers)
        stored = running.stored
        assert running.process.stderr is not None
        complaint = running.process.stderr.read()
        assert complaint.count("KeyboardInterrupt") == 1, complaint
        assert "spawn" not in complaint
    with driver(folder) as running:
        assert running.process.wait(120) == 0
        assert not set(stored) & set(running.stored)
    with Store.open(folder, write=True) as store:
        store.gc()
    assert content(folder) == uninterrupted
