"""The engine that runs one item after the other in the process that asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self

import torch

from disbud.errors import DisbudError
from disbud.study.engines.protocol import Ended, Expect, Item, Result, Running, Watch, guarded


class InProcess:
    """One item after the other, here, on one thread as everywhere, so that the numbers are the same.

    >>> from disbud.study import InProcess
    >>> with InProcess() as engine:
    ...     [ended.result for ended in engine.run(abs, [-1, 2])]
    [1, 2]
    """

    def __init__(self) -> None:
        self._threads: int | None = None  # of the caller, while the context is open

    def __enter__(self) -> Self:
        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        self._threads = None

    def run(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        expect: Expect[Item] | None = None,
        watch: Watch[Item] | None = None,
    ) -> Iterator[Ended[Item, Result]]:
        """Each item with what came of it, in their order."""
        if self._threads is None:
            raise DisbudError("an engine runs within its context: with InProcess() as engine: ...")
        for item in items:
            if watch is not None:
                watch([Running(item, 0.0)])
            yield Ended(item, guarded(function, item), 1)
