"""The pattern of a sparse layer: where its kept weights are, and what its windows do."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from disbud.errors import DisbudError

Size = int | tuple[int, int]


@dataclass(frozen=True, eq=False)
class Pattern:
    """Where the kept weights of a layer are. Their values are one vector, in the order of the mask's True entries.

    A pattern with every weight kept is a dense layer, whose values are its flattened weight.

    >>> import torch
    >>> from disbud.kernels import Pattern
    >>> weight = torch.randn(8, 4, 3, 3)
    >>> pattern = Pattern.of_convolution(weight.abs() > 1, padding=1)
    >>> torch.equal(pattern.scatter(pattern.gather(weight)), weight * (weight.abs() > 1))
    True
    """

    mask: Tensor
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @staticmethod
    def of_convolution(
        mask: Tensor, *, stride: Size = 1, padding: Size = 0, dilation: Size = 1, groups: int = 1
    ) -> Pattern:
        """The pattern of a Conv2d whose weight (out, in / groups, height, width) keeps the mask's True entries.

        >>> import torch
        >>> from disbud.kernels import Pattern
        >>> Pattern.of_convolution(torch.eye(3).bool()[:, :, None, None]).kept
        3
        """
        mask = _checked(mask, 4)
        sizes = {"stride": _pair(stride), "padding": _pair(padding), "dilation": _pair(dilation)}
        for name, size in sizes.items():
            if min(size) < (0 if name == "padding" else 1):
                raise DisbudError(f"a convolution cannot have {name} {size}")
        if groups < 1 or len(mask) % groups:
            raise DisbudError(f"{len(mask)} output channels cannot be parted into {groups} groups")
        return Pattern(mask, **sizes, groups=groups)

    @staticmethod
    def of_linear(mask: Tensor) -> Pattern:
        """The pattern of a Linear layer whose weight (out, in) keeps the mask's True entries.

        >>> import torch
        >>> from disbud.kernels import Pattern
        >>> Pattern.of_linear(torch.eye(3).bool()).density
        0.3333333333333333
        """
        mask = _checked(mask, 2)
        return Pattern(mask, (1, 1), (0, 0), (1, 1), 1)

    @cached_property
    def kept(self) -> int:
        """How many weights there are."""
        return int(self.mask.sum())

    @property
    def density(self) -> float:
        """The fraction of the weights that are kept."""
        return self.kept / self.mask.numel()

    @property
    def outputs(self) -> int:
        """Output channels, or features."""
        return len(self.mask)

    @property
    def inputs(self) -> int:
        """Input channels of all groups, or features."""
        return self.mask.shape[1] * self.groups

    @property
    def is_linear(self) -> bool:
        """Whether it is the pattern of a Linear layer, which takes all features of an image whatever its shape."""
        return self.mask.dim() == 2

    def gather(self, weight: Tensor) -> Tensor:
        """The values of the kept weights, from a whole weight."""
        if weight.shape != self.mask.shape:
            raise DisbudError(
                f"a weight of shape {tuple(weight.shape)} does not fit a mask of shape {tuple(self.mask.shape)}"
            )
        return weight[self.mask]

    def scatter(self, values: Tensor) -> Tensor:
        """The whole weight with those values, and zeros where none is kept."""
        self.check_values(values)
        return values.new_zeros(self.mask.shape).masked_scatter(self.mask, values)

    def check_values(self, values: Tensor) -> None:
        """Raise for a vector that cannot hold the kept weights."""
        if tuple(values.shape) != (self.kept,):
            raise DisbudError(
                f"the pattern keeps {self.kept} weights, so its values have shape ({self.kept},), not "
                f"{tuple(values.shape)}; pattern.gather(weight) makes them"
            )


def _checked(mask: Tensor, dimensions: int) -> Tensor:
    if mask.dtype != torch.bool or mask.dim() != dimensions or mask.numel() == 0:
        raise DisbudError(
            f"the mask is a boolean tensor of {dimensions} dimensions, not {mask.dtype} of shape {tuple(mask.shape)}"
        )
    return mask.detach().clone(memory_format=torch.contiguous_format)


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
