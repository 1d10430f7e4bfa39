"""What an accelerated model holds goes out and comes back: states, copies, the dense model; and what is refused."""

from __future__ import annotations

import copy
import io
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
