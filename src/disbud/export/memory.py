"""Where each array lies in the one static block of floats: arrays that do not live at the same time share places."""

from __future__ import annotations

from dataclasses import dataclass

from disbud.export.operations import (
    Affine,
    Along,
    Combine,
    Elementwise,
    Operation,
    Program,
    sources,
)


@dataclass(frozen=True)
class Memory:
    """Where arrays begin, in floats; the input and the output lie with the caller and have no place."""

    offsets: dict[int, int]
    floats: int


@dataclass(frozen=True)
class _Life:
    """From the operation that makes an array to the last that reads it."""

    values: tuple[int, ...]
    size: int
    born: int
    dies: int


def placed(program: Program) -> Memory:
    """A place for each array: the largest first, each at the lowest place that is free as long as it lives."""
    done: list[tuple[int, _Life]] = []
    for life in sorted(_lives(program), key=lambda life: (-life.size, life.born)):
        taken = sorted(
            (offset, offset + other.size)
            for offset, other in done
            if other.born <= life.dies and life.born <= other.dies
        )
        place = 0
        for first, end in taken:
            if place + life.size <= first:
                break
            place = max(place, end)
        done.append((place, life))
    offsets = {value: offset for offset, life in done for value in life.values}
    return Memory(offsets, max((offset + life.size for offset, life in done), default=0))


def _lives(program: Program) -> list[_Life]:
    """Arrays that are written over what was read last are one life."""
    last: dict[int, int] = {}
    for number, operation in enumerate(program.operations):
        for view in sources(operation):
            last[view.array] = number
    lives: dict[int, _Life] = {}
    home: dict[int, int] = {}  # which life an array belongs to
    for number, operation in enumerate(program.operations):
        output = operation.output.array
        if output == program.output.array:
            continue
        dies = last.get(output, number)
        over = next(
            (array for array in _may_be_overwritten(operation) if array in home and last[array] == number),
            None,
        )
        if over is None:
            home[output] = output
            lives[output] = _Life((output,), operation.output.size, number, dies)
        else:
            first = home[output] = home[over]
            before = lives[first]
            lives[first] = _Life((*before.values, output), before.size, before.born, max(before.dies, dies))
    return list(lives.values())


def _may_be_overwritten(operation: Operation) -> list[int]:
    """The arrays read that the output may lie upon: entry i is read before entry i is written, and not again."""
    if isinstance(operation, Affine | Elementwise):
        return [operation.source.array]
    if isinstance(operation, Along) and "softmax" in operation.function:
        return [operation.source.array]
    if isinstance(operation, Combine):  # a side of the output's size is not repeated, and is read in order
        return [side.array for side in sources(operation) if side.size == operation.output.size]
    return []
