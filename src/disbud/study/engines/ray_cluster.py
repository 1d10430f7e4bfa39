"""The engine for many machines: Ray, one task an item, spread over the cluster; what dies runs again, a few times."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import pickle
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Generic, Self, cast

from disbud.errors import DisbudError
from disbud.study.engines.protocol import (
    ATTEMPTS,
    Ended,
    Expect,
    Failure,
    Item,
    Result,
    Running,
    Watch,
)
from disbud.study.engines.serving import answer
from disbud.study.environments import training_on_gpu

_TICK = 0.5  # seconds between looks at the cluster
_PATIENCE = 120.0  # seconds to wait for machines to come back once none is left that could run anything
_KNOCKING = 10.0  # seconds for the head of a cluster to answer
_AHEAD = 2  # items in flight for each that can run at once: the next is there when one ends


class Ray:
    """Tasks of a Ray cluster, each with so many CPUs and GPUs, which may be fractions.

    With GPUs, trials are trained on them; pruning and measures take the CPU, also where a method trains, and a recipe's
    accelerate=auto, which is for CPUs, changes nothing. The environment of each record names the device.

    It joins the cluster at `address`, else at $RAY_ADDRESS, else one that this process is connected to already; where
    there is none it starts one on this machine alone, without a dashboard, and ends that with its context. Every
    machine needs disbud and the data; the store stays with the driver. An item whose worker or machine died runs again,
    three times in all. Needs `pip install 'disbud[ray]'`.

    >>> from disbud.study import Ray
    >>> Ray(cpus=1, gpus=0.25).gpus
    0.25
    """

    def __init__(self, *, cpus: float = 1, gpus: float = 0, address: str | None = None) -> None:
        if cpus < 0 or gpus < 0 or cpus + gpus == 0:
            raise DisbudError(
                f"cpus={cpus}, gpus={gpus}: a task takes some of either; fractions share one, as gpus=0.25"
            )
        self.cpus, self.gpus, self.address = cpus, gpus, address
        self._ray: ModuleType | None = None
        self._connected_here = False

    def __enter__(self) -> Self:
        ray = _imported()
        if not ray.is_initialized():
            address = self.address or os.environ.get("RAY_ADDRESS")
            if address is None:
                _start(ray)
            else:
                _join(ray, address)
            self._connected_here = True
        self._ray = ray
        try:
            self._check_resources(ray)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ray, self._ray = self._ray, None
        if ray is not None and self._connected_here:
            ray.shutdown()
        self._connected_here = False

    def run(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        expect: Expect[Item] | None = None,
        watch: Watch[Item] | None = None,
    ) -> Iterator[Ended[Item, Result]]:
        """Each item with what came of it, as they end; items are begun in their order."""
        if self._ray is None:
            raise DisbudError("an engine runs within its context: with Ray() as engine: ...")
        task = self._ray.remote(
            num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0, scheduling_strategy="SPREAD"
        )(work)

        def submit(called: object, request: bytes) -> object:
            return task.remote(called, request, on_gpu=self.gpus > 0)

        under_way: _Tasks[Item, Result] = _Tasks(
            self._ray, submit, function, items, slots=self.slots, watch=watch
        )
        try:
            yield from under_way.results()
        finally:
            under_way.drop()

    def slots(self) -> int:
        """How many items the cluster can run at once, as it is now."""
        assert self._ray is not None
        return sum(self._slots_of(node) for node in _machines(self._ray))

    def _slots_of(self, offered: Mapping[str, float]) -> int:
        asked = {"CPU": self.cpus, "GPU": self.gpus}
        return min(
            math.floor(offered.get(name, 0) / amount + 1e-6) for name, amount in asked.items() if amount
        )

    def _check_resources(self, ray: ModuleType) -> None:
        machines = _machines(ray)
        if any(self._slots_of(offered) for offered in machines):
            return
        there = "; ".join(f"{each.get('CPU', 0):g} CPUs and {each.get('GPU', 0):g} GPUs" for each in machines)
        raise DisbudError(
            f"no machine of the Ray cluster has {self.cpus:g} CPUs and {self.gpus:g} GPUs, which each trial is to "
            f"have; there are {len(machines)} machines, with {there or 'nothing'}. Ask for less, or join another "
            "cluster with address=... or RAY_ADDRESS=..."
        )


@dataclass
class _Task(Generic[Item]):
    item: Item
    request: bytes
    attempts: int = 0
    since: float = 0.0


class _Tasks(Generic[Item, Result]):
    """The items of one call of `Ray.run`."""

    def __init__(
        self,
        ray: ModuleType,
        submit: Callable[[object, bytes], object],
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        slots: Callable[[], int],
        watch: Watch[Item] | None,
    ) -> None:
        self._ray, self._submit, self._slots, self._watch = ray, submit, slots, watch
        self._function = ray.put(pickle.dumps(function))
        self._items = iter(items)
        self._waiting: deque[_Task[Item]] = (
            deque()
        )  # that are to run again, and the next one while there is no room
        self._in_flight: dict[object, _Task[Item]] = {}
        self._refused: list[Ended[Item, Result]] = []
        self._gone_since: float | None = (
            None  # when there was no machine that can run an item, and still is none
        )

    def results(self) -> Iterator[Ended[Item, Result]]:
        """Every item, when it has ended. No more are in flight than the cluster can soon run."""
        self._fill()
        while self._in_flight or self._refused or self._waiting:
            self._tell()
            ended, self._refused = self._refused, []
            patience = 0.0 if ended else _TICK
            if self._in_flight:
                done, _ = self._ray.wait(list(self._in_flight), timeout=patience)
                ended += [found for ref in done if (found := self._result(ref)) is not None]
            else:
                time.sleep(patience)  # there is no machine now, and one may come back
            self._fill()
            if not ended:
                self._check_machines()
            yield from ended

    def drop(self) -> None:
        """Cancel what is in flight."""
        for ref in self._in_flight:
            self._ray.cancel(ref, force=True)
        self._in_flight.clear()

    def _tell(self) -> None:
        if self._watch is not None:
            now = time.monotonic()
            first = list(self._in_flight.values())[: self._slots()]
            self._watch([Running(task.item, now - task.since) for task in first])

    def _check_machines(self) -> None:
        if self._gone_since is not None and time.monotonic() - self._gone_since > _PATIENCE:
            raise DisbudError(
                "no machine is left in the Ray cluster that has what each trial is to have. What is done is stored; "
                "run again when machines are back"
            )

    def _fill(self) -> None:
        slots = self._slots()
        if slots:
            self._gone_since = None
        elif self._gone_since is None:
            self._gone_since = time.monotonic()
        while (task := self._next()) is not None:
            if len(self._in_flight) >= _AHEAD * slots:
                self._waiting.appendleft(task)
                return
            task.attempts += 1
            task.since = time.monotonic()
            self._in_flight[self._submit(self._function, task.request)] = task

    def _next(self) -> _Task[Item] | None:
        if self._waiting:
            return self._waiting.popleft()
        for item in self._items:
            try:
                return _Task(item, pickle.dumps(item))
            except Exception as error:
                self._refused.append(Ended(item, Failure(f"it cannot be sent to a worker: {error}"), 1))
        return None

    def _result(self, ref: object) -> Ended[Item, Result] | None:
        """What came of a task; nothing where it is to run again."""
        task = self._in_flight.pop(ref)
        try:
            result = cast("Result | Failure", pickle.loads(self._ray.get(ref)))
        except (
            self._ray.exceptions.RayTaskError
        ) as error:  # such as disbud not being there: the same every time
            result = Failure(f"a worker of the cluster cannot work: {error.cause or error}", str(error))
        except self._ray.exceptions.RayError as error:
            if task.attempts < ATTEMPTS:
                self._waiting.append(task)
                return None
            said = str(error).strip().splitlines()[0]
            result = Failure(f"the worker or its machine died, {task.attempts} times: {said}", str(error))
        return Ended(task.item, result, task.attempts)


def work(function: bytes, item: bytes, *, on_gpu: bool) -> bytes:
    """In a worker of the cluster: what the function makes of the item, on one thread as everywhere."""
    import torch

    torch.set_num_threads(1)
    with training_on_gpu() if on_gpu else contextlib.nullcontext():
        return answer(function, item)


def _imported() -> ModuleType:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise DisbudError(
            f"the engine Ray needs the package ray, which cannot be imported ({error}): pip install 'disbud[ray]'"
        ) from error


def _start(ray: ModuleType) -> None:
    """A cluster of this machine alone, which speaks over loopback.

    Ray takes 127.0.0.1 to mean the machine's address to others, but on Linux all of 127.* is loopback; elsewhere it
    takes loopback by itself.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        address="local", include_dashboard=False, log_to_driver=False, logging_level="error",
        _node_ip_address="127.0.0.2" if sys.platform == "linux" else None,
    )  # fmt: skip


def _join(ray: ModuleType, address: str) -> None:
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (OSError, RuntimeError, ValueError) as error:
        said = str(error).strip().splitlines()[0]
        raise DisbudError(
            f"there is no Ray cluster to join at {address!r}: {said}. `ray start --head` on one machine starts one and "
            "prints its address; without address=... and RAY_ADDRESS one is started on this machine"
        ) from error


def _knock(address: str) -> None:
    """Raise OSError where nobody answers: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_KNOCKING).close()


def _machines(ray: ModuleType) -> list[Mapping[str, float]]:
    """What each machine of the cluster that is alive offers."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
