"""Pooling as operations."""

from __future__ import annotations

from math import prod

from torch import Tensor

from disbud.errors import DisbudError
from disbud.export.layer_rules import plane, plane_pair
from disbud.export.operations import Pair, Pool
from disbud.export.recording import Recorder


def max_pool(
    recorder: Recorder,
    name: str,
    output: Tensor,
    input: Tensor,
    kernel_size: object,
    stride: object = None,
    padding: object = 0,
    dilation: object = 1,
    ceil_mode: bool = False,  # noqa: FBT001 - torch's own
    return_indices: bool = False,  # noqa: FBT001 - torch's own
) -> None:
    """max_pool1d and max_pool2d; the output's size says what ceil_mode did."""
    _only_values(name, asked=return_indices)
    axes = int(name[-2])
    recorder.add(
        Pool(
            "max",
            recorder.value(input, name),
            recorder.new(output),
            prod(input.shape[:-axes]),
            plane(input, axes=axes),
            plane(output, axes=axes),
            plane_pair(kernel_size, name, axes=axes, missing=1),
            plane_pair(stride or kernel_size, name, axes=axes, missing=1),
            plane_pair(padding, name, axes=axes, missing=0),
            plane_pair(dilation, name, axes=axes, missing=1),
        )
    )


def average_pool(
    recorder: Recorder,
    name: str,
    output: Tensor,
    input: Tensor,
    kernel_size: object,
    stride: object = None,
    padding: object = 0,
    ceil_mode: bool = False,  # noqa: FBT001 - torch's own
    count_include_pad: bool = True,  # noqa: FBT001 - torch's own
    divisor_override: int | None = None,
) -> None:
    """avg_pool1d and avg_pool2d."""
    axes = int(name[-2])
    recorder.add(
        Pool(
            "average",
            recorder.value(input, name),
            recorder.new(output),
            prod(input.shape[:-axes]),
            plane(input, axes=axes),
            plane(output, axes=axes),
            plane_pair(kernel_size, name, axes=axes, missing=1),
            plane_pair(stride or kernel_size, name, axes=axes, missing=1),
            plane_pair(padding, name, axes=axes, missing=0),
            counts_padding=count_include_pad,
            divisor=divisor_override or 0,
        )
    )


def adaptive_pool(
    recorder: Recorder,
    name: str,
    output: Tensor,
    input: Tensor,
    output_size: object,
    return_indices: bool = False,  # noqa: FBT001 - torch's own
) -> None:
    """Windows of about equal size; of exactly equal size they are ordinary ones."""
    _only_values(name, asked=return_indices)
    axes = int(name[-2])
    size_in, size_out = plane(input, axes=axes), plane(output, axes=axes)
    even = all(i % o == 0 for i, o in zip(size_in, size_out, strict=True))
    kernel: Pair | None = (size_in[0] // size_out[0], size_in[1] // size_out[1]) if even else None
    kind = "max" if "max" in name else "average"
    source, result = recorder.value(input, name), recorder.new(output)
    planes = prod(input.shape[:-axes])
    recorder.add(Pool(kind, source, result, planes, size_in, size_out, kernel, stride=kernel or (1, 1)))


def _only_values(name: str, *, asked: bool) -> None:
    if asked:
        raise DisbudError(f"{name} with return_indices=True cannot be written as C; leave the indices out")
