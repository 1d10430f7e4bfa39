"""The engine of many machines, on a real cluster of two on loopback: the same bits, and what dies runs again."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch

import crash_study
import own_methods
from disbud import DisbudError
from disbud.study import Failure, InProcess, Ray, Store, perform, run
from disbud.study.engines import ray_cluster
from test_crashes import content

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own, about sockets and files that it leaves open
]
NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
TRIALS = crash_study.TRIALS


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    """Two machines of one CPU each; a third can be added. Workers find this folder's modules."""
    here = str(Path(__file__).parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        made = cluster_utils.Cluster(initialize_head=True, head_node_args=NODE)
        made.add_node(**{key: value for key, value in NODE.items() if key != "include_dashboard"})
        yield made
        made.shutdown()


@pytest.fixture
def engine(cluster: object) -> Iterator[Ray]:
    with Ray(address=cluster.address) as opened:  # type: ignore[attr-defined]
        yield opened


def test_results_failures_and_deaths(engine: Ray, tmp_path: Path) -> None:
    found = {item: result for item, result, _ in engine.run(own_methods.square, [3, -1, 4])}
    assert (found[3], found[4]) == (9, 16)
    assert isinstance(found[-1], Failure)
    assert found[-1].error == "ValueError: no roots"
    assert "own_methods.py" in found[-1].traceback
    items = [str(tmp_path / name) for name in ("a", "b")]
    ended = {item: (result, attempts) for item, result, attempts in engine.run(own_methods.dies_once, items)}
    assert ended == dict.fromkeys(items, ("alive", 2))
    ((_, failure, attempts),) = engine.run(own_methods.dies_always, ["x"])
    assert isinstance(failure, Failure)
    assert "the worker or its machine died, 3 times" in failure.error
    assert attempts == 3
    (sent,) = engine.run(own_methods.square, [lambda: None])  # type: ignore[list-item]
    assert isinstance(sent.result, Failure)
    assert [result for _, (result, _), _ in engine.run(own_methods.threads, [0])] == [1]  # type: ignore[misc]


def test_no_more_is_in_flight_than_the_cluster_can_soon_run(engine: Ray) -> None:
    drawn = []

    def items() -> Iterator[float]:
        for number in range(30):
            drawn.append(number)
            yield 0.1

    ended = engine.run(own_methods.sleeps, items())
    places = {next(ended).result[2] for _ in range(8)}  # type: ignore[index]
    assert engine.slots() == 2
    assert len(drawn) <= 8 + 2 * 2 + 2
    assert len(places) >= 2
    ended.close()  # type: ignore[attr-defined]
    assert [result for _, result, _ in engine.run(own_methods.square, [5])] == [25]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (
            {"gpus": 1},
            r"no machine of the Ray cluster has 1 CPUs and 1 GPUs.*2 machines, with 1 CPUs and 0 GPUs",
        ),
        ({"cpus": 2}, "no machine of the Ray cluster has 2 CPUs"),  # two of one are not one of two
    ],
)
def test_what_exists_nowhere_is_an_error(cluster: object, asked: dict[str, float], says: str) -> None:
    with pytest.raises(DisbudError, match=says):
        Ray(address=cluster.address, **asked).__enter__()  # type: ignore[attr-defined, arg-type]
    assert not ray.is_initialized()


def test_what_cannot_be() -> None:
    with pytest.raises(DisbudError, match="a task takes some of either"):
        Ray(cpus=0)
    with pytest.raises(DisbudError, match="within its context: with"):
        next(iter(Ray().run(abs, [1])))
    with (
        mock.patch.dict(sys.modules, {"ray": None}),
        pytest.raises(DisbudError, match=r"pip install 'disbud\[ray\]'"),
    ):
        Ray().__enter__()
    with pytest.raises(DisbudError, match=r"there is no Ray cluster to join at '127\.0\.0\.1:1'"):
        Ray(address="127.0.0.1:1").__enter__()


def test_the_same_bits_as_in_process(engine: Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISBUD_CACHE", str(tmp_path / "cache"))
    stores = [tmp_path / "here", tmp_path / "there"]
    with Store.open(stores[0], write=True) as store, InProcess() as here:
        crash_study.do(store, here)
    with Store.open(stores[1], write=True) as store:
        perform(TRIALS, store=store, engine=engine, measures=crash_study.MEASURES)
    one, other = (content(store) for store in stores)
    assert one == other


def test_a_machine_that_dies_loses_nothing(cluster: object, engine: Ray) -> None:
    node = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)  # type: ignore[attr-defined]
    trials = [TRIALS[2].with_seed(seed) for seed in range(12)]
    long = [dataclasses.replace(trial, recipe="digits:epochs=20") for trial in trials]
    found = {}
    for ended in engine.run(run, long):
        found[ended.item] = ended.result
        if len(found) == 3:
            cluster.remove_node(node, allow_graceful=False)  # type: ignore[attr-defined]
    assert found.keys() == set(long)
    assert not [result for result in found.values() if isinstance(result, Failure)]
    with InProcess() as here:
        assert found == {trial: result for trial, result, _ in here.run(run, long)}


def test_what_is_to_run_again_waits_for_a_machine(engine: Ray, tmp_path: Path) -> None:
    """Where the last worker dies and no machine is there for a moment, nothing is left undone."""
    item = tmp_path / "a"
    died: list[bool] = []

    def slots() -> int:
        died.append(item.exists())
        return 1 if len(died) == 1 or sum(died) > 6 else 0

    with mock.patch.object(engine, "slots", side_effect=slots):
        ((_, result, attempts),) = engine.run(own_methods.dies_once, [str(item)])
    assert (result, attempts) == ("alive", 2)


def test_it_waits_for_a_machine_to_begin_with(engine: Ray) -> None:
    with mock.patch.object(engine, "slots", side_effect=itertools.chain([0, 0, 0], itertools.repeat(2))):
        assert [result for _, result, _ in engine.run(own_methods.square, [2, 3])] in ([4, 9], [9, 4])


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU here")
def test_a_gpu_that_torch_does_not_see_is_told_by_each_trial(tmp_path: Path) -> None:
    """A cluster can be told of a GPU that is none; nothing is trained on the CPU beside a GPU that is held for it."""
    script = (
        "import ray\n"
        "from disbud.study import Ray, Store, Trial, perform\n"
        "ray.init(address='local', num_cpus=1, num_gpus=1, include_dashboard=False, log_to_driver=False,\n"
        "         _node_ip_address='127.0.0.2')\n"
        "trial = Trial('lenet-300-100', 'digits', 'digits:epochs=1')\n"
        f"with Store.open({str(tmp_path)!r}, write=True) as store, Ray(gpus=1) as engine:\n"
        "    print(perform([trial], store=store, engine=engine)[trial].error)\n"
        "ray.shutdown()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment
    )
    assert ended.returncode == 0, ended.stderr
    assert "GPUs were asked for, and torch" in ended.stdout


def test_without_machines_it_does_not_wait_for_ever(engine: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "_PATIENCE", 0.5)
    with (
        mock.patch.object(engine, "slots", side_effect=[1, *[0] * 99]),
        pytest.raises(DisbudError, match="no machine is left in the Ray cluster"),
    ):
        list(engine.run(own_methods.sleeps, [5.0, 5.0]))


def test_a_driver_that_is_killed_goes_on_where_it_was(cluster: object, tmp_path: Path) -> None:
    script = (
        "import crash_study, sys\n"
        "from disbud.study import Ray, Store, perform\n"
        f"address, folder = {cluster.address!r}, {str(tmp_path / 'store')!r}\n"  # type: ignore[attr-defined]
        "with Store.open(folder, write=True) as store, Ray(address=address) as engine:\n"
        "    crash_study.do(store, engine, crash_study._say)\n"
    )
    environment = {**os.environ, "DISBUD_CACHE": str(tmp_path / "cache")}
    stored: list[str] = []
    for kill in (True, False):
        with subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment
        ) as driver:
            assert driver.stdout is not None
            mine = []
            for line in driver.stdout:
                if line.startswith("stored"):
                    mine.append(line.split()[1])
                if kill and len(mine) == 4:
                    time.sleep(0.1)
                    driver.kill()
        assert not set(mine) & set(stored)
        stored += mine
    assert driver.returncode == 0
    with Store.open(tmp_path / "store", write=True) as store:
        assert len(store.all()) == len(TRIALS)
        store.gc()
    with Store.open(tmp_path / "whole", write=True) as store, InProcess() as here:
        crash_study.do(store, here)
    assert content(tmp_path / "store") == content(tmp_path / "whole")


def test_a_cluster_of_this_machine_is_started_and_ended(tmp_path: Path) -> None:
    script = (
        "import own_methods, ray\n"
        "from disbud.study import Ray\n"
        "with Ray() as engine:\n"
        "    assert {ended.result for ended in engine.run(own_methods.square, [3, 4, 5])} == {9, 16, 25}\n"
        "    assert all(node['NodeManagerAddress'].startswith('127.') for node in ray.nodes())\n"
        "assert not ray.is_initialized()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment
    )
    assert ended.returncode == 0, ended.stderr
