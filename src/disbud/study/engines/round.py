"""One run of a pool: which worker gets which item when, and what becomes of workers that die or hang."""

from __future__ import annotations

import math
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import wait
from typing import Generic, cast

from disbud.errors import DisbudError
from disbud.study.engines.protocol import (
    ATTEMPTS,
    Ended,
    Expect,
    Expected,
    Failure,
    Item,
    Result,
    Running,
    Watch,
)
from disbud.study.engines.serving import READY
from disbud.study.engines.worker import Job, Worker

_TICK = 0.5  # seconds between looks at clocks and memory
_AT_LEAST, _TIMES = 600.0, 20  # seconds, and times the expectation, after which an item counts as hung
_STARTS, _START = 3, 600.0  # failures to start in a row, and seconds for one, after which that is an error


class Round(Generic[Item, Result]):
    """The items of one call of `Pool.run`."""

    def __init__(
        self,
        workers: list[Worker[Item]],
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        size: int,
        timeout: float | None,
        memory: int | None,
        expect: Expect[Item] | None,
        watch: Watch[Item] | None,
    ) -> None:
        self._workers, self._function, self._size = workers, function, size
        self._timeout, self._memory = timeout, memory
        self._expect, self._watch = expect, watch
        self._items = iter(items)
        self._waiting: deque[Job[Item]] = deque()
        self._ended: list[Ended[Item, Result]] = []
        self._failed_starts = 0
        self._shown = 0  # the most bytes that a worker was seen to hold

    def results(self) -> Iterator[Ended[Item, Result]]:
        """Every item, when it has ended. Workers get their next item before the driver looks at the last result."""
        self._assign()
        while self._busy or self._ended:
            self._tell()
            self._hear()
            self._assign()
            ended, self._ended = self._ended, []
            yield from ended

    def drop(self) -> None:
        """End the workers that have an item."""
        for worker in self._busy:
            self._remove(worker)

    @property
    def _busy(self) -> list[Worker[Item]]:
        return [worker for worker in self._workers if worker.job is not None]

    def _tell(self) -> None:
        if self._watch is not None:
            at_work = [(worker.job, worker.seconds) for worker in self._busy if worker.ready]
            self._watch([Running(job.item, seconds) for job, seconds in at_work if job is not None])

    # Giving

    def _assign(self) -> None:
        for worker in [worker for worker in self._workers if worker.job is None]:
            if not worker.process.is_alive():  # it died while it had nothing to do
                self._remove(worker)
        while (job := self._next()) is not None:
            idle = next((worker for worker in self._workers if worker.job is None), None)
            full = idle is None and len(self._workers) >= self._size
            if full or not self._fits(job, idle):
                self._waiting.appendleft(job)
                return
            if idle is None:
                idle = Worker()
                self._workers.append(idle)
            idle.give(job)

    def _next(self) -> Job[Item] | None:
        """The next job; an item that cannot be sent has ended."""
        if self._waiting:
            return self._waiting.popleft()
        for item in self._items:
            try:
                request = pickle.dumps((pickle.dumps(self._function), pickle.dumps(item)))
            except Exception as error:
                self._ended.append(Ended(item, Failure(f"it cannot be sent to a worker: {error}"), 1))
                continue
            return Job(item, request, Expected() if self._expect is None else self._expect(item))
        return None

    def _fits(self, job: Job[Item], worker: Worker[Item] | None) -> bool:
        """Whether all workers together will hold no more than allowed; each that is busy may yet come to its peak."""
        busy = self._busy
        if self._memory is None or not busy:
            return True
        most = job.expected.memory or self._shown
        if not most:
            return False  # nothing is known yet: the first item will show
        held = sum(max(other.resident, self._peak(other)) for other in self._workers if other is not worker)
        return held + max(most, 0 if worker is None else worker.resident) <= self._memory

    def _peak(self, worker: Worker[Item]) -> int:
        return 0 if worker.job is None else worker.job.expected.memory or self._shown

    # Hearing

    def _hear(self) -> None:
        """Wait for a moment, or until something ends; what has ended is in `_ended`."""
        listening = {worker.connection: worker for worker in self._workers if worker.job is not None}
        left = [self._limit(worker) - worker.seconds for worker in listening.values()]
        patience = 0.0 if self._ended else max(0.0, min([_TICK, *left]))
        for connection in wait(list(listening), timeout=patience):
            worker = listening[connection]  # type: ignore[index]
            try:
                said = worker.heard()
            except EOFError:
                self._lost(worker, "the worker died", "out of memory, or killed")
                continue
            if said == READY:
                self._failed_starts = 0
            else:
                self._finished(worker, said)
        for worker in self._busy:
            if self._memory is not None:
                self._shown = max(self._shown, worker.resident if worker.ready else 0)
            if worker.seconds > self._limit(worker):
                why = f"it ran longer than {self._limit(worker):g} s"
                self._lost(worker, why, "give it more with timeout=SECONDS")

    def _finished(self, worker: Worker[Item], said: bytes) -> None:
        job = worker.job
        assert job is not None
        if self._memory is not None:
            self._shown = max(self._shown, worker.resident)
        worker.job = None
        self._ended.append(Ended(job.item, cast("Result | Failure", pickle.loads(said)), job.attempts))

    def _lost(self, worker: Worker[Item], what: str, hint: str) -> None:
        """A worker is gone, or is ended here because it hangs: its job runs again, unless that was done enough."""
        job, started = worker.job, worker.ready
        assert job is not None
        self._remove(worker)
        if not started:
            self._failed_starts += 1
            if self._failed_starts >= _STARTS:
                raise DisbudError(
                    "worker processes end before they can work; what they print says why. A script that makes a pool "
                    'needs `if __name__ == "__main__":` around it; without a file, take InProcess()'
                )
        if job.attempts < ATTEMPTS:
            self._waiting.appendleft(job)
        else:
            self._ended.append(
                Ended(job.item, Failure(f"{what}, {job.attempts} times: {hint}"), job.attempts)
            )

    def _limit(self, worker: Worker[Item]) -> float:
        if not worker.ready:
            return _START
        if self._timeout is not None:
            return self._timeout
        expected = None if worker.job is None else worker.job.expected.seconds
        return math.inf if expected is None else max(_AT_LEAST, _TIMES * expected)

    def _remove(self, worker: Worker[Item]) -> None:
        self._workers.remove(worker)
        worker.end()
