"""Where the entries of a smaller tensor lie in the full one."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from disbud.errors import DisbudError


@dataclass(frozen=True, eq=False)
class Kept:
    """Which entries of a parameter or buffer are kept: for each axis the places that stay, None for all of them.

    Where the second axis has a row of places for each group, those of a grouped convolution, the places along the first
    axis are told off to the groups in equal parts.

    >>> import torch
    >>> from disbud.compaction import Kept
    >>> kept = Kept((3, 4), (torch.tensor([0, 2]), torch.tensor([1, 3])))
    >>> full = torch.arange(12).view(3, 4)
    >>> kept.take(full).tolist()
    [[1, 3], [9, 11]]
    >>> kept.put(torch.zeros(2, 2, dtype=torch.int64), into=full).tolist()
    [[0, 0, 2, 0], [4, 5, 6, 7], [8, 0, 10, 0]]
    """

    shape: tuple[int, ...]
    axes: tuple[Tensor | None, ...]

    @property
    def whole(self) -> bool:
        """Whether every entry is kept."""
        return all(axis is None for axis in self.axes)

    @property
    def groups(self) -> int | None:
        """How many groups are left; None where the places of all groups are the same, or there are none."""
        second = self.axes[1] if len(self.axes) > 1 else None
        return len(second) if second is not None and second.dim() == 2 else None

    @property
    def small(self) -> tuple[int, ...]:
        """The shape of what is kept."""
        pairs = zip(self.shape, self.axes, strict=True)
        return tuple(size if axis is None else axis.shape[-1] for size, axis in pairs)

    def positions(self) -> Tensor:
        """The place of each kept entry in the full tensor, counted through."""
        found = torch.zeros((), dtype=torch.int64)
        for i, (size, axis) in enumerate(zip(self.shape, self.axes, strict=True)):
            places = torch.arange(size) if axis is None else axis
            places = places * prod(self.shape[i + 1 :])
            if places.dim() == 2:
                each = places.repeat_interleave(found.shape[0] // len(places), 0)
                found = found.unsqueeze(-1) + each
            else:
                found = found.unsqueeze(-1) + places
        return found

    def take(self, full: Tensor) -> Tensor:
        """What is kept of a tensor of the full shape, as a tensor of its own in the same order in memory."""
        self._check(full, self.shape)
        if self.whole:
            return full.detach().clone()
        taken = full.detach().reshape(-1)[self.positions().to(full.device)]
        last = (
            full.dim() == 4
            and full.is_contiguous(memory_format=torch.channels_last)
            and not full.is_contiguous()
        )
        return taken.contiguous(memory_format=torch.channels_last) if last else taken

    def put(self, small: Tensor, *, into: Tensor) -> Tensor:
        """A copy of the full tensor with these values in the places kept."""
        self._check(small, self.small)
        self._check(into, self.shape)
        if self.whole:
            return small.detach().to(into).clone()
        flat = into.detach().reshape(-1).clone()
        flat[self.positions().to(flat.device)] = small.detach().to(flat)
        return flat.view(into.shape)

    def _check(self, tensor: Tensor, shape: tuple[int, ...]) -> None:
        if tuple(tensor.shape) != shape:
            raise DisbudError(f"a tensor of shape {shape} is needed here, not of {tuple(tensor.shape)}")
