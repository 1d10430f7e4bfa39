"""What every engine is: a context in which `run` takes a function over items, and the values it tells of them."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
ATTEMPTS = 3  # of an item whose worker died or hung


@dataclass(frozen=True)
class Failure:
    """An item that raised, or whose worker died: one line, and the traceback.

    >>> from disbud.study import Failure
    >>> Failure("ValueError: no roots").error
    'ValueError: no roots'
    """

    error: str
    traceback: str = ""


@dataclass(frozen=True)
class Expected:
    """What an item will probably take: seconds, and the most bytes its process will hold; None where unknown.

    >>> from disbud.study import Expected
    >>> Expected(seconds=1.5).memory is None
    True
    """

    seconds: float | None = None
    memory: int | None = None


class Running(NamedTuple, Generic[Item]):
    """An item under way, and the seconds since it began.

    >>> from disbud.study import Running
    >>> Running("a trial", 1.5).seconds
    1.5
    """

    item: Item
    seconds: float


class Ended(NamedTuple, Generic[Item, Result]):
    """An item that is done: what came of it, and in how many attempts.

    >>> from disbud.study import Ended
    >>> Ended(item=-2, result=2, attempts=1).result
    2
    """

    item: Item
    result: Result | Failure
    attempts: int


Expect = Callable[[Item], Expected]
Watch = Callable[[Sequence[Running[Item]]], object]


class Engine(Protocol):
    """Runs functions over items while its context is open; its workers stay warm that long.

    `run` takes items as it needs them and yields each when it is done, in any order. The function and the items must be
    importable and picklable. `expect` says what an item will probably take. `watch` is told now and then what is under
    way. Leaving the loop early drops what is under way.

    >>> from disbud.study import Engine, InProcess
    >>> def squares(engine: Engine) -> list[int]:
    ...     return [ended.result for ended in engine.run(abs, [-1, 2])]
    >>> with InProcess() as engine:
    ...     squares(engine)
    [1, 2]
    """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def run(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        expect: Expect[Item] | None = None,
        watch: Watch[Item] | None = None,
    ) -> Iterator[Ended[Item, Result]]:
        """Each item with what came of it."""
        ...


def guarded(function: Callable[[Item], Result], item: Item) -> Result | Failure:
    """What the function makes of the item; an exception is a result too."""
    try:
        return function(item)
    except Exception as error:
        return Failure(f"{type(error).__name__}: {error}", traceback.format_exc())
