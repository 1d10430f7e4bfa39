"""What an accelerated model holds goes out and comes back: states, copies, the dense model; and what is refused."""

from __future__ import annotations

import copy
import io
import pickle
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

import disbud
from acceleration_networks import apart, furthest, made, planned
from disbud.acceleration import accelerate

# Of the dense model, for windows of even size.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
CLOSE = 1e-4


def trained(fast: nn.Module, x: torch.Tensor, *, steps: int = 2) -> None:
    optimizer = torch.optim.SGD(fast.parameters(), lr=0.05, momentum=0.9)
    fast.train()
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(fast(x), torch.arange(len(x)) % 4).backward()
        optimizer.step()


@pytest.mark.parametrize("network", ["vgg", "residual", "sequence", "choosing"])
def test_states_come_back_sparse_and_dense(network: str) -> None:
    model, ticket, x = made(network)
    fast = planned(model, ticket, x, "sparse")
    trained(fast, x)
    assert all(
        value.numel() == int(ticket.masks[name.removeprefix("module.")].sum())
        for name, value in fast.state_dict().items()
        if name.removeprefix("module.") in ticket.masks
    )
    file = io.BytesIO()
    torch.save(fast.state_dict(), file)
    file.seek(0)
    again = planned(model, ticket, x, "mixed")
    again.load_state_dict(torch.load(file, weights_only=True))
    assert apart(again.eval()(x), fast.eval()(x)) < CLOSE

    dense = fast.dense_state()
    assert {name: value.shape for name, value in dense.items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }
    model.load_state_dict(dense)
    assert apart(model.eval()(x), fast(x)) < CLOSE
    other = planned(made(network)[0], ticket, x, "sparse")
    assert apart(other.eval()(x), fast(x)) > CLOSE
    other.load_dense_state(dense)
    assert furthest(dict(other.state_dict()), dict(fast.state_dict())) == 0
    dense[next(iter(dense))].zero_()  # copies, so that what is held does not move
    assert furthest(dict(other.state_dict()), dict(fast.state_dict())) == 0


@pytest.mark.parametrize("network", ["vgg", "choosing"])
def test_finish_gives_the_dense_model(network: str) -> None:
    model, ticket, x = made(network)
    fast = planned(model, ticket, x, "mixed")
    trained(fast, x)
    wanted = fast.eval()(x)
    finished = fast.finish()
    assert type(finished) is type(model)
    assert apart(finished.eval()(x), wanted) < CLOSE
    assert fast.finish(model) is model
    assert apart(model.eval()(x), wanted) < CLOSE
    for name, mask in ticket.masks.items():
        assert not model.get_parameter(name)[~mask].any()
        assert isinstance(finished.get_parameter(name), nn.Parameter)
    optimizer = torch.optim.SGD(finished.parameters(), lr=0.1)
    finished(x).sum().backward()
    optimizer.step()
    assert apart(fast(x), wanted) < 1e-6  # the finished model is one by itself


def test_a_copy_is_one_by_itself() -> None:
    model, ticket, x = made("residual")
    fast = planned(model, ticket, x, "sparse").eval()
    wanted = fast(x)
    other = copy.deepcopy(fast)
    assert apart(other(x), wanted) == 0
    trained(other, x)
    assert apart(fast.eval()(x), wanted) == 0
    assert apart(other.eval()(x), wanted) > CLOSE
    assert all(a is not b for a, b in zip(fast.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("network", ["vgg", "residual", "depthwise", "joined"])
def test_pickled_it_is_the_same_network_trained_as_far(network: str) -> None:
    model, ticket, x = made(network)
    fast = planned(model, ticket, x, "mixed")
    trained(fast, x)
    again = pickle.loads(pickle.dumps(fast))
    assert torch.equal(again.eval()(x), fast.eval()(x))
    assert apart(again.finish().eval()(x), fast(x)) < CLOSE


def test_weights_of_another_ticket_are_not_taken_for_this_ones() -> None:
    model, ticket, x = made("vgg")
    fast = planned(model, ticket, x, "sparse")
    moved = disbud.Ticket.from_masks({name: mask.flip(0) for name, mask in ticket.masks.items()}, model=model)
    other = accelerate(model, moved, example=x, plan="model")
    with pytest.raises(RuntimeError, match="another ticket"):
        fast.load_state_dict(other.state_dict())
    fast.load_dense_state(other.dense_state())
    with pytest.raises(disbud.DisbudError, match=r"lacks 4\.bias"):
        fast.load_dense_state({k: v for k, v in other.dense_state().items() if k != "4.bias"})
    with pytest.raises(disbud.DisbudError, match="load_state_dict"):
        fast.load_dense_state({k.removeprefix("module."): v for k, v in fast.module.state_dict().items()})


def test_what_cannot_be_is_refused() -> None:
    model, ticket, x = made("vgg")
    fast = planned(model, ticket, x, "sparse")
    with pytest.raises(disbud.DisbudError, match=r"float64.*finish\(\)"):
        fast.double()
    with pytest.raises(disbud.DisbudError, match="bfloat16"):
        fast.to(torch.bfloat16)
    assert fast.float() is fast
    assert apart(fast.eval()(x), model.eval()(x)) < CLOSE
    with pytest.raises(disbud.DisbudError, match=r"float\(\)\.cpu\(\)"):
        accelerate(copy.deepcopy(model).double(), ticket, example=x.double())
    with pytest.raises(disbud.DisbudError, match="accelerated already"):
        accelerate(fast, ticket, example=x)
    with pytest.raises(disbud.DisbudError, match="there is no plan 'autos'; did you mean 'auto'"):
        accelerate(model, ticket, example=x, plan="autos")
    with pytest.raises(disbud.DisbudError, match=r"'0\.weigth'; did you mean '0\.weight'"):
        accelerate(model, ticket, example=x, plan={"0.weigth": "sparse"})
    with pytest.raises(disbud.DisbudError, match="'sparse' or 'dense'"):
        accelerate(model, ticket, example=x, plan={"0.weight": "quick"})
    with pytest.raises(disbud.DisbudError, match="does not fit the model's forward"):
        accelerate(model, ticket, example={"y": x})


def test_the_model_given_is_left_as_it_was() -> None:
    model, ticket, x = made("joined")
    state = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    stream = torch.random.get_rng_state()
    trained(accelerate(model, ticket, example=x, plan="model"), x)
    assert furthest(dict(model.state_dict()), dict(state)) == 0
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), stream)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("compact", [True, "auto"])
def test_compaction_comes_first_and_the_way_back_is_the_dense_models(compact: bool | str) -> None:
    model, _, x = made("vgg")
    ticket = disbud.prune(model, "synflow", sparsity=0.95, example=x)
    fast = accelerate(model, ticket, example=x, plan="model", compact=compact)
    assert sum(p.numel() for p in fast.parameters()) < ticket.kept + sum(
        p.numel() for name, p in model.named_parameters() if name not in ticket.masks
    )
    ticket.apply_(model)
    assert apart(fast.eval()(x), model.eval()(x)) < CLOSE
    trained(fast, x)
    fast.eval()
    assert apart(fast.finish().eval()(x), fast(x)) < CLOSE
    assert fast.finish(model) is model
    assert apart(model(x), fast(x)) < CLOSE
    again = accelerate(model, ticket, example=x, plan="model", compact=compact)
    trained(again, x)
    again.load_dense_state(fast.dense_state())
    assert apart(again.eval()(x), fast(x)) < 1e-6
    assert apart(copy.deepcopy(fast)(x), fast(x)) < 1e-6


def test_plans_are_explained_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISBUD_CACHE", str(tmp_path))
    model, ticket, x = made("residual", sparsity=0.9)
    fast = accelerate(model, ticket, example=x, plan="auto")
    assert set(fast.plan.values()) <= {"sparse", "dense"}
    entries = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert accelerate(model, ticket, example=x, plan="auto").plan == fast.plan
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == entries
    assert dict(accelerate(model, ticket, example=x, plan=fast.plan).plan) == dict(fast.plan)
    buffers = {name: value.clone() for name, value in fast.named_buffers()}
    told = fast.explain(on=x)
    assert [row.layer for row in told.rows] == list(fast.plan)
    assert all(row.forward > 0 and row.backward > 0 for row in told.rows)
    assert all(
        row.kept == int(ticket.masks[row.layer].sum()) for row in told.rows if row.layer in ticket.masks
    )
    assert "backward ms" in str(told)
    assert "normalisation" in str(told)
    assert furthest(dict(fast.named_buffers()), buffers) == 0
    assert all(parameter.grad is None for parameter in fast.parameters())


def test_the_cost_model_is_the_same_everywhere_and_knows_what_pays() -> None:
    model = disbud.models.build("vgg11-bn")
    ticket = disbud.prune(model, "random", sparsity=0.98, densities="uniform", seed=0)
    x = torch.zeros(16, 3, 32, 32)
    plan = accelerate(model, ticket, example=x, plan="model").plan
    assert accelerate(model, ticket, example=x, plan="model").plan == plan
    assert list(plan.values()).count("sparse") >= len(plan) - 2
    whole = disbud.Ticket.from_masks({name: torch.ones_like(mask) for name, mask in ticket.masks.items()})
    dense = accelerate(model, whole, example=x, plan="model").plan
    # The first layer has few inputs, so that the way between layouts would cost more than its multiply-adds.
    assert list(dense.values())[3:8] == ["dense"] * 5


def test_a_state_of_another_ticket_leaves_the_weights_alone_every_time() -> None:
    model, ticket, x = made("vgg")
    fast = planned(model, ticket, x, "sparse")
    before = copy.deepcopy(fast.state_dict())
    moved = disbud.Ticket.from_masks({name: mask.flip(0) for name, mask in ticket.masks.items()}, model=model)
    other = accelerate(model, moved, example=x, plan="model")
    trained(other, x)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="another ticket"):
            fast.load_state_dict(other.state_dict())
        assert furthest(dict(fast.state_dict()), dict(before)) == 0
    fast.load_state_dict(before)


def with_dead_channels() -> tuple[nn.Module, disbud.Ticket, torch.Tensor]:
    """A network of whose eight channels three have no weights, and say nothing while BatchNorm's shift is zero."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    masks = {"0.weight": torch.ones(8, 3, 3, 3) > 0, "5.weight": torch.ones(4, 8) > 0}
    masks["0.weight"][2:5] = False
    return model, disbud.Ticket.from_masks(masks), torch.randn(4, 3, 6, 6)


def test_a_state_in_which_removed_channels_speak_is_refused() -> None:
    model, ticket, x = with_dead_channels()
    fast = accelerate(model, ticket, example=x, plan="model", compact=True)
    state = copy.deepcopy(model.state_dict())
    state["0.weight"][2:5] = 7.0  # off the ticket, which counts for nothing
    state["1.bias"][0] = 0.5
    fast.load_dense_state(state)
    before = fast.dense_state()
    assert float(before["1.bias"][0]) == 0.5
    state["1.bias"][3] = 0.5
    with pytest.raises(disbud.DisbudError, match=r"channels that compaction removed, in 1\.bias;"):
        fast.load_dense_state(state)
    assert furthest(fast.dense_state(), before) == 0


def test_finishing_a_compacted_model_keeps_the_mode_of_each_part() -> None:
    model, ticket, x = with_dead_channels()
    model.train()
    model[1].eval()
    for compact in (False, True):
        finished = accelerate(model, ticket, example=x, plan="model", compact=compact).finish()
        assert [m.training for m in finished.modules()] == [m.training for m in model.modules()]


class Transposed(nn.Module):
    """A pruned layer that no kernel runs."""

    def __init__(self, *, inplace: bool = False) -> None:
        super().__init__()
        self.first, self.up = nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 8, 2)
        self.relu, self.head = nn.ReLU(inplace=inplace), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.relu(self.up(self.first(x))).mean((2, 3)))
        return logits


def test_calls_at_the_same_time_do_not_meet() -> None:
    model, x = Transposed(), torch.randn(4, 3, 6, 6)
    ticket = disbud.prune(model, "random", sparsity=0.5, example=x)
    ticket = disbud.Ticket.from_masks({**ticket.masks, "up.weight": torch.rand(8, 8, 2, 2) < 0.5})
    fast = accelerate(model, ticket, example=x, plan="model").eval()
    with torch.no_grad():
        wanted = fast(x)
    state = copy.deepcopy(fast.state_dict())
    off: list[float] = []

    def call() -> None:
        for _ in range(100):
            with torch.no_grad():
                off.append(apart(fast(x), wanted))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(off) == 300
    assert max(off) < CLOSE
    assert furthest(dict(fast.state_dict()), dict(state)) == 0
    assert isinstance(fast.module.get_parameter("up.weight"), nn.Parameter)


@pytest.mark.parametrize("inplace", [False, True])
def test_explaining_runs_what_the_model_runs_and_leaves_gradients(*, inplace: bool) -> None:
    model, x = Transposed(inplace=inplace), torch.randn(4, 3, 6, 6)
    masks = {name: torch.rand(p.shape) < 0.5 for name, p in model.named_parameters() if p.dim() > 1}
    fast = accelerate(model, disbud.Ticket.from_masks(masks), example=x, plan="model")
    fast(x).square().sum().backward()
    before = {name: p.grad.clone() for name, p in fast.named_parameters()}
    told = fast.explain(on=x)
    assert told.rest is not None
    assert told.rest["torch"][1] > 0
    assert furthest({name: p.grad for name, p in fast.named_parameters()}, before) == 0


def test_a_batch_too_small_to_time_is_refused() -> None:
    model, x = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)), torch.randn(4, 6)
    fast = accelerate(model, disbud.prune(model, "random", sparsity=0.5), example=x, plan="model")
    with pytest.raises(disbud.DisbudError, match="more than one input"):
        fast.explain(on=x[:1])


def test_a_frozen_first_layer_is_measured() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
    model[0].requires_grad_(False)
    ticket = disbud.prune(model, "random", sparsity=0.9, densities="uniform")
    x = torch.randn(16, 3, 8, 8)
    names = [name for name in accelerate(model, ticket, example=x).plan]
    assert names == ["0.weight", "2.weight"]


def test_what_was_measured_need_not_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ticket, x = made("residual", sparsity=0.9)
    accelerate(model, ticket, example=x, plan="model")  # the kernels are there
    (tmp_path / "file").touch()
    monkeypatch.setenv("DISBUD_CACHE", str(tmp_path / "file" / "cache"))
    fast = accelerate(model, ticket, example=x, plan="auto")
    assert any(row.why.startswith("measured") for row in fast.explain().rows)


def test_a_model_that_cannot_be_copied_is_refused_in_words() -> None:
    model = nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(12, 8)), nn.ReLU(), nn.Linear(8, 2))
    ticket = disbud.Ticket.from_masks({"2.weight": torch.rand(2, 8) < 0.5})
    with pytest.raises(disbud.DisbudError, match="cannot be copied"):
        accelerate(model, ticket, example=torch.randn(4, 12), plan="model")


def test_outputs_that_are_rounding_are_not_held_against_it() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8, track_running_stats=False))
    ticket = disbud.Ticket.from_masks({"0.weight": torch.zeros(8, 3, 3, 3) > 0})
    x = torch.randn(4, 3, 6, 6)
    fast = accelerate(model, ticket, example=x, plan={"0.weight": "sparse"})
    ticket.apply_(model)
    assert float((fast(x) - model(x)).detach().abs().max()) < 1e-3


class Remembering(nn.Linear):
    """A layer with a state that is no tensor."""

    def get_extra_state(self) -> dict[str, int]:
        return {"epoch": getattr(self, "epoch", 3)}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.epoch = state["epoch"]


def test_states_hold_what_is_no_tensor() -> None:
    model, x = nn.Sequential(Remembering(6, 6), nn.ReLU(), nn.Linear(6, 2)), torch.randn(4, 6)
    model[0].epoch = 5
    ticket = disbud.Ticket.from_masks({"2.weight": torch.rand(2, 6) < 0.5})
    fast = accelerate(model, ticket, example=x, plan="model")
    state = fast.dense_state()
    assert state.keys() == model.state_dict().keys()
    assert state["0._extra_state"] == {"epoch": 5}
    model[0].epoch = 7
    fast.load_dense_state(model.state_dict())
    assert fast.dense_state()["0._extra_state"] == {"epoch": 7}
    assert fast.finish()[0].epoch == 7
