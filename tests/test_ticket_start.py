"""The weights a ticket starts from: with it in memory, beside it on the disk, and the same bits in both."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

import disbud
from disbud import Ticket, TicketError
from disbud.origin import Start
from disbud.ticket_file import start_of
from trained_cases import bits, digits, network, started, state_of


def a_ticket(seed: int = 3) -> Ticket:
    """Some masks, and trained weights to start from that no model in these tests has."""
    model = network(seed)
    disbud.train(model, digits(), recipe="digits:epochs=1")
    masks = disbud.prune(model, "magnitude", sparsity=0.7).to_masks()
    return Ticket(masks, start=start_of(state_of(model)))


@pytest.fixture(scope="module")
def ticket() -> Ticket:
    return a_ticket()


def test_the_weights_travel_with_the_ticket_until_it_is_saved(ticket: Ticket) -> None:
    expected = bits(started(ticket))
    for twin in (copy.deepcopy(ticket), pickle.loads(pickle.dumps(ticket)), ~~ticket, ticket & ticket):
        assert twin.start == ticket.start
        assert bits(started(twin)) == expected
    assert "content" not in repr(ticket.start)


def test_a_saved_ticket_trains_bit_for_bit_as_the_one_in_memory(tmp_path: Path, ticket: Ticket) -> None:
    (tmp_path / "elsewhere").mkdir()
    ticket.save(tmp_path / "elsewhere" / "a.ticket.safetensors")
    loaded = Ticket.load(tmp_path / "elsewhere" / "a.ticket.safetensors")
    assert loaded == ticket
    assert loaded.start == ticket.start
    assert loaded.start is not None
    assert loaded.start.content is None
    states = []
    for one, seed in ((ticket, 0), (loaded, 8)):
        model = network(seed)
        disbud.train(model, digits(), ticket=one, recipe="digits:epochs=2")
        states.append(bits(state_of(model)))
    assert states[0] == states[1]
    without = network(0)
    disbud.train(without, digits(), ticket=Ticket(ticket.to_masks()), recipe="digits:epochs=2")
    assert bits(state_of(without)) != states[0]


def test_tickets_of_one_start_share_its_file(tmp_path: Path, ticket: Ticket) -> None:
    assert ticket.start is not None
    for name in ("a", "b"):
        (ticket & ticket).save(tmp_path / name)
    weights = tmp_path / ticket.start.file
    assert sorted(os.listdir(tmp_path)) == sorted(["a", "b", weights.name])
    written = weights.stat().st_mtime_ns
    ticket.save(tmp_path / "c")
    assert weights.stat().st_mtime_ns == written
    a_ticket(seed=4).save(tmp_path / "d")
    assert len(os.listdir(tmp_path)) == 6


def test_a_loaded_ticket_takes_its_weights_along_to_another_folder(tmp_path: Path, ticket: Ticket) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    ticket.save(tmp_path / "one" / "t")
    Ticket.load(tmp_path / "one" / "t").save(tmp_path / "two" / "t")
    for file in (tmp_path / "one").iterdir():
        file.unlink()
    assert bits(started(Ticket.load(tmp_path / "two" / "t"))) == bits(started(ticket))


def test_damaged_weights_are_refused_and_saving_again_mends_them(tmp_path: Path, ticket: Ticket) -> None:
    assert ticket.start is not None
    ticket.save(tmp_path / "t")
    weights = tmp_path / ticket.start.file
    weights.write_bytes(weights.read_bytes()[:-1])
    model = network()
    before = bits(state_of(model))
    with pytest.raises(TicketError, match="these are not the weights the ticket was saved with"):
        Ticket.load(tmp_path / "t").start_(model)
    assert bits(state_of(model)) == before
    ticket.save(tmp_path / "t")
    assert bits(started(Ticket.load(tmp_path / "t"))) == bits(started(ticket))


def test_a_file_of_the_users_is_not_written_over(tmp_path: Path, ticket: Ticket) -> None:
    assert ticket.start is not None
    assert ticket.start.content is not None
    named = Start("weights.safetensors", ticket.start.sha256, content=ticket.start.content)
    (tmp_path / "weights.safetensors").write_text("mine")
    with pytest.raises(
        TicketError, match=r"weights\.safetensors is not the file of weights .* another folder"
    ):
        Ticket(ticket.to_masks(), start=named).save(tmp_path / "t")
    assert (tmp_path / "weights.safetensors").read_text() == "mine"
    assert not (tmp_path / "t").exists()
    (tmp_path / "weights.safetensors").unlink()
    Ticket(ticket.to_masks(), start=named).save(tmp_path / "t")
    assert bits(started(Ticket.load(tmp_path / "t"))) == bits(started(ticket))


def test_a_ticket_whose_weights_are_nowhere_is_not_saved(tmp_path: Path) -> None:
    lost = Ticket({"w": torch.ones(2).bool()}, start=Start("lost.safetensors", "0" * 64, str(tmp_path)))
    with pytest.raises(TicketError, match=r"lost\.safetensors: the weights .* cannot be read: No such file"):
        lost.save(tmp_path / "t")
    assert os.listdir(tmp_path) == []


def test_content_that_is_not_what_its_hash_says_is_refused() -> None:
    forged = Ticket({"weight": torch.ones(2, 2).bool()}, start=Start("x", "0" * 64, content=b"other"))
    with pytest.raises(TicketError, match="these are not the weights"):
        forged.start_(nn.Linear(2, 2))


def test_wrapped_models_start_too(ticket: Ticket) -> None:
    model = network()
    ticket.start_(nn.DataParallel(model))
    assert bits(state_of(model)) == bits(started(ticket))


def test_what_rewrites_weights_drops_the_start_and_what_moves_masks_keeps_it(ticket: Ticket) -> None:
    model = network()
    ticket.start_(model)
    for name in ("permute-values", "sign-only", "reinit:init=kaiming-normal"):
        _, changed = disbud.interventions.on_weights(model.state_dict(), ticket, name, seed=1)
        assert changed.start is None
    shuffled = disbud.interventions.on_mask(ticket, "shuffle", seed=1)
    assert shuffled.start == ticket.start
    assert bits(started(shuffled)) == bits(started(ticket))
