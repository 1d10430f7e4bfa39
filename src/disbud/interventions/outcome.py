"""What every intervention hands back: a ticket whose origin says what was done, to which ticket, with which seed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from torch import Tensor

from disbud.interventions.catalogue import CATALOGUE
from disbud.origin import Json, Origin
from disbud.ticket import Ticket


def rearranged(
    ticket: Ticket, name: str, masks: Mapping[str, Tensor], *, seed: int, **settings: Json
) -> Ticket:
    """The ticket with masks that were meant to move; warns where none did: the what-if would compare equals."""
    outcome = Ticket(masks, _origin(ticket, name, seed, settings), ticket.start)
    if outcome == ticket:
        warnings.warn(
            f"{name} left every mask as it was: the ticket leaves no room for it (layers that are full or empty, "
            "or counts that only one mask has)",
            stacklevel=3,
        )
    return outcome


def replaced(
    ticket: Ticket, name: str, masks: Mapping[str, Tensor], *, seed: int, **settings: Json
) -> Ticket:
    """The ticket with other masks."""
    return Ticket(masks, _origin(ticket, name, seed, settings), ticket.start)


def rewritten(ticket: Ticket, name: str, *, seed: int, **settings: Json) -> Ticket:
    """The ticket with the same masks on other weights; its start would bring the old ones back, so it has none."""
    return Ticket(ticket.to_masks(), _origin(ticket, name, seed, settings), None)


def _origin(ticket: Ticket, name: str, seed: int, settings: Mapping[str, Json]) -> Origin:
    return Origin(
        name,
        settings={"revision": CATALOGUE[name].revision, **settings},
        seed=seed,
        fingerprint=ticket.origin.fingerprint,
        parents=(ticket.origin,),
    )
