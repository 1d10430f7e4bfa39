"""The engine of many processes on this machine, one thread each; what dies or hangs runs again, a few times."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self, cast

from disbud.errors import DisbudError
from disbud.study.engines.protocol import Ended, Expect, Item, Result, Watch
from disbud.study.engines.round import Round
from disbud.study.engines.worker import Worker
from disbud.study.memory import resident


class Pool:
    """So many worker processes, as many as cores unless said; they stay warm while the context is open.

    An item whose worker was killed runs again, three times in all. So does one that hangs: that takes longer than
    `timeout` seconds, or, where none is given, than 20 times what was expected and ten minutes. With `memory`, a number
    of bytes, another item starts only where all workers together will hold no more; one always runs. Workers end when
    the process that made the pool does, however it ends; Ctrl-C reaches that process alone. A script needs the usual
    `if __name__ == "__main__":` around what makes a pool.

    >>> from disbud.study import Pool
    >>> with Pool(1) as engine:
    ...     [ended.result for ended in engine.run(abs, [-1, 2])]
    [1, 2]
    """

    def __init__(
        self, workers: int | None = None, *, timeout: float | None = None, memory: int | None = None
    ) -> None:
        self.size = (os.cpu_count() or 1) if workers is None else workers
        self.timeout, self.memory = timeout, memory
        self.workers: list[Worker[object]] | None = None
        if self.size < 1:
            raise DisbudError(f"workers={workers}: a pool has at least one worker")
        if timeout is not None and timeout <= 0:
            raise DisbudError(f"timeout={timeout!r} is a number of seconds above 0")
        if memory is not None and resident(os.getpid()) is None:
            raise DisbudError(
                "memory=... needs to see how much processes hold, which this system does not tell (there is no "
                "/proc); leave it out and take fewer workers"
            )

    def __enter__(self) -> Self:
        self.workers = []
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        workers, self.workers = self.workers or [], None
        for worker in workers:
            worker.end()

    def run(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        expect: Expect[Item] | None = None,
        watch: Watch[Item] | None = None,
    ) -> Iterator[Ended[Item, Result]]:
        """Each item with what came of it, as they end; items are begun in their order."""
        if self.workers is None:
            raise DisbudError("an engine runs within its context: with Pool() as engine: ...")
        workers = cast("list[Worker[Item]]", self.workers)
        under_way: Round[Item, Result] = Round(
            workers, function, items, size=self.size, timeout=self.timeout, memory=self.memory, expect=expect,
            watch=watch,
        )  # fmt: skip
        try:
            yield from under_way.results()
        finally:
            under_way.drop()
