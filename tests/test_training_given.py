"""What may be handed to training: models of any floating type; and what is answered to what it cannot take."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import disbud
from disbud import DisbudError, Recipe
from disbud.data import Dataset, from_tensors
from disbud.models import build
from disbud.seeds import generator, global_streams
from disbud.training import Divergence, evaluate
from disbud.training.batches import epoch_batches, order_of

RECIPE = Recipe(epochs=2, batch_size=16, lr=0.05)


def data(count: int = 90) -> Dataset:
    draws = generator(0, "test data")
    labels = torch.arange(count) % 3
    noise = torch.randint(0, 120, (count, 1, 8, 8), generator=draws)
    return from_tensors((noise + 60 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels, name="tiny")


def network() -> nn.Sequential:
    with global_streams(0, "init"):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 3))


# models of other types


def test_a_model_in_float64_takes_the_steps_of_a_plain_loop_in_float64() -> None:
    model, hand, dataset = network().double(), network().double(), data()
    result = disbud.train(
        model, dataset, recipe=Recipe(epochs=1, batch_size=16, lr=0.05, schedule="constant")
    )
    optimizer = torch.optim.SGD(hand.parameters(), lr=0.05, momentum=0.9)
    inputs, labels = dataset.normalise(dataset.train.images).double(), dataset.train.labels
    for chosen in epoch_batches(order_of(len(labels), 0, 0, torch.device("cpu")), 16):
        optimizer.zero_grad()
        F.cross_entropy(hand(inputs[chosen]), labels[chosen]).backward()
        optimizer.step()
    for name, value in hand.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    assert model[1].weight.dtype == torch.float64
    right = hand.eval()(dataset.normalise(dataset.test.images).double())
    assert result.loss == pytest.approx(F.cross_entropy(right, dataset.test.labels).item(), rel=1e-12)
    assert evaluate(model, dataset) == (result.accuracy, result.loss)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("pruned", [True, False])
def test_models_of_other_types_learn_with_a_checkpoint_too(
    tmp_path: Path, dtype: torch.dtype, pruned: bool
) -> None:
    model, dataset = network().to(dtype), data()
    ticket = disbud.prune(model, "magnitude", sparsity=0.5) if pruned else None
    start = copy.deepcopy(model)
    result = disbud.train(model, dataset, ticket=ticket, recipe=RECIPE, checkpoint=tmp_path / "run.pt")
    assert result.accuracy > 0.5
    assert {tensor.dtype for tensor in model.parameters()} == {dtype}
    assert result == disbud.train(
        start, dataset, ticket=ticket, recipe=RECIPE, checkpoint=tmp_path / "run.pt"
    )


def test_torchs_default_type_is_the_models_alone() -> None:
    expected = disbud.train(network(), data(), recipe=RECIPE)
    single = network()
    torch.set_default_dtype(torch.float64)
    try:
        assert disbud.train(single, data(), recipe=RECIPE) == expected
        double = disbud.train(network(), data(), recipe=RECIPE)
    finally:
        torch.set_default_dtype(torch.float32)
    assert double != expected
    assert double.accuracy > 0.5


def test_torchs_default_device_is_left_out_of_it() -> None:
    model, again, dataset = network(), network(), data()
    ticket = disbud.prune(model, "magnitude", sparsity=0.5)
    expected = disbud.train(model, dataset, ticket=ticket, recipe=RECIPE)
    with torch.device("meta"):
        assert disbud.train(again, dataset, ticket=ticket, recipe=RECIPE) == expected


# what is no model, data set, ticket or recipe


DIGITS = disbud.data.load("digits")
WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "a data set's name": (lambda: disbud.train(network(), "digits"), r"disbud\.data\.load\('digits'\)"),  # type: ignore[arg-type]
    "batches": (
        lambda: disbud.train(network(), DIGITS.batches(10)),  # type: ignore[arg-type]
        r"a disbud\.data\.Dataset, not a Batches; disbud\.data\.from_tensors",
    ),
    "a pair": (lambda: disbud.train(network(), (1, 2)), "not a tuple"),  # type: ignore[arg-type]
    "a recipe of settings": (
        lambda: disbud.train(network(), DIGITS, recipe={"epochs": 1}),  # type: ignore[arg-type]
        r"not a dict; disbud\.Recipe\(\*\*settings\)",
    ),
    "a recipe of none": (lambda: disbud.train(network(), DIGITS, recipe={}), "not a dict"),  # type: ignore[arg-type]
    "a ticket's name": (
        lambda: disbud.train(network(), DIGITS, ticket="t.safetensors"),  # type: ignore[arg-type]
        r"disbud\.Ticket\.load\('t\.safetensors'\)",
    ),
    "a model's name": (
        lambda: disbud.train("lenet-300-100", DIGITS),  # type: ignore[arg-type]
        r"a torch\.nn\.Module, not a str; disbud\.models\.build",
    ),
    "nothing of a name": (lambda: evaluate(network(), "digits"), r"disbud\.data\.load\('digits'\)"),  # type: ignore[arg-type]
    "steps in halves": (
        lambda: disbud.train(network(), DIGITS, checkpoint="run.pt", checkpoint_every=2.5),  # type: ignore[arg-type]
        r"checkpoint_every is a number of steps.* it is 2\.5",
    ),
    "steps without a file": (
        lambda: disbud.train(network(), DIGITS, checkpoint_every=3),
        "needs checkpoint=FILE",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_training_cannot_take_is_answered_with_what_would_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call, said = WRONG[name]
    with pytest.raises(DisbudError, match=said):
        call()
    assert not list(tmp_path.iterdir())


def test_steps_between_checkpoints_may_be_numpys(tmp_path: Path) -> None:
    disbud.train(
        network(), data(), recipe=RECIPE, checkpoint=tmp_path / "run.pt", checkpoint_every=np.int64(3)
    )


def test_training_is_reached_by_its_name_alone() -> None:
    code = "import disbud; print(disbud.training.evaluate.__name__, 'training' in disbud.__all__)"
    assert subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split() == ["evaluate", "True"]


# a run that breaks after its last step


def test_a_last_step_that_breaks_the_network_is_no_success(tmp_path: Path) -> None:
    """Of whose wreck no step has seen the loss: it is that on the test images that is not finite."""
    model = build("lenet-300-100", input_shape=DIGITS.input_shape)
    recipe = disbud.training.parse_recipe("digits:batch_size=1437,epochs=1,lr=1e30")
    result = disbud.train(model, DIGITS, recipe=recipe, checkpoint=tmp_path / "run.pt")
    assert result.diverged == Divergence(epoch=1, step=1, loss=math.nan)
    assert not math.isfinite(result.diverged.loss)
    assert math.isnan(result.accuracy)
    assert result.curve == ()
    assert not (tmp_path / "run.pt").exists()


def test_a_last_step_of_a_later_epoch_leaves_the_epochs_before() -> None:
    class Fuse(nn.Module):
        left = 10

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.left -= self.training
            return x / 0 if self.left <= 0 and not self.training else x

    result = disbud.train(nn.Sequential(*network(), Fuse()), data(), recipe=RECIPE.changed(epochs=3))
    assert result.diverged == Divergence(epoch=2, step=5, loss=math.nan)
    assert [row.epoch for row in result.curve] == [1]
