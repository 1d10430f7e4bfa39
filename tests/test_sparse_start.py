"""How a block of `disbud.sparse` begins and ends: on which weights, with what handed over, and after an error."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import disbud
from disbud import DisbudError, Ticket
from disbud.seeds import generator, global_streams
from disbud.ticket_file import start_of
from disbud.training.checkpoint import tensors


def network(seed: int = 0) -> nn.Sequential:
    with global_streams(seed, "init"):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 3))


def a_ticket(model: nn.Module) -> Ticket:
    draws = generator(0, "mask")
    masks = {
        name: torch.rand(model.get_parameter(name).shape, generator=draws) < 0.3 for name in ("1.weight",)
    }
    return Ticket.from_masks(masks, model=model)


def starting_from(other: nn.Module) -> Ticket:
    return replace(a_ticket(other), start=start_of({name: t.detach() for name, t in tensors(other).items()}))


def off(model: nn.Module, ticket: Ticket) -> torch.Tensor:
    return model.get_parameter("1.weight").detach()[~ticket.masks["1.weight"]]


def backward(model: nn.Module) -> None:
    F.cross_entropy(model(torch.randn(8, 64)), torch.arange(8) % 3).backward()


def has_hooks(model: nn.Module) -> bool:
    return any(parameter._post_accumulate_grad_hooks for parameter in model.parameters())  # type: ignore[attr-defined]


# the weights that a ticket must start from


def test_other_weights_than_those_the_ticket_starts_from_are_said() -> None:
    model, ticket = network(), starting_from(network(seed=1))
    before = copy.deepcopy(model.state_dict())
    guarded = disbud.sparse(model, ticket)
    with pytest.warns(
        UserWarning, match=r"starts from weights of its own.*ticket\.start_\(model\)"
    ) as caught:
        guarded.__enter__()
    assert caught[0].filename == __file__
    kept = ticket.masks["1.weight"]
    assert torch.equal(model[1].weight[kept], before["1.weight"][kept])
    guarded.__exit__(None, None, None)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) or name == "1.weight"


@pytest.mark.parametrize(
    "how", ["started", "started and pruned", "another layer", "no start", "trained by disbud"]
)
def test_nothing_is_said_of_weights_that_are_meant(how: str) -> None:
    model, ticket = network(), starting_from(network(seed=1))
    if how == "no start":
        ticket = replace(ticket, start=None)
    else:
        ticket.start_(model)
    if how == "started and pruned":
        ticket.apply_(model)
    if how == "another layer":
        nn.init.zeros_(model[4].weight)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if how == "trained by disbud":
            images, labels = torch.rand(30, 1, 8, 8), torch.arange(30) % 3
            data = disbud.data.from_tensors(images, labels)
            disbud.train(network(seed=2), data, ticket=ticket, recipe="digits:epochs=1")
        with disbud.sparse(model, ticket):
            pass


def test_starting_weights_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    ticket = starting_from(network())
    ticket.save(tmp_path / "t")
    assert ticket.start is not None
    (tmp_path / ticket.start.file).unlink()
    with (
        pytest.warns(UserWarning, match="the weights this ticket starts from cannot be read"),
        disbud.sparse(network(), Ticket.load(tmp_path / "t")),
    ):
        pass


# the end of the block


def test_apply_after_the_block_leaves_no_hooks() -> None:
    model = network()
    ticket = a_ticket(model)
    with disbud.sparse(model, ticket) as guard:
        assert has_hooks(model)
    nn.init.ones_(model[1].weight)
    guard.apply_()
    assert not off(model, ticket).any()
    assert not has_hooks(model)
    backward(model)
    assert model[1].weight.grad[~ticket.masks["1.weight"]].any()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_in_the_block_leaves_the_model_on_its_ticket(error: type[BaseException]) -> None:
    model, dense = network(), network(seed=1)
    ticket = a_ticket(model)
    with pytest.raises(error), disbud.sparse(model, ticket):
        backward(model)
        model.load_state_dict(dense.state_dict())
        assert off(model, ticket).any()
        raise error
    assert not off(model, ticket).any()
    assert not has_hooks(model)


def test_the_error_of_the_block_is_the_one_that_is_seen() -> None:
    model = network()
    with pytest.raises(ZeroDivisionError), disbud.sparse(model, a_ticket(model)):
        del model[1].weight
        raise ZeroDivisionError
    assert not has_hooks(model)


# what is handed over


@pytest.mark.parametrize(
    ("ticket", "said"),
    [
        ("t.safetensors", r"disbud\.Ticket\.load\('t\.safetensors'\)"),
        (Path("t.safetensors"), r"disbud\.Ticket\.load\('t\.safetensors'\)"),
        ({"1.weight": torch.ones(20, 64)}, r"not a dict; disbud\.Ticket\.from_masks\(masks, model=model\)"),
        (0.9, "a ticket is a disbud.Ticket, not a float"),
    ],
)
def test_what_is_no_ticket_is_answered_with_what_would_do(ticket: object, said: str) -> None:
    with pytest.raises(DisbudError, match=said), disbud.sparse(network(), ticket):  # type: ignore[arg-type]
        pass


def test_what_is_no_model_is_said() -> None:
    with (
        pytest.raises(DisbudError, match=r"a model is a torch\.nn\.Module, not a str"),
        disbud.sparse("lenet", a_ticket(network())),  # type: ignore[arg-type]
    ):
        pass
