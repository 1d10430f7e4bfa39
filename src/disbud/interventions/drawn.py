"""Masks drawn afresh that keep only how many weights there are, in each layer or in all."""

from __future__ import annotations

from torch import Tensor

from disbud.interventions.outcome import rearranged
from disbud.seeds import generator, uniform
from disbud.selection import keep_highest
from disbud.ticket import Ticket


def like(ticket: Ticket, seed: int) -> Ticket:
    """A random mask with each layer's count. `shuffle` has the same law: to run both is to run one of them twice."""
    scores = _scores(ticket, seed, "like")
    masks = {
        row.name: keep_highest({row.name: scores[row.name]}, row.kept)[row.name] for row in ticket.layers
    }
    return rearranged(ticket, "like", masks, seed=seed)


def shuffle_global(ticket: Ticket, seed: int) -> Ticket:
    """A random mask over all layers with the ticket's total; the law is that of the method `random`."""
    masks = keep_highest(_scores(ticket, seed, "shuffle-global"), ticket.kept)
    return rearranged(ticket, "shuffle-global", masks, seed=seed)


def _scores(ticket: Ticket, seed: int, name: str) -> dict[str, Tensor]:
    return {
        layer: uniform(mask.shape, generator(seed, "intervention", name, layer))
        for layer, mask in ticket.masks.items()
    }
