"""A compacted network: the small model, the ticket that fits it, and the way back to the full one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from disbud.compaction.account import Account
from disbud.compaction.kept import Kept
from disbud.compaction.shrinking import is_extra
from disbud.errors import DisbudError
from disbud.parameters import canonical
from disbud.ticket import Ticket


@dataclass(frozen=True, eq=False)
class Compacted:
    """A network without its dead channels.

    It unpacks into what training on needs: `small, ticket = compact(...)`. The small model is an ordinary module, so
    the account lies beside it and not in it. `kept` says by canonical name where each parameter and buffer of the small
    model lies in the full one; `full` is the state of the full model at compaction, with zeros off the ticket.

    >>> import disbud, torch
    >>> from disbud.compaction import compact
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> masks = {"0.weight": torch.ones(3, 2), "2.weight": torch.tensor([[1, 0, 1]])}
    >>> small, ticket = compact(model, disbud.Ticket.from_masks(masks))
    >>> small[0], ticket.kept
    (Linear(in_features=2, out_features=2, bias=True), 6)
    """

    model: nn.Module
    ticket: Ticket
    kept: Mapping[str, Kept]
    account: Account
    full: Mapping[str, Tensor] = field(repr=False)
    full_ticket: Ticket = field(repr=False)

    def __iter__(self) -> Iterator[nn.Module | Ticket]:
        return iter((self.model, self.ticket))

    def __str__(self) -> str:
        return str(self.account)

    def expand(self, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """A state of the small model, its present one unless given, as a state of the full one.

        What was removed is what it was at compaction, weights off the ticket being zero. What modules add to the state
        by get_extra_state is in it as it was given.

        >>> import disbud, torch
        >>> from disbud.compaction import compact
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
        >>> masks = {"0.weight": torch.ones(3, 2), "2.weight": torch.tensor([[1, 0, 1]])}
        >>> found = compact(model, disbud.Ticket.from_masks(masks))
        >>> _ = model.load_state_dict(found.expand())
        >>> model[2].weight[0, 1].item()
        0.0
        """
        given = self.model.state_dict() if state is None else state
        extra = {canonical(name): value for name, value in given.items() if is_extra(name)}
        tensors = {canonical(name): value for name, value in given.items() if isinstance(value, Tensor)}
        small = {name: tensor for name, tensor in tensors.items() if not is_extra(name)}
        missing, unknown = sorted(self.full.keys() - small.keys()), sorted(small.keys() - self.full.keys())
        if missing or unknown:
            what = f"lacks {', '.join(missing[:3])}" if missing else f"has {', '.join(unknown[:3])} besides"
            raise DisbudError(f"this is not a state of the small model: it {what}; give small.state_dict()")
        for name, tensor in small.items():
            if tuple(tensor.shape) != self.kept[name].small:
                raise DisbudError(
                    f"this is not a state of the small model: {name} is {tuple(tensor.shape)}, "
                    f"and {self.kept[name].small} in the small model"
                )
        found = {name: self.kept[name].put(small[name], into=full) for name, full in self.full.items()}
        return found | extra

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the small model's present weights and what `load` needs besides the full model's factory.

        The file is safetensors: the small tensors, the places kept, the full ticket, and what was removed without being
        zero. It is written whole or not at all.
        """
        from disbud.compaction.saving import save

        save(self, Path(path))
