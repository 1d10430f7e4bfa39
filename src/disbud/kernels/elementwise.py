"""What is done number by number on blocked activations: activations, sums, concatenation of channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import Function

from disbud.errors import DisbudError
from disbud.kernels.layout import LANES, Blocked, Layout, pixels_in_use, with_halo


def elementwise(x: Blocked, function: Callable[[Tensor], Tensor]) -> Blocked:
    """A function of every number, such as torch.relu; it keeps the shape of the tensor it is given.

    Where the function is not zero at zero, the halo and the idle lanes are set back to zero.

    >>> import torch
    >>> from disbud.kernels import elementwise, pack, unpack
    >>> x = torch.randn(2, 3, 4, 4)
    >>> torch.equal(unpack(elementwise(pack(x, halo=1), torch.sigmoid)), x.sigmoid())
    True
    """
    inside: Tensor = _Clean.apply(x.data, x.layout)  # type: ignore[no-untyped-call]
    data = function(inside)
    if data.shape != x.data.shape:
        raise DisbudError(
            f"{function} made {tuple(data.shape)} of {tuple(x.data.shape)}; a function of every number keeps the shape"
        )
    return Blocked(_clean(data, x.layout), x.layout)


class _Clean(Function):
    """The data itself; its gradient is zero outside the images, also where that of a root would be NaN."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, data: Tensor, layout: Layout
    ) -> Tensor:
        ctx.layout = layout
        return data.view_as(data)

    @staticmethod
    def backward(  # type: ignore[no-untyped-def]
        ctx, gradient: Tensor
    ) -> tuple[Tensor, None]:
        return _clean(gradient, ctx.layout), None


def _clean(data: Tensor, layout: Layout) -> Tensor:
    """The data with zeros outside the images: itself where it is so, which is seen by looking at little of it."""
    rows = data[:, :, layout.origin :].unflatten(2, (layout.height, layout.pitch * LANES))
    idle = layout.blocks * LANES - layout.images
    outside = [data[:, :, : layout.origin], rows[:, :, :, layout.width * LANES :]]
    outside += [data[-1].unflatten(1, (-1, LANES))[:, :, LANES - idle :]] if idle else []
    if all(bool((part == 0).all()) for part in outside):
        return data
    return torch.where(pixels_in_use(layout), data, 0.0)


def add(x: Blocked, y: Blocked) -> Blocked:
    """The sum of two activations of one size.

    >>> import torch
    >>> from disbud.kernels import add, pack, unpack
    >>> unpack(add(pack(torch.ones(1, 1, 1, 2)), pack(torch.ones(1, 1, 1, 2), halo=1)))
    tensor([[[[2., 2.]]]])
    """
    _check_one_size((x, y))
    halo = max(x.layout.halo, y.layout.halo)
    x, y = with_halo(x, halo), with_halo(y, halo)
    return Blocked(x.data + y.data, x.layout)


def concatenate(parts: Sequence[Blocked]) -> Blocked:
    """The channels of several activations of one size, one after another.

    >>> import torch
    >>> from disbud.kernels import concatenate, pack
    >>> concatenate([pack(torch.ones(1, 2, 4, 4)), pack(torch.ones(1, 3, 4, 4))]).layout.channels
    5
    """
    _check_one_size([Blocked(part.data[:, :1], part.layout.with_(channels=1)) for part in parts])
    halo = max(part.layout.halo for part in parts)
    parts = [with_halo(part, halo) for part in parts]
    data = torch.cat([part.data for part in parts], 1)
    return Blocked(data, parts[0].layout.with_(channels=data.shape[1]))


def _check_one_size(parts: Sequence[Blocked]) -> None:
    sizes = {part.layout.with_(halo=0) for part in parts}
    types = {part.data.dtype for part in parts}
    if len(types) > 1:
        raise DisbudError(f"activations stored in one type are joined, not in {sorted(map(str, types))}")
    if len(sizes) != 1:
        raise DisbudError(
            f"activations of one size are joined, not of {sorted(map(str, sizes))}"
            if sizes
            else "there is nothing to join"
        )
