"""A layer as pruning sees it: the name, shape and kind of one weight, without the tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """One prunable weight of a model.

    `kind` is "linear", "conv", "transposed-conv" or "attention"; `aliases` are the other names of a shared parameter;
    `groups` are those of a grouped convolution.

    >>> import disbud, torch
    >>> (layer,) = disbud.prunable(torch.nn.Conv2d(3, 8, 5, groups=1))
    >>> layer.name, layer.n_in, layer.n_out, layer.kernel
    ('weight', 3, 8, (5, 5))
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    aliases: tuple[str, ...] = ()
    groups: int = 1

    @property
    def size(self) -> int:
        """How many weights the layer has."""
        return math.prod(self.shape)

    @property
    def n_in(self) -> int:
        """Input units that one output unit sees (input channels a group, in a grouped convolution)."""
        return self.shape[0] // self.groups if self.kind == "transposed-conv" else self.shape[1]

    @property
    def n_out(self) -> int:
        """Output units (output channels a group, in a transposed convolution)."""
        return self.shape[1] if self.kind == "transposed-conv" else self.shape[0]

    @property
    def kernel(self) -> tuple[int, ...]:
        """The kernel's size; empty where there is none."""
        return self.shape[2:]
