"""Engines: the same results from each, workers that raise, die, hang, and hold memory; what happens to their items."""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

import own_methods
from disbud import DisbudError
from disbud.study import (
    Engine,
    Expected,
    Failure,
    InProcess,
    Pool,
    Running,
    Seeds,
    Trial,
    environment,
    run,
    running,
)
from disbud.study.engines import ray_cluster
from disbud.study.engines import round as rounds
from disbud.study.environments import training_device
from disbud.study.identity import Pinned
from disbud.study.memory import own_peak, resident, watch_own_peak
from disbud.study.performing import run_here
from disbud.training import train

ENGINES = [pytest.param(InProcess, id="in process"), pytest.param(lambda: Pool(1), id="pool")]


@pytest.fixture(scope="module")
def two() -> Iterator[Pool]:
    """A pool of two that is warm: a worker takes seconds to start."""
    with Pool(2) as engine:
        list(engine.run(own_methods.sleeps, [0.0, 0.0]))
        yield engine


@pytest.mark.parametrize("make", ENGINES)
def test_results_and_failures_come_from_every_engine(make: type[InProcess]) -> None:
    with make() as engine:
        ended = list(engine.run(own_methods.square, [3, -1, 4]))
        found = {item: result for item, result, _ in ended}
        again = [result for _, result, _ in engine.run(own_methods.square, [5])]
    assert (found[3], found[4], again) == (9, 16, [25])
    assert [attempts for _, _, attempts in ended] == [1, 1, 1]
    failure = found[-1]
    assert isinstance(failure, Failure)
    assert failure.error == "ValueError: no roots"
    assert "own_methods.py" in failure.traceback
    assert "serving.py" not in failure.traceback


@pytest.mark.parametrize("make", ENGINES)
def test_an_engine_is_a_context_and_takes_items_as_it_needs_them(make: type[InProcess]) -> None:
    with pytest.raises(DisbudError, match="within its context: with"):
        list(make().run(abs, [1]))
    drawn = []

    def items() -> object:
        for number in range(40):
            drawn.append(number)
            yield number

    with make() as engine:
        ended = iter(engine.run(own_methods.square, items()))  # type: ignore[arg-type]
        next(ended)
        assert len(drawn) < 10
        ended.close()  # type: ignore[attr-defined]


def test_in_process_takes_one_thread_and_gives_back_the_callers() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with InProcess() as engine:
            assert [result for _, (result, _), _ in engine.run(own_methods.threads, [0])] == [1]  # type: ignore[misc]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_workers_have_one_thread_and_stay_warm(two: Pool) -> None:
    assert [result for _, result, _ in two.run(own_methods.threads, [0])] == [(1, "1")]
    first, second = (
        {result[2] for _, result, _ in two.run(own_methods.sleeps, [0.2, 0.2])}  # type: ignore[index]
        for _ in range(2)
    )
    assert first == second
    assert len(first) == 2


def test_workers_work_at_the_same_time_and_the_driver_is_told(two: Pool) -> None:
    told: list[Sequence[Running[float]]] = []
    spans = [result for _, result, _ in two.run(own_methods.sleeps, [0.8, 0.8], watch=told.append)]
    (began, _, one), (_, ended, other) = sorted(spans)  # type: ignore[type-var]
    assert one != other
    assert ended - began < 1.5
    assert any(len(running) == 2 and running[0].seconds > 0.3 for running in told)


# Death


def test_a_worker_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    items = [str(tmp_path / name) for name in ("a", "b", "c")]
    with Pool(2) as engine:
        ended = list(engine.run(own_methods.dies_once, items))
        ((_, failure, attempts),) = engine.run(own_methods.dies_always, ["x"])
        assert [result for _, result, _ in engine.run(own_methods.square, [2])] == [4]
    assert {item: (result, attempts) for item, result, attempts in ended} == dict.fromkeys(
        items, ("alive", 2)
    )
    assert isinstance(failure, Failure)
    assert (failure.error, attempts) == ("the worker died, 3 times: out of memory, or killed", 3)


def test_an_idle_worker_that_is_killed_is_replaced() -> None:
    with Pool(1) as engine:
        ((_, (_, _, process), _),) = engine.run(own_methods.sleeps, [0.0])  # type: ignore[misc]
        os.kill(process, signal.SIGKILL)
        time.sleep(0.2)
        ((_, (_, _, other), attempts),) = engine.run(own_methods.sleeps, [0.0])  # type: ignore[misc]
    assert other != process
    assert attempts == 1


def test_what_hangs_is_killed_and_run_again_a_few_times(tmp_path: Path) -> None:
    with Pool(1, timeout=0.5) as engine:
        ((_, result, attempts),) = engine.run(own_methods.hangs_once, [str(tmp_path / "a")])
        assert (result, attempts) == ("alive", 2)
        ((_, failure, attempts),) = engine.run(own_methods.hangs_always, ["x"])
    assert isinstance(failure, Failure)
    assert (failure.error, attempts) == (
        "it ran longer than 0.5 s, 3 times: give it more with timeout=SECONDS",
        3,
    )


def test_without_a_timeout_the_expectation_says_what_hangs(
    two: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attempts(item: float, expected: float | None) -> int:
        (ended,) = two.run(own_methods.sleeps, [item], expect=lambda _: Expected(seconds=expected))
        assert not isinstance(ended.result, Failure)
        return ended.attempts

    assert attempts(1.0, 0.001) == 1  # ten minutes, whatever was expected
    monkeypatch.setattr(rounds, "_AT_LEAST", 0.3)
    assert attempts(1.0, 0.5) == 1  # 20 times half a second
    assert attempts(1.0, None) == 1  # nothing was expected
    hanging = [str(tmp_path / "a")]
    (ended,) = two.run(own_methods.hangs_once, hanging, expect=lambda _: Expected(seconds=0.02))
    assert (ended.result, ended.attempts) == ("alive", 2)


def test_a_pool_left_early_ends_what_is_under_way_and_can_go_on() -> None:
    began = time.monotonic()
    with Pool(2) as engine:
        under_way = engine.run(own_methods.sleeps, [0.0, 300.0, 300.0])
        process = next(under_way).result[2]  # type: ignore[index]
        under_way.close()  # type: ignore[attr-defined]
        assert not resident(process)
        assert [result for _, result, _ in engine.run(own_methods.square, [2, 3])] in ([4, 9], [9, 4])
    assert time.monotonic() - began < 120


def test_busy_workers_end_when_their_driver_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(
        "import own_methods, sys\n"
        "from disbud.study import Pool\n"
        "if __name__ == '__main__':\n"
        "    with Pool(1) as engine:\n"
        "        for ended in engine.run(own_methods.sleeps, [0.0, 600.0]):\n"
        "            sys.stdout.write(f'{ended.result[2]}\\n'); sys.stdout.flush()\n"
    )
    path = os.pathsep.join([str(Path(own_methods.__file__).parent), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    ) as driver:
        assert driver.stdout is not None
        worker = int(driver.stdout.readline())
        time.sleep(0.3)
        assert resident(worker)
        driver.kill()
        until = time.monotonic() + 5
        while resident(worker) and time.monotonic() < until:
            time.sleep(0.02)
        assert not resident(worker)


def test_what_cannot_be_pickled_fails_by_itself(two: Pool) -> None:
    (sent,) = two.run(own_methods.square, [lambda: None])  # type: ignore[list-item]
    (returned,) = two.run(own_methods.no_pickle, [1])
    assert [result for _, result, _ in two.run(own_methods.square, [2])] == [4]
    assert isinstance(sent.result, Failure)
    assert "cannot be sent to a worker" in sent.result.error
    assert isinstance(returned.result, Failure)
    assert "the result cannot be sent to the driver" in returned.result.error


@pytest.mark.slow
def test_a_script_without_its_main_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from disbud.study import Pool\nwith Pool(1) as engine:\n    list(engine.run(abs, [1]))\n"
    )
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert 'needs `if __name__ == "__main__":`' in ended.stderr


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"workers": 0}, "at least one worker"), ({"timeout": 0}, "a number of seconds above 0")],
)
def test_a_pool_that_cannot_be(settings: dict[str, int], says: str) -> None:
    with pytest.raises(DisbudError, match=says):
        Pool(**settings)  # type: ignore[arg-type]


# Memory


def spans(engine: Engine, expect: Expected) -> list[tuple[float, float]]:
    found = [result for _, result, _ in engine.run(own_methods.holds, [50, 50, 50], expect=lambda _: expect)]
    return sorted(found)  # type: ignore[type-var]


def overlapping(found: list[tuple[float, float]]) -> bool:
    return any(following[0] < before[1] for before, following in itertools.pairwise(found))


def test_an_item_starts_only_where_memory_will_do(two: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    one = 600 * 2**20
    list(two.run(own_methods.sleeps, [0.2, 0.2]))
    monkeypatch.setattr(two, "memory", one * 3)
    assert overlapping(spans(two, Expected(memory=one)))
    assert not overlapping(spans(two, Expected(memory=one * 2)))
    assert not overlapping(spans(two, Expected(memory=one * 30)))  # one always runs
    assert overlapping(spans(two, Expected()))  # as much as workers have shown: some 400 MiB
    monkeypatch.setattr(two, "memory", 2**20)
    assert not overlapping(spans(two, Expected()))


def test_own_peak_begins_anew() -> None:
    block = bytearray(200 * 2**20)
    assert own_peak() > 200 * 2**20
    size = len(block)
    del block
    watch_own_peak()
    assert own_peak() < (resident(os.getpid()) or 0) + size / 2


# GPUs


def test_a_task_with_a_gpu_trains_on_it_or_says_that_it_sees_none(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = Pinned.of(Trial("lenet-300-100", "digits", "digits:epochs=1", "magnitude", 0.9))

    def done(*, on_gpu: bool) -> object:
        return pickle.loads(ray_cluster.work(pickle.dumps(run_here), pickle.dumps(pinned), on_gpu=on_gpu))

    outcome, where = done(on_gpu=False)  # type: ignore[misc]
    assert (where["device"], outcome) == ("cpu", run(pinned.trial))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    failure = done(on_gpu=True)
    assert isinstance(failure, Failure)
    assert f"GPUs were asked for, and torch {torch.__version__} sees none" in failure.error
    # As where torch sees one: what is trained on is what training is told, and what the record says.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H200")
    asked = []

    def trained(model: torch.nn.Module, *rest: object, **more: object) -> object:
        asked.append(more.pop("device"))
        return train(model, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(running, "train", trained)
    there, where = done(on_gpu=True)  # type: ignore[misc]
    assert (asked, where["device"], there) == (["cuda"], "cuda: H200", outcome)
    assert environment()["device"] == training_device() == "cpu"


# Trials


@pytest.mark.slow
def test_every_engine_gives_the_same_bits_in_any_order() -> None:
    base = Trial("lenet-300-100", "digits", "digits:epochs=1", "snip", 0.9, None, Seeds.all(1))
    trials = [base, base.with_seed(2), Trial("lenet-300-100", "digits", "digits:epochs=1")]
    trials.append(
        Trial("resnet20:width=0.25", "shapes:size=16,train=100,test=50", "shapes:epochs=1", "synflow", 0.9)
    )
    with InProcess() as engine:
        here = {trial: outcome for trial, outcome, _ in engine.run(run, trials)}
    for workers, order in ((2, trials), (1, trials[::-1])):
        with Pool(workers) as engine:
            there = {trial: outcome for trial, outcome, _ in engine.run(run, order)}
        assert here == there
        for trial in trials:
            one, other = here[trial], there[trial]
            assert not isinstance(one, Failure)
            assert not isinstance(other, Failure)
            assert one.weights is not None
            assert other.weights is not None
            assert all(torch.equal(tensor, other.weights[name]) for name, tensor in one.weights.items())


def test_a_pool_can_be_used_from_another_thread() -> None:
    found: list[object] = []

    def use() -> None:
        with Pool(1) as engine:
            found.extend(result for _, result, _ in engine.run(own_methods.square, [7]))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert found == [49]
