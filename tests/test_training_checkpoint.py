"""A run that is stopped anywhere and goes on ends with the bits of one that was never stopped."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import disbud
from disbud import DisbudError, Recipe, Ticket
from disbud.data import Dataset, from_tensors
from disbud.seeds import generator, global_streams
from disbud.training import Progress, Result
from disbud.training.loop import train

RECIPE = Recipe(
    epochs=4,
    batch_size=16,
    optimizer="adamw",
    lr=0.01,
    weight_decay=0.05,
    warmup_epochs=1,
    augment="crop-flip",
    label_smoothing=0.1,
    clip_norm=1.0,
)


def data(count: int = 90) -> Dataset:
    draws = generator(0, "test data")
    labels = torch.arange(count) % 3
    noise = torch.randint(0, 120, (count, 1, 8, 8), generator=draws)
    return from_tensors((noise + 60 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels, name="tiny")


class Drift(nn.Module):
    """Has a buffer that state_dict leaves out, and draws from the streams of numpy and Python."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.mean.lerp_(x.detach().mean() + 1, 0.1)
        noise = float(np.random.normal()) + random.random() if self.training else 0.0
        return x - self.mean + 0.01 * noise


def network(seed: int = 0) -> nn.Module:
    with global_streams(seed, "init"):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            Drift(),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(144, 3),
        )


def a_ticket() -> Ticket:
    draws = generator(0, "mask")
    return Ticket.from_masks({"6.weight": torch.rand(3, 144, generator=draws) < 0.3})


def bits(model: nn.Module) -> dict[str, bytes]:
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach().numpy().tobytes() for name, tensor in named}


class Stop(BaseException):
    """As sudden as KeyboardInterrupt."""


def stopping_at(count: int) -> Callable[[Progress], None]:
    left = [count]

    def stop(event: Progress) -> None:
        left[0] -= 1
        if not left[0]:
            raise Stop

    return stop


@pytest.fixture
def _every_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(train.__globals__, "_SECONDS_BETWEEN_EVENTS", 0.0)


@pytest.mark.usefixtures("_every_step_is_told")
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("every", [None, 1, 3])
def test_stopped_at_any_step_it_ends_with_the_same_bits(
    tmp_path: Path, optimizer: str, every: int | None
) -> None:
    recipe, dataset, ticket = replace(RECIPE, optimizer=optimizer), data(), a_ticket()
    whole = network()
    expected = disbud.train(whole, dataset, ticket=ticket, recipe=recipe)
    path = tmp_path / "run.pt"
    for stop in (1, 4, 6, 7, 2):
        with pytest.raises(Stop):
            disbud.train(
                network(),
                dataset,
                ticket=ticket,
                recipe=recipe,
                checkpoint=path,
                checkpoint_every=every,
                progress=stopping_at(stop),
            )
    resumed = network()
    steps: list[Progress] = []
    result = disbud.train(
        resumed, dataset, ticket=ticket, recipe=recipe, checkpoint=path, progress=steps.append
    )
    assert bits(resumed) == bits(whole)
    assert result == expected
    assert len(steps) < 4 * 5, "it began anew"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run.pt"]


def test_a_run_with_a_checkpoint_is_the_run_without(tmp_path: Path) -> None:
    plain, kept = network(), network()
    expected = disbud.train(plain, data(), recipe=RECIPE)
    assert (
        disbud.train(kept, data(), recipe=RECIPE, checkpoint=tmp_path / "run.pt", checkpoint_every=2)
        == expected
    )
    assert bits(plain) == bits(kept)


def test_a_finished_run_is_read_back(tmp_path: Path) -> None:
    trained, fresh = network(), network()
    expected = disbud.train(trained, data(), recipe=RECIPE, checkpoint=tmp_path / "run.pt")
    events: list[Progress] = []
    result = disbud.train(
        fresh, data(), recipe=RECIPE, checkpoint=tmp_path / "run.pt", progress=events.append
    )
    assert result == expected
    assert bits(fresh) == bits(trained)
    assert not events
    assert result.seconds == pytest.approx(expected.seconds, abs=0.05)


def test_time_and_images_count_over_all_parts_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(train.__globals__, "_SECONDS_BETWEEN_EVENTS", 0.0)
    path = tmp_path / "run.pt"
    with pytest.raises(Stop):
        disbud.train(
            network(), data(), recipe=RECIPE, checkpoint=path, checkpoint_every=1, progress=stopping_at(3)
        )
    position = torch.load(path, weights_only=True)["position"]
    assert (position["epoch"], position["step"], position["images"]) == (0, 2, 32)
    assert 0 < position["training_seconds"] < position["seconds"]
    result = disbud.train(network(), data(), recipe=RECIPE, checkpoint=path)
    assert result.seconds > position["seconds"]
    assert 4 * 72 / result.seconds < result.images_per_second < 4 * 72 / position["training_seconds"]


def saved(path: Path, model: nn.Module | None = None, **changes: object) -> Result:
    settings: dict[str, object] = {
        "recipe": RECIPE,
        "seed": 0,
        "ticket": a_ticket(),
        "dataset": data(),
        **changes,
    }
    dataset = settings.pop("dataset")
    return disbud.train(model or network(), dataset, checkpoint=path, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        (
            {"recipe": replace(RECIPE, lr=0.02)},
            r"recipe\.lr: .* differs in its recipe\.lr \(0\.01 there, 0\.02 here\)",
        ),
        ({"recipe": replace(RECIPE, epochs=5)}, r"recipe\.epochs: .* \(4 there, 5 here\)"),
        ({"recipe": replace(RECIPE, revision=2)}, r"recipe\.revision: "),
        (
            {"recipe": replace(RECIPE, optimizer="adam")},
            r"recipe\.optimizer: .* \('adamw' there, 'adam' here\)",
        ),
        ({"seed": 1}, r"seed: .* \(0 there, 1 here\)"),
        ({"dataset": data(99)}, "dataset: .* differs in its dataset; start this run as"),
        ({"ticket": None}, "ticket: "),
        ({"ticket": ~a_ticket()}, "ticket: "),
        ({"model": network(seed=1)}, "starting weights: "),
        ({"model": nn.Sequential(*network(), nn.Linear(3, 3))}, "model: "),
    ],
)
def test_the_checkpoint_of_another_run_is_refused(
    tmp_path: Path, changes: dict[str, object], field: str
) -> None:
    path = tmp_path / "run.pt"
    saved(path, recipe=RECIPE)
    before = path.read_bytes()
    with pytest.raises(DisbudError, match=r"run\.pt: " + field):
        saved(path, **changes)  # type: ignore[arg-type]
    assert path.read_bytes() == before


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    saved(path)
    whole = path.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DisbudError, match=r"run\.pt: this is not a whole checkpoint"):
            saved(path)


def test_a_flipped_bit_is_refused_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    expected = saved(path)
    trained = network()
    saved(path, trained)
    whole = path.read_bytes()
    draws, refused = random.Random(0), 0
    for position in draws.sample(range(len(whole)), 150):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << draws.randrange(8)
        path.write_bytes(damaged)
        model = network()
        try:
            assert saved(path, model) == expected
            assert bits(model) == bits(trained)
        except DisbudError as error:
            assert str(error).startswith(f"{path}: ")
            refused += 1
    assert refused > 30


class Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("executed",)


def test_foreign_and_hostile_files_are_refused_without_running_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.pt"
    saved(path)
    good = torch.load(path, weights_only=True)

    def refused(match: str) -> None:
        with pytest.raises(DisbudError, match=r"run\.pt: " + match):
            saved(path)

    path.write_text("epoch,loss\n1,2.3\n")
    refused("this is not a whole checkpoint")
    path.write_bytes(pickle.dumps(Hostile()))
    refused("this is not a whole checkpoint")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")
    refused("this is not a whole checkpoint")
    torch.save(Hostile(), path)
    refused("this is not a whole checkpoint")
    torch.save({**good, "position": Hostile()}, path)
    refused("this is not a whole checkpoint")
    torch.save(network().state_dict(), path)
    refused("this is not a checkpoint of disbud")
    torch.save([1, 2], path)
    refused("this is not a checkpoint of disbud")
    torch.save({**good, "disbud.checkpoint": 99}, path)
    refused("disbud.checkpoint: version 99 cannot be read, only 2")
    for key in ("identity", "behaviour", "by kernels", "model", "extra state", "optimizer", "position"):
        torch.save({name: value for name, value in good.items() if name != key}, path)
        refused(f"{key}: the field is missing")
    for position in (3, {}, {**good["position"], "step": -1}, {**good["position"], "losses": [1.0]}):
        torch.save({**good, "position": position}, path)
        refused("position: is not what disbud writes")
    for row in (("a",) * 5, (1.0,) * 4, 1.0):
        torch.save({**good, "position": {**good["position"], "curve": [row] * 4}}, path)
        refused("position: is not what disbud writes")
    for streams in (3, (1, 2), (([1] * 624, 3, 0, 0.0), (3, (1, 2), None))):
        torch.save({**good, "position": {**good["position"], "streams": streams}}, path)
        refused("position: its random streams are not what disbud writes")
    torch.save({**good, "identity": "nonsense"}, path)
    refused("identity: is not what disbud writes")
    torch.save({**good, "model": {}}, path)
    refused("model: the names of its tensors")
    torch.save({**good, "model": {**good["model"], "6.weight": torch.zeros(2)}}, path)
    refused(r"model\.6\.weight: is no tensor of shape \(3, 144\)")
    torch.save({**good, "optimizer": {"state": {}, "param_groups": []}}, path)
    refused("optimizer: is not the state of this optimizer")
    assert not (tmp_path / "executed").exists()


def test_a_write_that_fails_leaves_the_last_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, writes = tmp_path / "run.pt", [0]
    original = torch.save

    def failing(content: object, part: Path) -> None:
        original(content, part)
        writes[0] += 1
        if writes[0] == 3:
            part.write_bytes(part.read_bytes()[:500])
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", failing)
    with pytest.raises(
        DisbudError, match=r"run\.pt: the checkpoint cannot be written: No space left on device"
    ):
        saved(path)
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]
    assert torch.load(path, weights_only=True)["position"]["epoch"] == 2
    resumed, whole = network(), network()
    assert saved(path, resumed) == saved(tmp_path / "other.pt", whole)
    assert bits(resumed) == bits(whole)


def test_a_folder_that_is_not_there_is_said_before_training(tmp_path: Path) -> None:
    events: list[Progress] = []
    with pytest.raises(DisbudError, match="a checkpoint cannot be written there: there is no folder"):
        disbud.train(
            network(), data(), recipe=RECIPE, checkpoint=tmp_path / "no" / "run.pt", progress=events.append
        )
    assert not events


LONG = replace(RECIPE, epochs=15)


def one_process(folder: str, name: str, checkpoint: bool) -> None:
    """Train, and leave the bits and the curve behind."""
    torch.set_num_threads(1)
    model = network()
    path = Path(folder, f"{name}.pt") if checkpoint else None
    every = 4 if checkpoint else None
    result = disbud.train(
        model, data(300), ticket=a_ticket(), recipe=LONG, checkpoint=path, checkpoint_every=every
    )
    Path(folder, f"{name}.result").write_bytes(pickle.dumps((bits(model), result.curve)))


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    processes = multiprocessing.get_context(
        "forkserver"
    )  # real processes, that need not import torch each time
    processes.set_forkserver_preload(["disbud.training.loop", "disbud.data.tensors"])

    def started(name: str, checkpoint: bool) -> multiprocessing.process.BaseProcess:
        process = processes.Process(target=one_process, args=(str(tmp_path), name, checkpoint))
        process.start()
        return process

    started("first", checkpoint=False).join()  # until the fork server is warm
    began = time.perf_counter()
    started("straight", checkpoint=False).join()
    seconds = time.perf_counter() - began
    whole, curve = pickle.loads((tmp_path / "straight.result").read_bytes())
    draws, kills = random.Random(), 0
    process = started("killed", checkpoint=True)
    while process.exitcode is None:
        process.join(draws.uniform(0.2, 0.8) * seconds if kills < 5 else None)
        if process.exitcode is None:
            process.kill()
            process.join()
            assert process.exitcode == -9
            kills += 1
            process = started("killed", checkpoint=True)
    assert process.exitcode == 0
    assert kills >= 3
    assert pickle.loads((tmp_path / "killed.result").read_bytes()) == (whole, curve)
