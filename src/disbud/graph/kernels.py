"""A layer's weight as kernels between units: by (group, input of the group, output of the group, tap)."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from torch import Tensor

from disbud.graph.layers import Layer


@dataclass(frozen=True)
class Kernels:
    """How the weight of a layer is laid out, its groups and whether its inputs come first."""

    shape: tuple[int, ...]
    groups: int
    transposed: bool

    @classmethod
    def of(cls, layer: Layer, *, inputs: int | None = None, outputs: int | None = None) -> Kernels:
        """The layout of a layer; one that is known to read and make so many units shows by that what its groups are."""
        transposed = layer.kind == "transposed-conv"
        units = outputs if transposed else inputs
        groups = layer.groups if units is None or not layer.shape[1] else units // layer.shape[1]
        return cls(layer.shape, max(1, groups), transposed)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Groups, inputs and outputs of each, taps."""
        first, second = self.shape[0] // self.groups, self.shape[1]
        inner = (first, second) if self.transposed else (second, first)
        return (self.groups, *inner, prod(self.shape[2:]))

    def split(self, weight: Tensor) -> Tensor:
        """A tensor of the weight's shape by (group, input, output, tap)."""
        taps = weight.reshape(self.groups, self.shape[0] // self.groups, self.shape[1], prod(self.shape[2:]))
        return taps if self.transposed else taps.transpose(1, 2)

    def join(self, blocks: Tensor) -> Tensor:
        """Back to the weight's shape."""
        taps = blocks if self.transposed else blocks.transpose(1, 2)
        return taps.reshape(self.shape).contiguous()
