"""What was trained once is not trained again: over sparsities, methods, calls and processes, and after a SIGKILL."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

import disbud
from disbud import DisbudError, Ticket
from disbud.pruning import recipe_trainer
from trained_cases import RECIPE, STEPS, bits, digits, network, started

RUN = 3 * STEPS  # the optimizer's steps in one run by RECIPE


class Steps:
    """Counts every step of every optimizer."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self, *_: object) -> None:
        self.done += 1

    def since(self, work: Callable[[], object]) -> int:
        before = self.done
        work()
        return self.done - before


@pytest.fixture
def steps() -> Iterator[Steps]:
    counted = Steps()
    handle = register_optimizer_step_post_hook(counted)
    yield counted
    handle.remove()


def prune(
    folder: Path, method: str = "lottery-ticket", *, model: nn.Module | None = None, **more: object
) -> Ticket:
    asked: dict[str, object] = {
        "sparsity": 0.8,
        "data": digits(),
        "recipe": RECIPE,
        "checkpoint": folder,
        **more,
    }
    return disbud.prune(model or network(), method, **asked)  # type: ignore[arg-type]


def whole(ticket: Ticket) -> object:
    return {name: mask.tolist() for name, mask in ticket.masks.items()}, bits(started(ticket)), ticket.origin


def test_the_dense_network_is_trained_once_for_all_that_ask(tmp_path: Path, steps: Steps) -> None:
    def asking() -> None:
        for sparsity in (0.5, 0.8, 0.9, 0.95, 0.98):
            for method in ("magnitude-after-training", "hybrid"):
                prune(tmp_path, method, sparsity=sparsity)
        prune(tmp_path, "lottery-ticket", sparsity=0.5, rounds=1)
        for densities in ("erk", "uniform"):
            prune(tmp_path, "magnitude-after-training", densities=densities, keep="lowest")

    assert steps.since(asking) == RUN
    assert steps.since(asking) == 0


def test_the_levels_of_a_lottery_ticket_are_on_the_way_to_a_sparser_one(tmp_path: Path, steps: Steps) -> None:
    assert steps.since(lambda: prune(tmp_path, sparsity=0.9)) == 11 * RUN  # .8^10 > .1 > .8^11
    assert steps.since(lambda: prune(tmp_path, sparsity=0.98)) == (18 - 11) * RUN  # .8^17 > .02 > .8^18
    assert steps.since(lambda: prune(tmp_path, sparsity=0.7)) == 0
    assert steps.since(lambda: prune(tmp_path, sparsity=0.7, rewind="7 steps")) == 7 + 5 * RUN


def test_a_run_that_is_rewound_or_watched_goes_on_and_is_not_begun_again(
    tmp_path: Path, steps: Steps
) -> None:
    folder = tmp_path / "a"
    assert steps.since(lambda: prune(folder, rewind=1, rounds=1)) == RUN
    assert steps.since(lambda: prune(folder, rewind=2, rounds=1)) == 2 * STEPS
    folder = tmp_path / "b"
    early = {"threshold": 0.35, "epochs": 2}
    assert steps.since(lambda: prune(folder, "early-bird", **early)) == 2 * STEPS
    assert steps.since(lambda: prune(folder, "early-bird", sparsity=0.75, **early)) == 0
    assert steps.since(lambda: prune(folder, "hybrid")) == STEPS
    assert not list(folder.glob("*.run.pt"))


def test_a_point_that_the_run_is_past_is_gone_to_from_the_beginning(
    tmp_path: Path, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = whole(prune(tmp_path / "straight", rewind="3 steps", rounds=1))
    prune(tmp_path / "further", "early-bird", threshold=0.35, epochs=2)
    assert steps.since(lambda: prune(tmp_path / "further", rewind="3 steps", rounds=1)) == 3 + STEPS
    assert whole(prune(tmp_path / "further", rewind="3 steps", rounds=1)) == expected
    assert not list((tmp_path / "further").glob("*.run.pt"))

    unlink = Path.unlink

    def refused(path: Path, missing_ok: bool = False) -> None:
        if path.name.endswith(".run.pt"):
            raise PermissionError(path)
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refused)
        prune(tmp_path / "over", "hybrid")
    assert list((tmp_path / "over").glob("*.run.pt"))  # of a run that has come to its end
    assert whole(prune(tmp_path / "over", rewind="3 steps", rounds=1)) == expected


CHANGES: dict[str, Callable[[dict[str, object]], dict[str, object]]] = {
    "weights": lambda asked: {"model": network(seed=1)},
    "activation": lambda asked: {"model": network(activation=nn.Tanh)},
    "dropout": lambda asked: {"model": changed(lambda model: setattr(model[4], "p", 0.2))},
    "frozen": lambda asked: {"model": changed(lambda model: model[1].bias.requires_grad_(False))},  # type: ignore[union-attr]
    "statistics": lambda asked: {"model": changed(lambda model: model[2].running_mean.add_(1))},  # type: ignore[union-attr,operator]
    "data": lambda asked: {"data": digits(299)},
    "normalisation": lambda asked: {"data": replace(digits(), mean=(0.5,))},
    "recipe": lambda asked: {"recipe": "digits:epochs=3,lr=0.06"},
    "precision": lambda asked: {"recipe": f"{RECIPE},precision=bf16"},
    "seed": lambda asked: {"seed": 1},
}


def changed(change: Callable[[nn.Sequential], object]) -> nn.Module:
    model = network()
    assert isinstance(model, nn.Sequential)
    change(model)
    return model


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_a_run_depends_on_makes_it_another_run(tmp_path: Path, steps: Steps, change: str) -> None:
    asked: dict[str, object] = {"method": "magnitude-after-training"}
    prune(tmp_path, **asked)  # type: ignore[arg-type]
    assert steps.since(lambda: prune(tmp_path, **asked)) == 0  # type: ignore[arg-type]
    assert steps.since(lambda: prune(tmp_path, **asked, **CHANGES[change](asked))) > 0  # type: ignore[arg-type]


def test_the_cache_is_the_folder_where_none_is_named(
    tmp_path: Path, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISBUD_CACHE", str(tmp_path / "cache"))
    assert steps.since(lambda: prune(None, "hybrid")) == RUN  # type: ignore[arg-type]
    assert steps.since(lambda: prune(tmp_path / "cache", "hybrid")) == 0


def test_what_is_shared_is_what_was_trained(tmp_path: Path) -> None:
    first = whole(prune(tmp_path / "a", sparsity=0.9))
    prune(tmp_path / "b", sparsity=0.98)
    assert whole(prune(tmp_path / "b", sparsity=0.9)) == first
    assert whole(prune(tmp_path / "b", sparsity=0.9)) == first


class Stop(BaseException):
    """As sudden as KeyboardInterrupt."""


@pytest.mark.parametrize("stop", [1, 4, 9, 17, 31, 44])
def test_stopped_at_any_step_of_any_level_it_goes_on_from_there(
    tmp_path: Path, steps: Steps, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    monkeypatch.setattr(recipe_trainer, "_STEPS_BETWEEN_CHECKPOINTS", 2)
    expected = whole(prune(tmp_path / "straight", rounds=3))
    stopped_at = steps.done + stop

    def stopping(*_: object) -> None:
        if steps.done >= stopped_at:
            raise Stop

    handle = register_optimizer_step_post_hook(stopping)
    with pytest.raises(Stop):
        prune(tmp_path / "stopped", rounds=3)
    handle.remove()
    left = steps.since(lambda: prune(tmp_path / "stopped", rounds=3))
    assert 0 < left - (3 * RUN - stop) <= 2  # from the last checkpoint, which is at most two steps back
    assert whole(prune(tmp_path / "stopped", rounds=3)) == expected
    assert not list((tmp_path / "stopped").glob("*.run.pt"))


def test_a_damaged_checkpoint_costs_time_and_no_more(tmp_path: Path, steps: Steps) -> None:
    expected = whole(prune(tmp_path / "straight", rewind=1, rounds=1))
    early = {"threshold": 0.35, "epochs": 2}
    prune(tmp_path / "damaged", "early-bird", **early)
    (under_way,) = (tmp_path / "damaged").glob("*.run.pt")
    under_way.write_bytes(under_way.read_bytes()[:5000])
    assert steps.since(lambda: prune(tmp_path / "damaged", rewind=1, rounds=1)) == RUN
    assert whole(prune(tmp_path / "damaged", rewind=1, rounds=1)) == expected


def one_process(folder: str, name: str, more: dict[str, object]) -> None:
    """A process that prunes, and notes what it came to and how many steps it trained."""
    torch.set_num_threads(1)
    counted = Steps()
    register_optimizer_step_post_hook(counted)
    ticket = prune(Path(folder) / "shared", **more)  # type: ignore[arg-type]
    content = pickle.dumps((whole(ticket), counted.done))
    (Path(folder) / f"{name}.part").write_bytes(content)
    os.replace(Path(folder) / f"{name}.part", Path(folder) / f"{name}.result")


def starting(folder: Path, name: str, **more: object) -> multiprocessing.process.BaseProcess:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["disbud.pruning", "sklearn.datasets", "torch._dynamo", "trained_cases"])
    process = processes.Process(target=one_process, args=(str(folder), name, more))
    process.start()
    return process


def result_of(folder: Path, name: str) -> tuple[object, int]:
    content: tuple[object, int] = pickle.loads((folder / f"{name}.result").read_bytes())
    return content


@pytest.mark.slow
def test_processes_that_ask_at_once_train_each_run_once_between_them(tmp_path: Path) -> None:
    more = {"rounds": 4, "recipe": "digits:epochs=20,lr=0.05"}
    names = ["first", "second", "third"]
    for process in [starting(tmp_path, name, **more) for name in names]:
        process.join()
        assert process.exitcode == 0
    found = [result_of(tmp_path, name) for name in names]
    assert sum(steps for _, steps in found) == 4 * 20 * STEPS
    assert found[0][0] == found[1][0] == found[2][0]


@pytest.mark.slow
@pytest.mark.parametrize("more", [
    {"recipe": "digits:epochs=30,lr=0.05"},
    {"recipe": "digits:epochs=50,lr=0.05", "rewind": "22 steps", "rounds": 5},
    {"recipe": "digits:epochs=60,lr=0.05", "method": "early-bird", "threshold": 1e-9, "epochs": 40, "sparsity": 0.5},
], ids=["init", "rewound", "early-bird"])  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_killed_again_and_again_it_ends_with_the_same_bits(tmp_path: Path, more: dict[str, object]) -> None:
    (tmp_path / "straight").mkdir()
    starting(tmp_path / "straight", "whole", **more).join()
    expected, needed = result_of(tmp_path / "straight", "whole")
    draws, kills = random.Random(), 0
    process = starting(tmp_path, "killed", **more)
    while kills < 6 and wait_for_news(tmp_path / "shared", process):
        process.join(draws.uniform(0.0, 0.2))
        if process.exitcode is None:
            process.kill()
            process.join()
            assert process.exitcode == -9
            kills += 1
            process = starting(tmp_path, "killed", **more)
    process.join()
    assert process.exitcode == 0
    assert kills >= 2
    found, steps = result_of(tmp_path, "killed")
    assert found == expected
    assert steps < needed, "the last process began anew"


def wait_for_news(folder: Path, process: multiprocessing.process.BaseProcess) -> bool:
    """Wait until the process has kept something it can go on from; False where it came to its end first."""
    before = written(folder)
    while process.exitcode is None:
        if written(folder) != before:
            return True
        time.sleep(0.005)
    return False


def written(folder: Path) -> dict[str, int]:
    """When each checkpoint and each finished run was put there; locks and files half written are none."""
    found = {}
    for path in folder.glob("[!.]*") if folder.is_dir() else ():
        if path.suffix in (".lock", ".part"):
            continue
        with contextlib.suppress(FileNotFoundError):
            found[path.name] = path.stat().st_mtime_ns
    return found


def test_a_cache_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DisbudError, match="is a file; hybrid needs a folder"):
        prune(tmp_path / "file", "hybrid")
    with pytest.raises(DisbudError, match="cannot be written"):
        prune(tmp_path / "file" / "in it", "hybrid")
