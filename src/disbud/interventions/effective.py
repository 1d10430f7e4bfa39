"""Only the weights that do something: those on no path from input to output are dropped, and drawn anew if asked."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from disbud.errors import DisbudError
from disbud.graph import effective
from disbud.interventions.outcome import replaced
from disbud.isolation import Example
from disbud.seeds import generator, order
from disbud.ticket import Ticket

_ROUNDS = 200  # of draws; each leaves out what again lies on no path


def only_effective(
    ticket: Ticket, seed: int, *, model: nn.Module | None, example: Example | None, refill: bool = False
) -> Ticket:
    """Drop every weight on no input-output path; with `refill`, each layer gets its count back in weights on one.

    Paths are those through the model at the size of the example. One never breaks when weights are added, so refilling
    draws among the positions that are on a path in the dense network, keeps what came to lie on one, and draws again.
    """
    if model is None or example is None:
        missing = "model=... and example=..." if model is None else "example=..."
        raise DisbudError(
            f"effective needs {missing}: which weights are on a path is a matter of the model and the size of its input"
        )
    if not isinstance(refill, bool):
        raise DisbudError(f"effective: refill is true or false, not {refill!r}")

    def on_path(some: Ticket) -> Ticket:
        return effective(model, some, example=example)

    kept = on_path(ticket)
    if refill:
        kept = _refilled(kept, {row.name: row.kept for row in ticket.layers}, on_path, seed)
    return replaced(ticket, "effective", kept.to_masks(), seed=seed, refill=refill)


def _refilled(kept: Ticket, wanted: dict[str, int], on_path: Callable[[Ticket], Ticket], seed: int) -> Ticket:
    dense = Ticket(
        {name: torch.ones_like(mask) for name, mask in kept.masks.items()}, kept.origin, kept.start
    )
    possible = on_path(dense)
    for row in possible.layers:
        if row.kept < wanted[row.name]:
            raise DisbudError(
                f"effective: {row.name} has {row.kept:,} weights that can be on a path, and the ticket keeps "
                f"{wanted[row.name]:,}; use refill=false, or a ticket that keeps fewer there"
            )
    for attempt in range(_ROUNDS):
        missing = {row.name: wanted[row.name] - row.kept for row in kept.layers}
        if not any(missing.values()):
            return kept
        masks = {}
        for name, mask in kept.masks.items():
            stream = generator(seed, "intervention", "effective", name, attempt)
            masks[name] = mask | _some_of(possible.masks[name] & ~mask, missing[name], stream)
        kept = on_path(Ticket(masks, kept.origin, kept.start))
    short = next(name for name, count in missing.items() if count)
    raise DisbudError(
        f"effective: after {_ROUNDS} draws {short} still lacks {missing[short]:,} of {wanted[short]:,} weights on a "
        "path: so few are kept that most draws lead nowhere; use refill=false"
    )


def _some_of(room: Tensor, count: int, stream: torch.Generator) -> Tensor:
    """So many positions of those with room, at random."""
    positions = room.reshape(-1).nonzero().view(-1)
    chosen = positions[order(len(positions), stream)[:count]]
    none = torch.zeros(room.numel(), dtype=torch.bool, device="cpu")
    return none.index_fill_(0, chosen, True).view(room.shape)
