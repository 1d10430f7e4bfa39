"""Which run a checkpoint is of: where networks look the same by their parameters, or have state of their own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import disbud
from disbud import DisbudError, Recipe
from disbud.data import Dataset, from_tensors
from disbud.models import build
from disbud.seeds import generator, global_streams
from disbud.training import Progress, Result
from disbud.training.loop import train

RECIPE = Recipe(epochs=3, batch_size=16, lr=0.05)


def data(count: int = 90) -> Dataset:
    draws = generator(0, "test data")
    labels = torch.arange(count) % 3
    noise = torch.randint(0, 120, (count, 1, 8, 8), generator=draws)
    return from_tensors((noise + 60 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels, name="tiny")


class Net(nn.Module):
    """One set of parameters, and several things to compute with them."""

    def __init__(self, does: str = "plain") -> None:
        super().__init__()
        self.does = does
        with global_streams(0, "init"):
            self.first, self.second = nn.Linear(64, 20), nn.Linear(20, 3)
            self.drop = nn.Dropout(0.5 if does == "dropout" else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x.flatten(1))
        hidden = {"tanh": torch.tanh, "gelu": nn.functional.gelu}.get(self.does, torch.relu)(hidden)
        if self.does == "detached":
            hidden = hidden.detach()
        out = self.second(self.drop(hidden))
        return -out if self.does == "negative" else out


def frozen(does: str = "plain") -> Net:
    model = Net(does)
    model.first.weight.requires_grad_(False)
    return model


def bits(model: nn.Module) -> list[bytes]:
    return [tensor.detach().numpy().tobytes() for tensor in model.state_dict().values()]


class Stop(BaseException):
    pass


def stop_after(steps: int) -> Callable[[Progress], None]:
    def stop(event: Progress) -> None:
        if (event.epoch - 1) * event.steps + event.step >= steps:
            raise Stop

    return stop


def begun(model: nn.Module, path: Path, *, steps: int = 7) -> None:
    """A run that was stopped after so many of its 15 steps."""
    with pytest.raises(Stop), pytest.MonkeyPatch.context() as patch:
        patch.setitem(train.__globals__, "_SECONDS_BETWEEN_EVENTS", 0.0)
        disbud.train(
            model, data(), recipe=RECIPE, checkpoint=path, checkpoint_every=1, progress=stop_after(steps)
        )


# what the network computes


@pytest.mark.parametrize("does", ["tanh", "negative", "dropout", "detached"])
@pytest.mark.parametrize("finished", [True, False])
def test_the_checkpoint_of_a_network_that_computes_something_else_is_refused(
    tmp_path: Path, does: str, finished: bool
) -> None:
    path = tmp_path / "run.pt"
    if finished:
        disbud.train(Net(), data(), recipe=RECIPE, checkpoint=path)
    else:
        begun(Net(), path)
    other = Net(does)
    before, content = bits(other), path.read_bytes()
    with pytest.raises(
        DisbudError, match=r"run\.pt: the network computes other .* than the one of the checkpoint"
    ):
        disbud.train(other, data(), recipe=RECIPE, checkpoint=path)
    assert bits(other) == before
    assert path.read_bytes() == content


@pytest.mark.parametrize("spec", ["resnet20:width=0.25", "mlp:hidden=32,activation=relu"])
def test_networks_of_the_catalogue_are_told_apart(tmp_path: Path, spec: str) -> None:
    dataset, path = disbud.data.load("digits"), tmp_path / "run.pt"
    other = {"resnet20:width=0.25": f"{spec},stable=true"}.get(spec, "mlp:hidden=32,activation=tanh")
    one, two = (build(text, input_shape=dataset.input_shape) for text in (spec, other))
    assert [p.shape for p in one.parameters()] == [p.shape for p in two.parameters()]
    few = replace(dataset, train=dataset.train.select(torch.arange(64)))
    disbud.train(one, few, recipe="digits:epochs=1", checkpoint=path)
    with pytest.raises(DisbudError, match="the network computes other"):
        disbud.train(two, few, recipe="digits:epochs=1", checkpoint=path)


def test_another_number_of_threads_goes_on(tmp_path: Path) -> None:
    """Its rounding may be another; it is the same network."""
    threads = torch.get_num_threads()
    begun(Net("gelu"), tmp_path / "run.pt")
    torch.set_num_threads(threads + 1)
    try:
        resumed = disbud.train(Net("gelu"), data(), recipe=RECIPE, checkpoint=tmp_path / "run.pt")
    finally:
        torch.set_num_threads(threads)
    assert len(resumed.curve) == 3


def test_a_checkpoint_does_not_say_how_the_network_rounds(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    begun(Net(), path)
    content = torch.load(path, weights_only=True)
    for factor, fits in ((1 + 1e-6, True), (1 + 1e-3, False)):
        changed = {name: seen * factor for name, seen in content["behaviour"].items()}
        torch.save({**content, "behaviour": changed}, path)
        if fits:
            disbud.train(Net(), data(), recipe=RECIPE, checkpoint=path)
        else:
            with pytest.raises(DisbudError, match="the network computes other"):
                disbud.train(Net(), data(), recipe=RECIPE, checkpoint=path)


@pytest.mark.parametrize(("first", "then"), [(Net, frozen), (frozen, Net)])
def test_the_checkpoint_of_a_run_that_trained_other_layers_is_refused(
    tmp_path: Path, first: Callable[[], nn.Module], then: Callable[[], nn.Module]
) -> None:
    begun(first(), tmp_path / "run.pt")
    with pytest.raises(DisbudError, match=r"run\.pt: frozen: .* differs in its frozen \(.*first\.weight.*\)"):
        disbud.train(then(), data(), recipe=RECIPE, checkpoint=tmp_path / "run.pt")


class Own(nn.Module):
    """Draws from a generator of its own, and counts in a tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Net()
        self.draws, self.count = torch.Generator("cpu").manual_seed(3), torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return self.inner(x) + torch.rand(len(x), 3, generator=self.draws) + self.count / 100


def test_looking_at_the_network_leaves_no_trace_in_the_run(tmp_path: Path) -> None:
    plain, kept = Own(), Own()
    assert disbud.train(plain, data(), recipe=RECIPE) == disbud.train(
        kept, data(), recipe=RECIPE, checkpoint=tmp_path / "run.pt"
    )
    assert bits(plain) == bits(kept)


class Uncopied(Net):
    def __deepcopy__(self, memo: object) -> nn.Module:
        raise TypeError("cannot be copied")


def test_a_network_that_cannot_be_copied_is_looked_at_itself(tmp_path: Path) -> None:
    begun(Uncopied(), tmp_path / "run.pt")
    resumed, whole = Uncopied(), Net()
    disbud.train(resumed, data(), recipe=RECIPE, checkpoint=tmp_path / "run.pt")
    disbud.train(whole, data(), recipe=RECIPE)
    assert bits(resumed) == bits(whole)


# state of the network's own


class Moving(nn.Module):
    """Keeps the number and the mean of what it saw by torch's own means for it, and computes with them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.mean = 0, torch.zeros(20)

    def get_extra_state(self) -> dict[str, object]:
        return {"seen": self.seen, "mean": self.mean}

    def set_extra_state(self, state: dict[str, object]) -> None:
        self.seen, self.mean = state["seen"], state["mean"]  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
            self.mean = self.mean + (x.detach().mean(0) - self.mean) / self.seen
        return x - self.mean


def moving() -> nn.Sequential:
    with global_streams(0, "init"):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), Moving(), nn.ReLU(), nn.Linear(20, 3))


@pytest.mark.parametrize("steps", [3, 5, 8])
def test_extra_state_is_kept_and_goes_on(tmp_path: Path, steps: int) -> None:
    whole, resumed = moving(), moving()
    expected = disbud.train(whole, data(), recipe=RECIPE)
    begun(moving(), tmp_path / "run.pt", steps=steps)
    assert disbud.train(resumed, data(), recipe=RECIPE, checkpoint=tmp_path / "run.pt") == expected
    assert bits(resumed[1:2]) == bits(whole[1:2])
    assert resumed[2].seen == whole[2].seen == 15
    assert torch.equal(resumed[2].mean, whole[2].mean)


class Odd(Moving):
    """Its state is of a class that is not read back without running code of the file's."""

    def get_extra_state(self) -> object:  # type: ignore[override]
        return Recipe()


def test_extra_state_that_could_not_be_read_is_refused_before_training(tmp_path: Path) -> None:
    model = nn.Sequential(*moving()[:2], Odd(), *moving()[3:])
    before = bits(model[1:2])
    with pytest.raises(
        DisbudError, match=r"the extra state of '2' \(Odd\) cannot be kept .* tensors, numbers"
    ):
        disbud.train(model, data(), recipe=RECIPE, checkpoint=tmp_path / "run.pt")
    assert not list(tmp_path.iterdir())
    assert bits(model[1:2]) == before
    disbud.train(model, data(), recipe=RECIPE)  # which keeps nothing


def test_extra_state_of_other_modules_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    begun(moving(), path)
    content = torch.load(path, weights_only=True)
    for extra in ({}, {"1": 3}, 3):
        torch.save({**content, "extra state": extra}, path)
        with pytest.raises(
            DisbudError, match=r"run\.pt: extra state: is not that of the modules of the model"
        ):
            disbud.train(moving(), data(), recipe=RECIPE, checkpoint=path)


# sparse kernels


NETWORK, SHAPES = "vgg11-bn:width=0.25", "shapes:size=16,train=192,test=50"
KERNELS = Recipe(epochs=2, batch_size=64, lr=0.02, accelerate="auto")
WORTH = "disbud.acceleration.accelerated.is_worth_training"


class Around(nn.Module):
    """The network, which may refuse to be copied: then no kernels can stand in for it."""

    def __init__(self, inner: nn.Module, *, copied: bool) -> None:
        super().__init__()
        self.inner, self.copied = inner, copied

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        return out

    def __deepcopy__(self, memo: dict[int, object]) -> nn.Module:
        if not self.copied:
            raise TypeError("cannot be copied")
        return Around(copy.deepcopy(self.inner, memo), copied=True).train(self.training)


def by_kernels(
    path: Path | None, *, stop: bool = False, recipe: Recipe = KERNELS, copied: bool = True
) -> tuple[Result | None, nn.Module]:
    dataset = disbud.data.load(SHAPES)
    model = Around(build(NETWORK, input_shape=dataset.input_shape, classes=dataset.classes), copied=copied)
    ticket = disbud.prune(model, "random", sparsity=0.95, densities="erk", seed=3)
    try:
        progress = stop_after(4) if stop else None
        return disbud.train(
            model, dataset, ticket=ticket, recipe=recipe, checkpoint=path,
            checkpoint_every=None if path is None else 1, progress=progress,
        ), model  # fmt: skip
    except Stop:
        return None, model


@pytest.fixture
def _every_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(train.__globals__, "_SECONDS_BETWEEN_EVENTS", 0.0)


@pytest.mark.usefixtures("_every_step_is_told")
@pytest.mark.parametrize("first", [True, False])
def test_what_kernels_began_they_end_whatever_the_cost_model_says_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    """And what they did not begin is ended without them."""
    monkeypatch.setattr(WORTH, lambda layers: first)
    expected, whole = by_kernels(None)
    assert expected is not None
    assert expected.by_kernels is first
    assert by_kernels(tmp_path / "run.pt", stop=True)[0] is None
    monkeypatch.setattr(WORTH, lambda layers: not first)
    found, resumed = by_kernels(tmp_path / "run.pt")
    assert found == expected
    assert found.by_kernels is first
    assert bits(resumed) == bits(whole)


@pytest.mark.usefixtures("_every_step_is_told")
@pytest.mark.parametrize("finished", [True, False])
def test_the_checkpoint_of_a_run_by_kernels_is_of_another_recipe_than_one_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    monkeypatch.setattr(WORTH, lambda layers: True)
    by_kernels(tmp_path / "run.pt", stop=not finished)
    with pytest.raises(DisbudError, match=r"recipe\.accelerate: .*\('auto' there, not set here\)"):
        by_kernels(tmp_path / "run.pt", recipe=KERNELS.changed(accelerate="off"))


@pytest.mark.usefixtures("_every_step_is_told")
def test_a_run_by_kernels_that_cannot_go_on_here_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WORTH, lambda layers: True)
    by_kernels(tmp_path / "run.pt", stop=True)
    with pytest.raises(DisbudError, match=r"run\.pt: sparse kernels trained .* cannot go on here: .*copied"):
        by_kernels(tmp_path / "run.pt", copied=False)
