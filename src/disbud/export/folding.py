"""BatchNorm folded into the layer before it, and operations that nothing reads left out."""

from __future__ import annotations

from dataclasses import replace

from disbud.export.operations import Affine, Convolution, Linear, Operation, Program, sources


def folded(program: Program) -> Program:
    """The same program with fewer operations.

    BatchNorm in evaluation scales and shifts each channel, and so may the layer that makes them, if nothing else reads
    what it makes: w' = scale w, b' = scale b + shift, computed in double precision.
    """
    operations = _used(program)
    readers = _readers(program, operations)
    merged: dict[int, Operation] = {}  # by the array that the layer makes
    kept: list[Operation] = []
    for operation in operations:
        layer = merged.get(operation.source.array) if isinstance(operation, Affine) else None
        if (
            isinstance(operation, Affine)
            and isinstance(layer, Convolution | Linear)
            and readers[layer.output.array] == 1
            and _same_channels(layer, operation)
        ):
            joined = _joined(layer, operation)
            kept[_place(kept, layer)] = joined
            merged[joined.output.array] = joined
            continue
        kept.append(operation)
        if isinstance(operation, Convolution | Linear):
            merged[operation.output.array] = operation
    return Program(program.input, program.output, kept)


def _same_channels(layer: Convolution | Linear, norm: Affine) -> bool:
    """Whether the channels that are scaled are the layer's outputs, and not some other cut through its entries."""
    if len(norm.scale) != len(layer.weight):
        return False
    if isinstance(layer, Convolution):
        return norm.rows == 1
    return norm.rows == layer.rows and norm.inner == 1


def _joined(layer: Convolution | Linear, norm: Affine) -> Convolution | Linear:
    scale = norm.scale.reshape([-1] + [1] * (layer.weight.ndim - 1))
    bias = norm.shift if layer.bias is None else layer.bias * norm.scale + norm.shift
    return replace(layer, weight=layer.weight * scale, bias=bias, output=norm.output)


def _used(program: Program) -> list[Operation]:
    """The operations whose outputs lead to the program's."""
    needed, used = {program.output.array}, []
    for operation in reversed(program.operations):
        if operation.output.array in needed:
            used.append(operation)
            needed.update(view.array for view in sources(operation))
    return used[::-1]


def _readers(program: Program, operations: list[Operation]) -> dict[int, int]:
    count = {program.output.array: 1}
    for operation in operations:
        for view in sources(operation):
            count[view.array] = count.get(view.array, 0) + 1
    return count


def _place(operations: list[Operation], wanted: Operation) -> int:
    """Where the operation stands; by identity, since arrays do not compare as one."""
    return next(i for i, operation in enumerate(operations) if operation is wanted)
