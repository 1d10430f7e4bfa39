"""The network that is exported: the pruned one, without its dead channels where that is exact."""

from __future__ import annotations

import torch
from torch import nn

from disbud.compaction import compact
from disbud.compaction.following import check_can_be_copied, working_copy
from disbud.errors import DisbudError
from disbud.isolation import Example, bare
from disbud.parameters import parameters
from disbud.ticket import Ticket


def pruned(model: nn.Module, ticket: Ticket, example: Example) -> tuple[nn.Module, str]:
    """The compacted network; where that is refused, a copy with its removed weights zero, and why."""
    ticket.check(model)
    check_can_be_copied(bare(model))
    try:
        return compact(model, ticket, example=example).model, ""
    except (DisbudError, RuntimeError) as error:  # torch's own, where a forward does not run in float64
        whole = working_copy(bare(model), ticket).to(torch.float32)
        return whole, f"dead channels were left in: {str(error).splitlines()[0]}"


def dense_bytes(model: nn.Module) -> int:
    """What the model's parameters take in fp32."""
    return 4 * sum(parameter.numel() for parameter in parameters(bare(model)).values())
