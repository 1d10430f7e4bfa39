"""Convolutions, linear layers and BatchNorm in evaluation as operations."""

from __future__ import annotations

from math import prod

import numpy as np
from torch import Tensor

from disbud.errors import DisbudError
from disbud.export.operations import Affine, Convolution, Linear, Pair
from disbud.export.recording import Recorder, numbers_of


def pair(value: object, name: str) -> Pair:
    """A size for height and width; of one axis it is the width, and the height's is 1 (0 for padding)."""
    given = list(value) if isinstance(value, tuple | list) else [value]
    sizes = [size for size in given if isinstance(size, int)]
    if len(sizes) < len(given) or len(sizes) not in (1, 2):
        raise DisbudError(f"{name} has the sizes {value!r}, and one or two whole numbers are known")
    return sizes[0], sizes[-1]


def plane_pair(value: object, name: str, *, axes: int, missing: int) -> Pair:
    """The same for a function along so many axes: along one, the height is `missing`."""
    height, width = pair(value, name)
    return (height, width) if axes == 2 else (missing, width)


def plane(tensor: Tensor, *, axes: int) -> Pair:
    """Height and width."""
    return (tensor.shape[-2], tensor.shape[-1]) if axes == 2 else (1, tensor.shape[-1])


def convolution(
    recorder: Recorder,
    name: str,
    output: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: object = 1,
    padding: object = 0,
    dilation: object = 1,
    groups: int = 1,
) -> None:
    """conv1d and conv2d."""
    axes = weight.dim() - 2
    numbers, shift = _weights(recorder, name, weight, bias)
    numbers = numbers.reshape(*numbers.shape[:2], 1, -1) if axes == 1 else numbers
    spread = plane_pair(dilation, name, axes=axes, missing=1)
    if padding == "same":  # what is left over goes behind, as torch does it
        kernel = numbers.shape[2:]
        before = (spread[0] * (kernel[0] - 1) // 2, spread[1] * (kernel[1] - 1) // 2)
    else:
        before = plane_pair(0 if padding == "valid" else padding, name, axes=axes, missing=0)
    if input.dim() > axes + 1 and input.shape[0] != 1:
        raise DisbudError(f"{name} reads {input.shape[0]} rows for one input: it cannot be written as C")
    recorder.add(
        Convolution(
            recorder.name_of(weight),
            recorder.value(input, name),
            recorder.new(output),
            numbers,
            shift,
            groups,
            plane(input, axes=axes),
            plane(output, axes=axes),
            plane_pair(stride, name, axes=axes, missing=1),
            before,
            spread,
        )
    )


def linear(
    recorder: Recorder,
    name: str,
    output: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
) -> None:
    """A linear layer, for as many rows as there are."""
    numbers, shift = _weights(recorder, name, weight, bias)
    source, rows = recorder.value(input, name), prod(input.shape[:-1])
    recorder.add(Linear(recorder.name_of(weight), source, recorder.new(output), numbers, shift, rows))


def _weights(
    recorder: Recorder, name: str, weight: Tensor, bias: Tensor | None
) -> tuple[np.ndarray, np.ndarray | None]:
    if recorder.follows(weight) or recorder.follows(bias):
        raise DisbudError(f"{name} has weights that are computed from the input: it cannot be written as C")
    return numbers_of(weight), None if bias is None else numbers_of(bias)


def batch_norm(
    recorder: Recorder,
    name: str,
    output: Tensor,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,  # noqa: FBT001 - torch's own
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> None:
    """BatchNorm with running statistics: a scale and a shift for each channel."""
    if training or running_mean is None or running_var is None:
        raise DisbudError(
            f"{name} has no running statistics and computes them in evaluation: it cannot be written as C"
        )
    scale = 1 / np.sqrt(numbers_of(running_var) + eps)
    scale = scale if weight is None else scale * numbers_of(weight)
    shift = -numbers_of(running_mean) * scale
    shift = shift if bias is None else shift + numbers_of(bias)
    source = recorder.value(input, name)
    rows, inner = input.shape[0], prod(input.shape[2:])
    recorder.add(Affine(source, recorder.new(output), rows, inner, scale, shift))
