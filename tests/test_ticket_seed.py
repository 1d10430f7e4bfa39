"""Which seed drew the weights that a ticket was made for, however often the ticket was changed since."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import disbud
from disbud import Origin, Ticket, interventions
from disbud.interventions.catalogue import CATALOGUE

MASK = {"weight": torch.arange(12).reshape(3, 4) % 3 == 0}


def made(seed: int) -> Ticket:
    return disbud.prune(nn.Linear(4, 3), "magnitude", sparsity=0.5, seed=seed)


def changed(ticket: Ticket, name: str) -> Ticket:
    """The ticket after that intervention at seed 7."""
    model = nn.Linear(4, 3)
    entry = CATALOGUE[name]
    needs = {"model": model, "example": torch.zeros(1, 4)}
    if entry.acts_on == "mask":
        return interventions.on_mask(
            ticket, name, seed=7, **{key: value for key, value in needs.items() if key in entry.needs}
        )
    settings = {"init": "kaiming-normal"} if name == "reinit" else {}
    return interventions.on_weights(model.state_dict(), ticket, name, seed=7, **settings)[1]


def test_a_pruned_ticket_has_the_seed_it_was_pruned_with() -> None:
    assert made(3).origin.model_seed() == 3
    assert Origin("given").model_seed() is None
    assert Ticket(MASK).origin.model_seed() is None


@pytest.mark.filterwarnings("ignore:.*left every mask as it was")
@pytest.mark.parametrize("name", [name for name, entry in CATALOGUE.items() if entry.acts_on != "data"])
def test_an_intervention_has_a_seed_of_its_own_that_drew_no_weights(name: str) -> None:
    outcome = changed(made(3), name)
    assert outcome.origin.method == name
    assert outcome.origin.model_seed() == 3
    assert changed(Ticket(MASK), name).origin.model_seed() is None


def test_what_is_combined_has_the_seed_of_its_parts() -> None:
    three, four = made(3), made(4)
    assert (~three).origin.model_seed() == 3
    assert (three & four).origin.model_seed() == 3
    assert (Ticket(MASK) | four).origin.model_seed() == 4
    assert (~changed(~three, "shuffle")).origin.model_seed() == 3


def test_a_method_that_reads_another_ticket_has_its_own_seed() -> None:
    like = disbud.prune(nn.Linear(4, 3), "random-like", densities=made(3), seed=4)
    assert like.origin.parents == (made(3).origin,)
    assert like.origin.model_seed() == 4
    assert changed(like, "shuffle").origin.model_seed() == 4
