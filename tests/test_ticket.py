"""Tickets as values: equality, set operations, counts, fitting a model, what people read."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import disbud
from disbud import Origin, Ticket, TicketError
from disbud.origin import Start


def net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def bits(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.bool)


masks = st.lists(st.booleans(), min_size=1, max_size=70).map(lambda b: torch.tensor(b))


@given(st.data(), st.integers(1, 70))
def test_set_operations_are_those_of_the_masks(data: st.DataObject, size: int) -> None:
    boolean = st.lists(st.booleans(), min_size=size, max_size=size).map(torch.tensor)
    a, b = Ticket({"w": data.draw(boolean)}), Ticket({"w": data.draw(boolean)})
    assert torch.equal((a & b).masks["w"], a.masks["w"] & b.masks["w"])
    assert torch.equal((a | b).masks["w"], a.masks["w"] | b.masks["w"])
    assert ~~a == a
    assert (a & b).kept + (a | b).kept == a.kept + b.kept
    assert a.kept + (~a).kept == size
    assert (a == b) == torch.equal(a.masks["w"], b.masks["w"])
    if a == b:
        assert hash(a) == hash(b)


def test_set_operations_record_both_parents() -> None:
    a, b = Ticket({"w": bits(1, 0)}, Origin("snip")), Ticket({"w": bits(1, 1)}, Origin("synflow"))
    assert [parent.method for parent in (a & b).origin.parents] == ["snip", "synflow"]
    assert (a | b).origin.method == "or"
    assert (~a).origin.parents == (a.origin,)


def test_equality_looks_at_names_shapes_and_bits_only() -> None:
    mask = bits(1, 0, 1, 0)
    assert Ticket({"w": mask}, Origin("a")) == Ticket({"w": mask.clone()}, Origin("b"))
    assert Ticket({"w": mask}) != Ticket({"v": mask})
    assert Ticket({"w": mask}) != Ticket({"w": mask.view(2, 2)})
    assert Ticket({"w": mask}) != Ticket({"w": ~mask})
    assert Ticket({"w": mask}) != "a ticket"


def test_tickets_of_different_models_or_starts_do_not_combine() -> None:
    a = Ticket({"w": bits(1, 0)})
    with pytest.raises(TicketError, match="different models: they differ in v"):
        a & Ticket({"w": bits(1, 0), "v": bits(1)})
    with pytest.raises(TicketError, match="start from different weights"):
        a | Ticket({"w": bits(1, 0)}, start=Start("x.safetensors", "0" * 64))
    with pytest.raises(TypeError):
        a & 3  # type: ignore[operator]


def test_counts_and_densities() -> None:
    ticket = Ticket({"a": torch.tensor([[1, 0], [0, 0]]).bool(), "b": torch.zeros(3, 2).bool()})
    assert (ticket.kept, ticket.total, ticket.density, ticket.sparsity) == (1, 10, 0.1, 0.9)
    assert ticket.densities() == {"a": 0.25, "b": 0.0}
    assert ticket.empty_layers == ("b",)
    a, b = ticket.layers
    assert (a.empty_rows, a.empty_columns) == (1, 1)
    assert (b.empty_rows, b.empty_columns) == (3, 2)


def test_rows_and_columns_of_a_convolution_are_whole_kernels() -> None:
    mask = torch.zeros(3, 2, 3, 3, dtype=torch.bool)
    mask[0, 1, 2, 2] = True
    (row,) = Ticket({"w": mask}).layers
    assert (row.empty_rows, row.empty_columns) == (2, 1)


def test_the_text_flags_empty_layers() -> None:
    ticket = Ticket({"first.weight": torch.eye(4).bool(), "last.weight": torch.zeros(2, 4).bool()})
    text = str(ticket)
    assert "1 of 2 layers EMPTY" in text.splitlines()[0]
    flagged = [line for line in text.splitlines() if "nothing passes" in line]
    assert len(flagged) == 1
    assert flagged[0].startswith("last.weight")


def test_a_ticket_is_frozen_and_its_masks_are_copies() -> None:
    mask = torch.ones(2, 2, dtype=torch.bool)
    ticket = Ticket.from_masks({"w": mask})
    mask[0, 0] = False
    assert ticket.kept == 4
    ticket.to_masks()["w"][0, 0] = False
    assert ticket.masks["w"].all()
    with pytest.raises(dataclasses.FrozenInstanceError):
        ticket.start = None  # type: ignore[misc]
    with pytest.raises(TypeError):
        ticket.masks["w"] = mask  # type: ignore[index]


def test_masks_from_numbers_must_be_zeros_and_ones() -> None:
    assert Ticket.from_masks({"w": torch.tensor([1.0, 0.0])}).kept == 1
    with pytest.raises(TicketError, match="'w' has values other than 0"):
        Ticket.from_masks({"w": torch.tensor([0.5, 0.0])})
    with pytest.raises(TicketError, match="values other than 0"):
        Ticket.from_masks({"w": torch.tensor([float("nan"), 0.0])})
    with pytest.raises(TicketError, match=r"torch\.bool, not torch\.float32"):
        Ticket({"w": torch.ones(2)})
    with pytest.raises(TicketError, match="at least one"):
        Ticket({})


def test_apply_zeroes_what_is_off_the_ticket_even_where_it_is_not_finite() -> None:
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[float("nan"), -1.0, 2.0]]))
    Ticket.from_masks({"weight": torch.tensor([[0, 0, 1]])}).apply_(model)
    assert model.weight.tolist() == [[0.0, 0.0, 2.0]]
    assert not torch.signbit(model.weight).any()


def test_check_names_what_does_not_fit() -> None:
    model = net()
    ticket = disbud.prune(model, "magnitude", sparsity=0.5)
    ticket.check(net(1))
    with pytest.raises(TicketError, match=r"no parameter 4\.weight"):
        ticket.check(nn.Sequential(nn.Conv2d(2, 4, 3)))
    with pytest.raises(TicketError, match=r"4\.weight is 3x36 in the model and 3x16 in the ticket"):
        ticket.check(
            nn.Sequential(nn.Conv2d(2, 4, 3), nn.Identity(), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
        )
    other = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Identity(), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    with pytest.warns(UserWarning, match="other parameters differ"):
        ticket.check(other)


def test_a_ticket_that_does_not_fit_changes_nothing() -> None:
    model = nn.Linear(4, 4)
    before = copy.deepcopy(model.state_dict())
    bad = Ticket({"weight": torch.zeros(4, 4).bool(), "missing": bits(0)})
    with pytest.raises(TicketError):
        bad.apply_(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_wrapper_prefixes_are_stripped() -> None:
    ticket = Ticket.from_masks({"module._orig_mod.weight": torch.ones(2, 2)}, model=nn.Linear(2, 2))
    assert list(ticket.masks) == ["weight"]
    ticket.check(nn.DataParallel(nn.Linear(2, 2)))


def test_tickets_travel_between_processes() -> None:
    ticket = disbud.prune(net(), "magnitude", sparsity=0.5)
    for twin in (pickle.loads(pickle.dumps(ticket)), copy.deepcopy(ticket)):
        assert twin == ticket
        assert twin.origin == ticket.origin
