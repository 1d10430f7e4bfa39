"""The driver's side of one worker of the pool: starting it, sending it a job, hearing from it, ending it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from disbud.study.engines.protocol import Expected
from disbud.study.engines.serving import READY, serve
from disbud.study.memory import resident

Item = TypeVar("Item")
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_LAST_WORDS = 2.0  # seconds for an idle worker to end by itself


@dataclass
class Job(Generic[Item]):
    """An item to run, as the bytes that a worker is sent; `attempts` counts those begun."""

    item: Item
    request: bytes
    expected: Expected
    attempts: int = 0


class Worker(Generic[Item]):
    """One process, and the job it has."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs,), daemon=True)
        with _one_thread(), _no_interrupt():
            self.process.start()
        theirs.close()
        self.ready = False
        self.job: Job[Item] | None = None
        self._since = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the job began; since the process did, while it is starting."""
        return time.monotonic() - self._since

    @property
    def resident(self) -> int:
        """Bytes of memory it holds now."""
        return resident(self.process.pid or 0) or 0

    def give(self, job: Job[Item]) -> None:
        """Have it run the job, as soon as it is ready."""
        self.job = job
        if self.ready:
            self._send(job)

    def heard(self) -> bytes:
        """What it says: READY, or what came of its job. EOFError once it is dead."""
        try:
            said = self.connection.recv_bytes()
        except OSError as error:
            raise EOFError from error
        if said == READY:
            self.ready = True
            if self.job is not None:
                self._send(self.job)
        return said

    def _send(self, job: Job[Item]) -> None:
        job.attempts += 1
        self._since = time.monotonic()
        with contextlib.suppress(OSError):  # that it died is noticed when it should be heard
            self.connection.send_bytes(job.request)

    def end(self) -> None:
        """End it: at once if it has a job or is starting, else by hanging up."""
        if self.job is not None or not self.ready:
            self.process.kill()
        self.connection.close()
        self.process.join(_LAST_WORDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.process.close()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The environment that a process started now finds: libraries read it when they are loaded."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(_ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """A process started now does not hear Ctrl-C until it says so; here it is heard a moment later."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
