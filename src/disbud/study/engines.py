"""Engines: functions that run many trials and hand back each result as it comes.

An engine takes a function and a list of items, and yields (item, result) pairs in any order; a result is what the
function returned or a `Failure`. A worker runs one thread, and many items one after the other.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_ATTEMPTS = 3  # of an item whose worker died


@dataclass(frozen=True)
class Failure:
    """An item that raised, or whose worker died: one line, and the traceback."""

    error: str
    traceback: str = ""


def in_process(
    function: Callable[[Item], Result], items: Sequence[Item]
) -> Iterator[tuple[Item, Result | Failure]]:
    """One item after the other, here.

    >>> from disbud.study import in_process
    >>> [result for item, result in in_process(abs, [-1, 2])]
    [1, 2]
    """
    for item in items:
        yield item, _guarded(function, item)


def pool(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int | None = None
) -> Iterator[tuple[Item, Result | Failure]]:
    """Many processes, one thread each, as many as cores; an item whose worker was killed runs again, three times.

    The function and the items must be importable and picklable. Leaving the loop early ends the workers. Each worker is
    a pool of its own, so that one that dies takes no other's item with it.
    """
    waiting = deque((item, 1) for item in items)
    idle = [_worker() for _ in range(min(workers or os.cpu_count() or 1, len(waiting)))]
    busy: dict[Future[Result | Failure], tuple[ProcessPoolExecutor, Item, int]] = {}
    try:
        while waiting or busy:
            while waiting and idle:
                worker, (item, attempt) = idle.pop(), waiting.popleft()
                busy[worker.submit(_guarded, function, item)] = (worker, item, attempt)
            done, _ = wait(busy, return_when=FIRST_COMPLETED)
            for future in done:
                worker, item, attempt = busy.pop(future)
                try:
                    outcome: Result | Failure = future.result()
                except BrokenProcessPool:
                    worker.shutdown()
                    worker = _worker()
                    if attempt < _ATTEMPTS:
                        waiting.append((item, attempt + 1))
                        idle.append(worker)
                        continue
                    outcome = Failure(f"the worker died {_ATTEMPTS} times: out of memory, or killed")
                idle.append(worker)
                yield item, outcome
    finally:
        for worker in [*idle, *(worker for worker, _, _ in busy.values())]:
            worker.shutdown(wait=True, cancel_futures=True)


def _worker() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_one_thread)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _guarded(function: Callable[[Item], Result], item: Item) -> Result | Failure:
    try:
        return function(item)
    except Exception as error:
        return Failure(f"{type(error).__name__}: {error}", traceback.format_exc())
