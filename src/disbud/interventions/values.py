"""The kept weights with their pairing to positions, or their magnitudes, taken away."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from disbud.errors import DisbudError
from disbud.interventions.outcome import rewritten
from disbud.interventions.states import weights_of, with_weights
from disbud.seeds import generator, order
from disbud.ticket import Ticket


def permute_values(
    state: Mapping[str, Tensor], ticket: Ticket, seed: int
) -> tuple[dict[str, Tensor], Ticket]:
    """Permute the kept values of each layer among its kept positions; what is off the ticket stays where it is."""
    new = {}
    for name, weight in weights_of(state, ticket).items():
        mask = ticket.masks[name].to(weight.device)
        kept = weight[mask]
        places = order(len(kept), generator(seed, "intervention", "permute-values", name))
        new[name] = weight.masked_scatter(mask, kept[places.to(weight.device)])
    return with_weights(state, new), rewritten(ticket, "permute-values", seed=seed)


def sign_only(state: Mapping[str, Tensor], ticket: Ticket, seed: int) -> tuple[dict[str, Tensor], Ticket]:
    """Give the kept weights of a layer one magnitude, with their signs and the layer's sum of squares as they were.

    A kept weight of exactly zero has no sign and stays zero. Nothing is drawn; the seed is only recorded.
    """
    new = {}
    for name, weight in weights_of(state, ticket).items():
        mask = ticket.masks[name].to(weight.device)
        kept = weight[mask].double()
        magnitude = (kept.square().sum() / max(1, int(kept.count_nonzero()))).sqrt()
        if not torch.isfinite(magnitude):
            raise DisbudError(
                f"sign-only: {name} holds NaN or infinite weights, which have no magnitude to share"
            )
        new[name] = weight.masked_scatter(mask, (kept.sign() * magnitude).to(weight.dtype))
    return with_weights(state, new), rewritten(ticket, "sign-only", seed=seed)
