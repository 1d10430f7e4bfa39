"""What a run tells while it goes on and after it, what an evaluation says, and what cannot be trained."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from torch import Tensor, nn
from torch.nn import functional as F

import disbud
from disbud import DisbudError
from disbud.training import Epoch, Progress, Result, evaluate
from disbud.training.loop import train
from test_training import RECIPE, data, network


def events_of(seconds_between: float, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Progress], Result]:
    monkeypatch.setitem(train.__globals__, "_SECONDS_BETWEEN_EVENTS", seconds_between)
    events: list[Progress] = []
    result = disbud.train(network(), data(), recipe=RECIPE, progress=events.append)
    return events, result


def test_progress_tells_of_every_step_when_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    events, result = events_of(0.0, monkeypatch)
    assert [(event.epoch, event.step) for event in events[:-1]] == [
        (e, s) for e in (1, 2, 3) for s in range(1, 6)
    ]
    last = events[-1]
    assert (last.epoch, last.epochs, last.step, last.steps, last.fraction) == (3, 3, 5, 5, 1.0)
    assert last.accuracy == result.accuracy
    assert last.loss == pytest.approx(result.curve[-1].train_loss, rel=0.2)
    assert [event.accuracy for event in events[:5]] == [None] * 5
    assert {event.accuracy for event in events[5:10]} == {result.curve[0].test_accuracy}
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions)


def test_progress_is_told_at_most_ten_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    events, result = events_of(0.1, monkeypatch)
    assert 1 <= len(events) <= 2 + 10 * result.seconds
    assert events[-1].fraction == 1.0
    assert events[-1].accuracy == result.accuracy


class Wrong(nn.Module):
    def __init__(self, change: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.inner, self.change = network(), change

    def forward(self, x: Tensor) -> object:
        return self.change(self.inner(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits: (logits,), "the model returned a tuple; training needs a tensor of logits"),
        (
            lambda logits: logits[:, :2],
            r"shape \(16, 2\) for 16 examples of 3 classes; training needs \(16, 3\)",
        ),
        (lambda logits: logits.sum(1), r"shape \(16,\) for 16 examples of 3 classes"),
        (lambda logits: logits[:3], r"shape \(3, 3\) for 16 examples"),
    ],
)
def test_outputs_that_are_no_logits_are_refused(change: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(DisbudError, match=message):
        disbud.train(Wrong(change), data(), recipe=RECIPE)


def test_what_cannot_be_trained_is_said() -> None:
    with pytest.raises(DisbudError, match="every parameter of the model is frozen"):
        disbud.train(network().requires_grad_(False), data(), recipe=RECIPE)
    with pytest.raises(DisbudError, match="the model has no parameters, or has them on several devices"):
        disbud.train(nn.Flatten(), data(), recipe=RECIPE)
    with pytest.raises(DisbudError, match="there is no recipe 'digit'"):
        disbud.train(network(), data(), recipe="digit")
    with pytest.raises(DisbudError, match="checkpoint_every is a number of steps"):
        disbud.train(network(), data(), recipe=RECIPE, checkpoint_every=3)
    with pytest.raises(DisbudError, match="a seed is an integer"):
        disbud.train(network(), data(), recipe=RECIPE, seed=0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("split", ["train", "test"])
def test_evaluation_is_over_the_whole_split_in_eval_mode(split: str) -> None:
    dataset, model = data(count=700), network(dropout=0.5)
    chosen = dataset.train if split == "train" else dataset.test
    found = evaluate(model, dataset, split=split)
    assert all(module.training for module in model.modules())
    model.eval()
    logits = model(dataset.normalise(chosen.images))
    assert found.accuracy == (logits.argmax(1) == chosen.labels).double().mean().item()
    assert found.loss == pytest.approx(F.cross_entropy(logits, chosen.labels).item(), rel=1e-5)


def test_evaluation_refuses_what_it_does_not_know() -> None:
    with pytest.raises(DisbudError, match="there is no split 'tests'; did you mean 'test'"):
        evaluate(network(), data(), split="tests")
    with pytest.raises(DisbudError, match="there is no precision 'fp16'"):
        evaluate(network(), data(), precision="fp16")


def test_the_result_reads_and_writes() -> None:
    result = disbud.train(network(), data(), recipe="digits:epochs=12,batch_size=32")
    assert result.recipe == disbud.training.parse_recipe("digits:epochs=12,batch_size=32")
    text = str(result)
    assert text.startswith(
        f"tiny, recipe digits:epochs=12,batch_size=32,warmup_epochs=0.12, seed 0: test accuracy {result.accuracy:.2%}"
    )
    assert len(text.splitlines()) == 11
    assert text.splitlines()[2].split()[0] == "1"
    assert text.splitlines()[-2].split()[0] == "12"
    written = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert written["accuracy"] == result.accuracy
    assert written["curve"][0] == {
        "epoch": 1,
        "train_loss": result.curve[0].train_loss,
        "test_loss": result.curve[0].test_loss,
        "test_accuracy": result.curve[0].test_accuracy,
        "lr": result.curve[0].lr,
    }
    assert result.curve[0] == Epoch(*written["curve"][0].values())
    assert result.images_per_second > 0
    assert 72 * 12 / result.images_per_second < result.seconds


def test_the_default_recipe_of_digits_trains_a_lenet_in_seconds() -> None:
    dataset = disbud.data.load("digits")
    model = disbud.models.build("lenet-300-100", input_shape=dataset.input_shape)
    result = disbud.train(model, dataset)
    assert str(result.recipe) == "digits"
    assert result.accuracy > 0.96
    assert result.curve[-1].train_loss < 0.02
