"""Starting weights by name, drawn for one layer from a generator of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from disbud.interventions.layout import Layout
from disbud.seeds import normal

Initialiser = Callable[[Tensor, Layout, torch.Generator], Tensor]


def kaiming_normal(mask: Tensor, layout: Layout, stream: torch.Generator) -> Tensor:
    """N(0, 2 / fan_in) (He et al. 2015)."""
    return _drawn(mask, layout, lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu", generator=stream))


def kaiming_uniform(mask: Tensor, layout: Layout, stream: torch.Generator) -> Tensor:
    """Uniform with variance 2 / fan_in (He et al. 2015); torch's own layers use a sixth of that variance."""
    return _drawn(mask, layout, lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu", generator=stream))


def xavier_normal(mask: Tensor, layout: Layout, stream: torch.Generator) -> Tensor:
    """N(0, 2 / (fan_in + fan_out)) (Glorot & Bengio 2010)."""
    return _drawn(mask, layout, lambda w: nn.init.xavier_normal_(w, generator=stream))


def xavier_uniform(mask: Tensor, layout: Layout, stream: torch.Generator) -> Tensor:
    """Uniform with variance 2 / (fan_in + fan_out) (Glorot & Bengio 2010)."""
    return _drawn(mask, layout, lambda w: nn.init.xavier_uniform_(w, generator=stream))


def orthogonal(mask: Tensor, layout: Layout, stream: torch.Generator) -> Tensor:
    """Orthonormal rows or columns, whichever are fewer, one row an output unit, in each group (Saxe et al. 2014)."""
    blocks = [
        nn.init.orthogonal_(_empty(block.shape), generator=stream).unsqueeze(0)
        for block in layout.split(mask)
    ]
    return layout.join(torch.cat(blocks), tuple(mask.shape))


def sparse_kaiming(mask: Tensor, layout: Layout, stream: torch.Generator) -> Tensor:
    """N(0, 2 / k), where k is how many inputs the ticket leaves the weight's output unit (Evci et al. 2022).

    A unit without inputs has the dense fan-in in the place of k, for weights that are off the ticket anyway.
    """
    blocks = layout.split(mask)
    left = blocks.sum((2, 3), keepdim=True)
    fan_in = torch.where(left > 0, left, blocks.shape[2] * blocks.shape[3])
    drawn = normal(blocks.shape, stream) * (2 / fan_in.float()).sqrt()
    return layout.join(drawn, tuple(mask.shape))


def _drawn(mask: Tensor, layout: Layout, draw: Callable[[Tensor], Tensor]) -> Tensor:
    """Let torch draw on output x input x tap, which is how it reads the fans; a group counts only its own inputs."""
    blocks = layout.split(mask)
    return layout.join(draw(_empty(blocks.flatten(0, 1).shape)).view(blocks.shape), tuple(mask.shape))


def _empty(shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device="cpu")  # whatever torch's defaults are


INITIALISERS: dict[str, Initialiser] = {
    "kaiming-normal": kaiming_normal,
    "kaiming-uniform": kaiming_uniform,
    "xavier-normal": xavier_normal,
    "xavier-uniform": xavier_uniform,
    "orthogonal": orthogonal,
    "sparse-kaiming": sparse_kaiming,
}
