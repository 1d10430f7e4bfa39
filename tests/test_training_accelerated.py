"""accelerate=auto in a recipe: the same training, run by sparse kernels where they pay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import disbud
from disbud import Recipe, Ticket
from disbud.data import Dataset
from disbud.kernels import library
from disbud.models import build
from disbud.seeds import global_streams
from disbud.study import InProcess, Pool, Store, Trial, perform
from disbud.training import Progress, Result
from disbud.training.loop import train

OFF = Recipe(
    epochs=2, batch_size=64, lr=0.02, weight_decay=1e-4, augment="flip", clip_norm=5.0, channels_last=True
)
AUTO = OFF.changed(accelerate="auto")
NETWORK, DATA = "vgg11-bn:width=0.25", "shapes:size=16,train=320,test=100"

pytestmark = pytest.mark.skipif(library() is None, reason="the kernels need a C compiler")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return disbud.data.load(DATA)


def network(data: Dataset, *, seed: int = 0) -> nn.Module:
    with global_streams(seed, "init"):
        return build(NETWORK, input_shape=data.input_shape, classes=data.classes)


def a_ticket(model: nn.Module, *, sparsity: float = 0.95) -> Ticket:
    return disbud.prune(model, "random", sparsity=sparsity, densities="erk", seed=3)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_bits(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


def test_the_steps_are_those_of_dense_training_on_the_ticket(data: Dataset) -> None:
    """In two epochs of small steps rounding has not grown: curve, weights and running statistics are the same."""
    made: dict[str, tuple[Result, nn.Module]] = {}
    for name, recipe in (("off", OFF), ("auto", AUTO)):
        model = network(data)
        made[name] = train(model, data, ticket=a_ticket(model), recipe=recipe.changed(lr=1e-3), seed=5), model
    (dense, whole), (fast, thin) = made["off"], made["auto"]
    assert (dense.by_kernels, fast.by_kernels) == (False, True)
    for ours, theirs in zip(fast.curve, dense.curve, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-4)
        assert ours.test_loss == pytest.approx(theirs.test_loss, rel=1e-3)
        assert ours.lr == theirs.lr
    for key, tensor in state(whole).items():
        apart = (state(thin)[key].double() - tensor.double()).norm()
        # Biases in front of BatchNorm have no gradient but rounding's, and stay near zero.
        assert apart <= 1e-3 * tensor.double().norm() + 1e-5 * tensor.numel() ** 0.5, (key, apart)
    for name, mask in a_ticket(network(data)).masks.items():
        assert not thin.get_parameter(name)[~mask].any()
    assert "by sparse kernels" in str(fast)
    assert "kernels" not in str(dense)


def test_a_ticket_with_its_own_start_begins_there(data: Dataset) -> None:
    model = network(data)
    ticket = disbud.prune(
        model, "magnitude-after-training", sparsity=0.95, data=data, recipe=OFF.changed(epochs=1)
    )
    assert ticket.start is not None
    trained, begun = network(data, seed=9), network(data, seed=9)
    recipe = AUTO.changed(epochs=1, lr=1e-9, weight_decay=0.0)
    assert train(trained, data, ticket=ticket, recipe=recipe).by_kernels
    ticket.start_(begun)
    ticket.apply_(begun)
    for name in ticket.masks:
        assert torch.allclose(trained.get_parameter(name), begun.get_parameter(name), atol=1e-6), name


@pytest.mark.parametrize("stop_after", [3, 7])
def test_a_killed_run_goes_on_with_the_same_bits(data: Dataset, tmp_path: Path, stop_after: int) -> None:
    whole = network(data)
    wanted = train(whole, data, ticket=a_ticket(whole), recipe=AUTO, seed=5)
    assert wanted.by_kernels

    class Killed(BaseException):
        pass

    def kill(event: Progress) -> None:
        if (event.epoch - 1) * event.steps + event.step >= stop_after:
            raise Killed

    settings = {"recipe": AUTO, "seed": 5, "checkpoint": tmp_path / "run", "checkpoint_every": 1}
    first = network(data)
    before = state(first)
    with pytest.raises(Killed), pytest.MonkeyPatch.context() as patch:
        patch.setattr("disbud.training.loop._SECONDS_BETWEEN_EVENTS", 0.0)
        train(first, data, ticket=a_ticket(first), progress=kill, **settings)  # type: ignore[arg-type]
    # The model was trained up to there, as a dense one would have been.
    assert not torch.equal(first.state_dict()["classifier.weight"], before["classifier.weight"])
    again = network(data)
    found = train(again, data, ticket=a_ticket(again), **settings)  # type: ignore[arg-type]
    assert found == wanted
    assert same_bits(again, whole)


@pytest.mark.parametrize("why", ["no ticket", "small", "not followed"])
def test_what_would_not_gain_is_trained_as_it_is(data: Dataset, why: str) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(768, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(1)
            return self.inner(x if x.sum() > -1e9 else -x)

    def model() -> nn.Module:
        with global_streams(0, "init"):
            if why == "no ticket":
                return network(data)
            return Odd() if why == "not followed" else nn.Sequential(nn.Flatten(), nn.Linear(768, 10))

    def run(recipe: Recipe) -> tuple[Result, nn.Module]:
        made = model()
        ticket = None if why == "no ticket" else disbud.prune(made, "magnitude", sparsity=0.5)
        return train(made, data, ticket=ticket, recipe=recipe), made

    (dense, whole), (asked, thin) = run(OFF.changed(epochs=1)), run(AUTO.changed(epochs=1))
    assert not asked.by_kernels
    assert asked.curve == dense.curve
    assert same_bits(whole, thin)


def test_results_kept_before_the_setting_came_are_still_found() -> None:
    assert "accelerate" not in OFF.to_json()
    assert AUTO.to_json() == {**OFF.to_json(), "accelerate": "auto"}
    assert str(disbud.training.parse_recipe("digits:accelerate=auto")) == "digits:accelerate=auto"
    with pytest.raises(disbud.DisbudError, match=r"accelerate.*'on'"):
        OFF.changed(accelerate="on")


def test_trials_are_the_same_from_every_engine(tmp_path: Path) -> None:
    trial = Trial(NETWORK, DATA, "shapes:epochs=1,accelerate=auto", "random", 0.95)
    dense = Trial(NETWORK, DATA, "shapes:epochs=1", "random", 0.95)
    found = []
    for name, engine in (("here", InProcess()), ("pool", Pool(1))):
        with Store.open(tmp_path / name, write=True) as store, engine:
            records = perform([trial, dense], store=store, engine=engine)
            assert not any(record.failed for record in records.values())
            found.append((records[trial].accuracy, records[trial].curve, records[trial].identity))
            assert records[trial].identity != records[dense].identity
            assert records[trial].curve != records[dense].curve  # rounding: it was another computation
    assert found[0] == found[1]
