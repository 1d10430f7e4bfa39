"""A model on its ticket stays an ordinary model: saved, copied, loaded, moved, and left without a trace."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.optim import optimizer as torch_optimizers
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import disbud
from disbud import DisbudError, TicketError
from test_sparse import (
    OPTIMIZERS,
    a_ticket,
    assert_on_ticket,
    assert_plain,
    backward,
    gradients_off,
    inputs,
    network,
    off,
)


@pytest.fixture(autouse=True)
def _no_hook_is_left_on_optimizers() -> Iterator[None]:
    yield
    assert not torch_optimizers._global_optimizer_post_hooks


def test_state_dict_pickle_and_copies_are_those_of_a_plain_model() -> None:
    model = network()
    ticket = a_ticket(model)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    keys = list(model.state_dict())
    modules = [type(module) for module in model.modules()]
    with disbud.sparse(model, ticket, optimizer):
        backward(model)
        optimizer.step()
        assert list(model.state_dict()) == keys
        assert [type(module) for module in model.modules()] == modules
        saved = io.BytesIO()
        torch.save(model, saved)
        saved.seek(0)
        copies = [
            copy.deepcopy(model),
            copy.deepcopy(copy.deepcopy(model)),
            pickle.loads(pickle.dumps(model)),
            torch.load(saved, weights_only=False),
        ]
        pickle.dumps(optimizer)
        for twin in copies:
            assert_plain(twin)
            assert_on_ticket(twin, ticket)
            steps = OPTIMIZERS["adamw"](twin.parameters())
            backward(twin)
            steps.step()
            assert (off(twin, ticket) != 0).any(), "a copy keeps its zeros but is not guarded"
        assert_on_ticket(model, ticket)


def test_averages_keep_the_zeros() -> None:
    model = network()
    ticket = a_ticket(model)
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    outside = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    with disbud.sparse(model, ticket, optimizer):
        inside = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        for step in range(3):
            optimizer.zero_grad()
            backward(model, step)
            optimizer.step()
            for average in (inside, outside):
                average.update_parameters(model)
                assert_on_ticket(average.module, ticket)
    assert (inside.module[4].weight != model[4].weight).any()


@pytest.mark.parametrize("optimizer_too", ["with its optimizer", "alone"])
def test_saved_and_loaded_half_way(optimizer_too: str) -> None:
    def steps(model: nn.Module, optimizer: torch.optim.Optimizer, which: range) -> None:
        for step in which:
            optimizer.zero_grad()
            backward(model, step)
            optimizer.step()

    straight, ticket = network(), a_ticket(network())
    optimizer = OPTIMIZERS["adamw"](straight.parameters())
    with disbud.sparse(straight, ticket, optimizer):
        steps(straight, optimizer, range(3))
        saved = io.BytesIO()
        torch.save({"model": straight.state_dict(), "optimizer": optimizer.state_dict()}, saved)
        steps(straight, optimizer, range(3, 6))
    saved.seek(0)
    loaded = torch.load(saved, weights_only=True)
    resumed = network(seed=1)
    optimizer = OPTIMIZERS["adamw"](resumed.parameters())
    with disbud.sparse(resumed, ticket, optimizer):
        resumed.load_state_dict(loaded["model"])
        assert_on_ticket(resumed, ticket)
        if optimizer_too == "with its optimizer":
            optimizer.load_state_dict(loaded["optimizer"])
        steps(resumed, optimizer, range(3, 6))
        assert_on_ticket(resumed, ticket)
    same = all(
        torch.equal(value, resumed.state_dict()[name]) for name, value in straight.state_dict().items()
    )
    assert same == (optimizer_too == "with its optimizer")


def test_dense_weights_loaded_inside_are_pruned_by_the_next_step() -> None:
    model = network()
    ticket = a_ticket(model)
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    with disbud.sparse(model, ticket, optimizer):
        model.load_state_dict(network(seed=2).state_dict())
        backward(model)
        optimizer.step()
        assert_on_ticket(model, ticket)


def test_parameters_that_are_replaced_by_loading_are_followed() -> None:
    model = network()
    ticket = a_ticket(model)
    old = list(model.parameters())
    with disbud.sparse(model, ticket):
        model.load_state_dict(network(seed=2).state_dict(), assign=True)
        optimizer = OPTIMIZERS["momentum"](model.parameters())
        assert not any(new is before for new, before in zip(model.parameters(), old, strict=True))
        for step in range(2):
            optimizer.zero_grad()
            backward(model, step)
            optimizer.step()
            assert_on_ticket(model, ticket)
        assert not gradients_off(model, ticket).any()
    assert_plain(model)
    assert all(not parameter._post_accumulate_grad_hooks for parameter in old)  # type: ignore[attr-defined]


def test_an_exception_leaves_an_ordinary_model() -> None:
    model = network()
    ticket = a_ticket(model)
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    with pytest.raises(ZeroDivisionError), disbud.sparse(model, ticket, optimizer):
        backward(model)
        raise ZeroDivisionError
    assert_plain(model)
    model.zero_grad()
    backward(model)
    assert gradients_off(model, ticket).any()


def test_nested_blocks_keep_to_both_tickets() -> None:
    model = network()
    outer, inner = a_ticket(model, 0.5, seed=1), a_ticket(model, 0.5, seed=2)
    optimizer = OPTIMIZERS["adamw"](model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        backward(model)
        optimizer.step()

    with disbud.sparse(model, outer, optimizer):
        with disbud.sparse(model, inner, optimizer):
            step()
            assert_on_ticket(model, outer & inner)
            assert not gradients_off(model, outer & inner).any()
        step()
        assert_on_ticket(model, outer)
        assert (off(model, inner) != 0).any()
    assert_plain(model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_of_another_type_is_followed(dtype: torch.dtype) -> None:
    model = network()
    ticket = a_ticket(model)
    with disbud.sparse(model, ticket):
        model.to(dtype)
        optimizer = OPTIMIZERS["adamw"](model.parameters())
        x, y = inputs()
        nn.functional.cross_entropy(model(x.to(dtype)), y).backward()
        assert not gradients_off(model, ticket).any()
        optimizer.step()
        assert_on_ticket(model, ticket)
        assert off(model, ticket).dtype == dtype


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="needs an accelerator")
def test_a_model_moved_to_another_device_is_followed() -> None:
    device = torch.accelerator.current_accelerator()
    model = network()
    ticket = a_ticket(model)
    with disbud.sparse(model, ticket):
        model.to(device)
        optimizer = OPTIMIZERS["adamw"](model.parameters())
        x, y = (tensor.to(device) for tensor in inputs())
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        assert_on_ticket(model.cpu(), ticket)


def test_a_ticket_that_does_not_fit_changes_nothing() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    wider = nn.Sequential(nn.Conv2d(1, 5, 3, bias=False))
    with (
        pytest.raises(TicketError, match=r"0\.weight is 4x1x3x3 in the model and 5x1x3x3"),
        disbud.sparse(model, a_ticket(wider)),
    ):
        pass
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert_plain(model)


def test_an_optimizer_of_another_model_changes_nothing() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    other = torch.optim.SGD(network().parameters(), lr=0.1)
    with (
        pytest.raises(DisbudError, match="holds none of the parameters"),
        disbud.sparse(model, a_ticket(model), other),
    ):
        pass
    with (
        pytest.raises(DisbudError, match="this is a float; leave it out"),
        disbud.sparse(model, a_ticket(model), 0.1),
    ):  # type: ignore[arg-type]
        pass
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_parameter_taken_off_the_model_is_said() -> None:
    model = network()
    ticket = a_ticket(model)
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    with (
        pytest.raises(DisbudError, match=r"'4\.weight' was taken off the model inside disbud\.sparse"),
        disbud.sparse(model, ticket, optimizer),
    ):
        del model[4].weight
        optimizer.step()
    assert_plain(model)
