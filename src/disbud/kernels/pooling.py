"""Max, average and adaptive average pooling on blocked activations, over windows of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from disbud.errors import DisbudError
from disbud.kernels import plain
from disbud.kernels.layout import Blocked, Layout
from disbud.kernels.library import Library, library
from disbud.kernels.memory import empty
from disbud.kernels.structures import CPooling, CWindow


@dataclass(frozen=True)
class Windows:
    """Where the windows of one axis lie: output i takes pixels starts[i], starts[i] + step, ... below ends[i].

    `shares` are what an average divides by, as one over that number.

    >>> from disbud.kernels import Windows, average_pool, pack, unpack
    >>> import torch
    >>> whole = Windows(starts=(0,), ends=(3,), shares=(1.0,))
    >>> unpack(average_pool(pack(torch.ones(1, 1, 3, 3)), (whole, whole))).item()
    9.0
    """

    starts: tuple[int, ...]
    ends: tuple[int, ...]
    shares: tuple[float, ...]
    step: int = 1

    def __len__(self) -> int:
        return len(self.starts)


def sliding_windows(
    size: int,
    kernel: int,
    *,
    stride: int | None = None,
    padding: int = 0,
    dilation: int = 1,
    overhang: bool = False,
    divide_by: str = "window",
) -> Windows:
    """The windows of a pooling layer along an axis of that size.

    `overhang` is torch's ceil_mode: a last window may stick out. An average divides by the "window", padding included
    (torch's count_include_pad), or by the "pixels" within the image.

    >>> from disbud.kernels import sliding_windows
    >>> sliding_windows(5, 2).starts
    (0, 2)
    >>> sliding_windows(5, 2, overhang=True).ends
    (2, 4, 5)
    """
    stride = stride or kernel
    if min(kernel, stride, dilation) < 1 or not 0 <= padding <= kernel // 2:
        raise DisbudError(
            f"a pooling window of {kernel}, stride {stride}, dilation {dilation} with padding {padding} is not "
            "possible; sizes are at least 1 and padding at most half the window"
        )
    if divide_by not in ("window", "pixels"):
        raise DisbudError(f"an average divides by the 'window' or by its 'pixels', not by {divide_by!r}")
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    count = (-(-room // stride) if overhang else room // stride) + 1
    # A window that would start in the padding on the far side is left out, as torch does.
    while overhang and (count - 1) * stride >= size + padding:
        count -= 1
    if count < 1:
        raise DisbudError(f"a pooling window of {kernel} does not fit {size} pixels with padding {padding}")
    first = [i * stride - padding for i in range(count)]
    starts = [at if at >= 0 else at + -(at // dilation) * dilation for at in first]
    ends = [min(size, at + dilation * (kernel - 1) + 1) for at in first]
    widths = [min(at + kernel, size + padding) - at for at in first]
    if any(start >= end for start, end in zip(starts, ends, strict=True)):
        raise DisbudError(
            f"a pooling window of {kernel} with dilation {dilation} and padding {padding} has no pixel of {size} in "
            "it; pool less, or larger images"
        )
    inside = [end - start for start, end in zip(starts, ends, strict=True)]
    return Windows(
        tuple(starts),
        tuple(ends),
        tuple(1 / n for n in (widths if divide_by == "window" else inside)),
        dilation,
    )


def adaptive_windows(size: int, outputs: int) -> Windows:
    """The windows of adaptive pooling: as many as there are outputs, over the whole axis.

    >>> from disbud.kernels import adaptive_windows
    >>> adaptive_windows(7, 3).starts, adaptive_windows(7, 3).ends
    ((0, 2, 4), (3, 5, 7))
    """
    if outputs < 1:
        raise DisbudError(f"adaptive pooling has at least one output, not {outputs}")
    starts = tuple(i * size // outputs for i in range(outputs))
    ends = tuple(-(-(i + 1) * size // outputs) for i in range(outputs))
    return Windows(starts, ends, tuple(1 / (end - start) for start, end in zip(starts, ends, strict=True)))


def max_pool(x: Blocked, windows: tuple[Windows, Windows], *, halo: int = 0) -> Blocked:
    """The largest value of every window, given along the rows and along the columns.

    >>> import torch
    >>> from disbud.kernels import max_pool, pack, sliding_windows, unpack
    >>> x = torch.randn(2, 3, 7, 7)
    >>> y = max_pool(pack(x), (sliding_windows(7, 3, padding=1),) * 2)
    >>> torch.equal(unpack(y), torch.nn.functional.max_pool2d(x, 3, padding=1))
    True
    """
    return _pool("max", x, windows, halo)


def average_pool(x: Blocked, windows: tuple[Windows, Windows], *, halo: int = 0) -> Blocked:
    """The average of every window, given along the rows and along the columns.

    >>> import torch
    >>> from disbud.kernels import adaptive_windows, average_pool, pack, unpack_features
    >>> x = torch.randn(2, 3, 7, 7)
    >>> y = average_pool(pack(x), (adaptive_windows(7, 1),) * 2)
    >>> torch.allclose(unpack_features(y), x.mean((2, 3)), atol=1e-6)
    True
    """
    return _pool("average", x, windows, halo)


def _pool(kind: str, x: Blocked, windows: tuple[Windows, Windows], halo: int) -> Blocked:
    for axis, size in zip(windows, (x.layout.height, x.layout.width), strict=True):
        if any(not 0 <= a < b <= size for a, b in zip(axis.starts, axis.ends, strict=True)):
            raise DisbudError(f"{axis} do not fit an axis of {size} pixels; make windows for that size")
    layout = x.layout.with_(size=(len(windows[0]), len(windows[1])), halo=halo)
    kernels = library(x.data.dtype)
    if kernels is None:
        return plain.pool(
            kind, x, [_pixels_of(axis) for axis in windows], [axis.shares for axis in windows], halo
        )
    data: Tensor = _Pool.apply(x.data, kind, (x.layout, layout), windows, kernels)  # type: ignore[no-untyped-call]
    return Blocked(data, layout)


def _pixels_of(axis: Windows) -> list[list[int]]:
    return [list(range(a, b, axis.step)) for a, b in zip(axis.starts, axis.ends, strict=True)]


class _Pool(Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        x: Tensor,
        kind: str,
        layouts: tuple[Layout, Layout],
        windows: tuple[Windows, Windows],
        kernels: Library,
    ) -> Tensor:
        x = x.contiguous()
        y = empty(layouts[1].shape, x.dtype)
        tables = _tables(windows)
        kernels.pool(f"{kind}_pool", layouts, tables.structure(), x, y)
        # An average's gradient does not depend on what was averaged.
        ctx.save_for_backward(*([x] if kind == "max" else []))
        ctx.kind, ctx.layouts, ctx.tables, ctx.kernels = kind, layouts, tables, kernels
        return y

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[no-untyped-def]
        ctx, gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        of_x = empty(ctx.layouts[0].shape, gradient.dtype)
        tensors = (*ctx.saved_tensors, gradient.contiguous(), of_x)
        ctx.kernels.pool(f"{ctx.kind}_pool_backward", ctx.layouts, ctx.tables.structure(), *tensors)
        return of_x, None, None, None, None


class _Tables:
    """The windows as the tensors the kernels read."""

    def __init__(self, windows: Sequence[Windows]) -> None:
        self._axes = [
            (
                torch.tensor(axis.starts, dtype=torch.int32),
                torch.tensor(axis.ends, dtype=torch.int32),
                torch.tensor(axis.shares, dtype=torch.float32),
                axis.step,
            )
            for axis in windows
        ]

    def structure(self) -> CPooling:
        rows, columns = (
            CWindow(starts.data_ptr(), ends.data_ptr(), shares.data_ptr(), step)
            for starts, ends, shares, step in self._axes
        )
        return CPooling(rows, columns, torch.get_num_threads())


# Kept from call to call, so they must not be the tensors of an inference mode that happened to be on.
@lru_cache(maxsize=256)
@torch.inference_mode(mode=False)
def _tables(windows: tuple[Windows, Windows]) -> _Tables:
    return _Tables(windows)
