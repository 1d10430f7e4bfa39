"""The layout all kernels share: blocks of 16 images, channel by pixel by image, rows parted by zero columns.

    data[block, channel, (halo + row * (width + halo) + column) * 16 + image]

The `halo` columns that end a row are also those before the next one, so a window may step that far over either edge of
the image and reads zeros. Windows that step over the top or the bottom are cut short instead.

One rule holds for every activation and every gradient: the halo, and the idle lanes of a last block that is not full,
are zero. Sums over a channel therefore need no mask, and nothing leaks from images that are not there.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor

from disbud.errors import DisbudError

LANES = 16


@dataclass(frozen=True)
class Layout:
    """The size of a blocked activation, and where its pixels lie.

    >>> from disbud.kernels import Layout
    >>> layout = Layout(images=20, channels=3, height=4, width=4, halo=1)
    >>> layout.blocks, layout.pitch, layout.shape
    (2, 5, (2, 3, 336))
    """

    images: int
    channels: int
    height: int = 1
    width: int = 1
    halo: int = 0

    def __post_init__(self) -> None:
        if min(self.images, self.channels, self.height, self.width) < 1 or self.halo < 0:
            raise DisbudError(f"{self}: every size must be at least 1, and the halo at least 0")

    @property
    def blocks(self) -> int:
        """How many blocks of 16 images there are, the last one perhaps not full."""
        return -(-self.images // LANES)

    @property
    def pitch(self) -> int:
        """Pixels from a row to the next."""
        return self.width + self.halo

    @property
    def span(self) -> int:
        """Floats of one channel of one block."""
        return (self.height * self.pitch + self.halo) * LANES

    @property
    def origin(self) -> int:
        """Floats before the first pixel of a channel."""
        return self.halo * LANES

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of the tensor that holds the data."""
        return self.blocks, self.channels, self.span

    @property
    def features(self) -> int:
        """How many numbers one image has."""
        return self.channels * self.height * self.width

    def with_(
        self, *, channels: int | None = None, size: tuple[int, int] | None = None, halo: int | None = None
    ) -> Layout:
        """The layout of as many images with other channels, another size or halo."""
        height, width = size or (self.height, self.width)
        return replace(
            self,
            channels=self.channels if channels is None else channels,
            height=height,
            width=width,
            halo=self.halo if halo is None else halo,
        )


@dataclass(frozen=True, eq=False)
class Blocked:
    """An activation in the blocked layout.

    >>> import torch
    >>> from disbud.kernels import pack
    >>> pack(torch.ones(2, 3, 4, 4), halo=1).layout
    Layout(images=2, channels=3, height=4, width=4, halo=1)
    """

    data: Tensor = field(repr=False)
    layout: Layout

    def __post_init__(self) -> None:
        if tuple(self.data.shape) != self.layout.shape:
            raise DisbudError(
                f"data of shape {tuple(self.data.shape)} does not fit {self.layout}, whose shape is "
                f"{self.layout.shape}; make blocked activations with pack"
            )
        check_stored(self.data.dtype)


def pack(x: Tensor, *, halo: int = 0, stored: torch.dtype = torch.float32) -> Blocked:
    """Images (N, C, H, W) of any memory format, or features (N, F), in the blocked layout.

    They are `stored` in float32 or, in half the memory, in bfloat16; kernels compute in float32 either way.

    >>> import torch
    >>> from disbud.kernels import pack, unpack
    >>> x = torch.randn(3, 2, 5, 5)
    >>> torch.equal(unpack(pack(x, halo=2)), x)
    True
    """
    if x.dim() not in (2, 4):
        raise DisbudError(
            f"images of shape (N, C, H, W) or features of shape (N, F) are packed, not {tuple(x.shape)}"
        )
    check_kind(x)
    images = x if x.dim() == 4 else x[:, :, None, None]
    count, channels, height, width = images.shape
    layout = Layout(count, channels, height, width, halo)
    check_stored(stored)
    data = x.new_zeros(layout.shape)
    pixels = _pixels(data, layout)
    full, rest = divmod(layout.images, LANES)
    by_lane = images.permute(1, 2, 3, 0)
    if full:
        whole = by_lane[..., : full * LANES].unflatten(3, (full, LANES)).permute(3, 0, 1, 2, 4)
        pixels[:full] = whole
    if rest:
        pixels[full, ..., :rest] = by_lane[..., full * LANES :]
    return Blocked(data.to(stored), layout)


def unpack(x: Blocked) -> Tensor:
    """The images (N, C, H, W) of a blocked activation, in float32.

    >>> import torch
    >>> from disbud.kernels import pack, unpack
    >>> unpack(pack(torch.ones(2, 3))).shape
    torch.Size([2, 3, 1, 1])
    """
    images = _pixels(x.data.float(), x.layout).permute(0, 4, 1, 2, 3).flatten(0, 1)
    return images[: x.layout.images].contiguous()


def unpack_features(x: Blocked) -> Tensor:
    """The features (N, C * H * W) of a blocked activation, in the order that flattening the images gives.

    >>> import torch
    >>> from disbud.kernels import pack, unpack_features
    >>> unpack_features(pack(torch.ones(2, 3, 4, 4))).shape
    torch.Size([2, 48])
    """
    return unpack(x).flatten(1)


def with_halo(x: Blocked, halo: int) -> Blocked:
    """The same activation with that many zero columns between rows; itself where it has as many.

    >>> import torch
    >>> from disbud.kernels import pack, with_halo
    >>> with_halo(pack(torch.ones(1, 1, 2, 2)), 1).layout.halo
    1
    """
    if halo == x.layout.halo:
        return x
    layout = x.layout.with_(halo=halo)
    data = x.data.new_zeros(layout.shape)
    _pixels(data, layout).copy_(_pixels(x.data, x.layout))
    return Blocked(data, layout)


def check_stored(stored: torch.dtype) -> None:
    """Raise for a type that activations cannot be stored in."""
    if stored not in (torch.float32, torch.bfloat16):
        raise DisbudError(f"activations are stored in torch.float32 or torch.bfloat16, not in {stored}")


def check_kind(tensor: Tensor) -> None:
    """Raise for a tensor that the kernels do not take."""
    if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
        raise DisbudError(
            f"the kernels take float32 on the CPU, not {tensor.dtype} on {tensor.device}; use .float().cpu()"
        )


def check_addable(added: Blocked | None, layout: Layout, stored: torch.dtype) -> None:
    """Raise for an activation that cannot be added to one of that layout, whatever the halo; there may be none."""
    if added is None:
        return
    if added.data.dtype != stored:
        raise DisbudError(
            f"to an activation stored in {stored} one of that type is added, not {added.data.dtype}"
        )
    if added.layout.with_(halo=0) != layout.with_(halo=0):
        raise DisbudError(f"to an activation of {layout} one of that size is added, not {added.layout}")


def lanes_in_use(layout: Layout) -> Tensor:
    """1 for every lane that holds an image, 0 for the idle ones: (blocks, 16)."""
    return _lanes(layout.images)


def pixels_in_use(layout: Layout) -> Tensor:
    """Whether a place of the data holds a pixel of an image, rather than halo or an idle lane: (blocks, 1, span)."""
    return _in_use(layout.with_(channels=1))


# Kept from call to call, so they must not be the tensors of an inference mode that happened to be on.


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)
def _lanes(images: int) -> Tensor:
    blocks = -(-images // LANES)
    return (torch.arange(blocks * LANES) < images).float().view(blocks, LANES)


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)
def _in_use(layout: Layout) -> Tensor:
    return pack(torch.ones(layout.images, 1, layout.height, layout.width), halo=layout.halo).data.bool()


def _pixels(data: Tensor, layout: Layout) -> Tensor:
    """The pixels of the data as (blocks, channels, height, width, lanes), a view without the halo."""
    rows: Tensor = data[:, :, layout.origin :].unflatten(2, (layout.height, layout.pitch, LANES))
    return rows[:, :, :, : layout.width]
