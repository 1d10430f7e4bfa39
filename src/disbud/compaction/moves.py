"""Functions that move, pool or pad entries: which unit each entry is of afterwards, and which would not survive a cut.

A move is written with sizes and places of the full network. It is followed where the same call, made on a network with
fewer units, gives what is left of its outcome; otherwise the units stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from disbud.compaction.holding import hold_all
from disbud.compaction.watching import Rule, Watch, varying
from disbud.isolation import leaves

Function: TypeAlias = Callable[..., object]


def moved(watch: Watch, func: Function, output: object, *args: object, **kwargs: object) -> None:
    """Transposition, concatenation: names axes, not places, and so holds for any number of units."""
    if _uses_parameters(watch, func, output, args, kwargs):
        return
    numbers = _on_numbers(watch, func, args, kwargs)
    if watch.strict and any(
        isinstance(leaf, Tensor) and watch.numbers(leaf) is None for leaf in leaves((args, kwargs))
    ):
        watch.hold((args, kwargs), "is put beside a constant of a size of its own")
    _put(watch, output, numbers)


def viewed(
    watch: Watch, func: Function, output: object, input: Tensor, *args: object, **kwargs: object
) -> None:
    """Another shape: an axis of units may be merged with others, but not split.

    Sizes given as plain numbers are taken to be computed from the signal's own; `strict`, to be meant.
    """
    if _uses_parameters(watch, func, output, (input, *args), kwargs):
        return
    numbers = watch.numbers(input)
    if not isinstance(output, Tensor) or numbers is None or output.dtype != input.dtype:
        hold_all(watch, func, output, input, *args, **kwargs)
        return
    into = {axis: _axis_holding(input.shape, axis, output.shape) for axis in varying(numbers)}
    sizes = [
        size for arg in (*args, *kwargs.values()) for size in (arg if isinstance(arg, Sequence) else [arg])
    ]
    meant = watch.strict and any(axis is not None and output.shape[axis] in sizes for axis in into.values())
    if None in into.values() or meant:
        watch.coupling.hold(numbers.numpy(), "is put into a shape that is fixed")
    watch.put(output, numbers.expand(input.shape).reshape(output.shape))


def _axis_holding(shape: Sequence[int], axis: int, among: Sequence[int]) -> int | None:
    """The axis of the other shape that an axis lies in, in one piece and at its even pace; None where it is split."""
    step, size = math.prod(shape[axis + 1 :]), shape[axis]
    for other in range(len(among)):
        its = math.prod(among[other + 1 :])
        if its <= step and its * among[other] >= step * size:
            return other if step % max(1, its) == 0 and (its * among[other]) % (step * size) == 0 else None
    return None


def cut(watch: Watch, func: Function, output: object, input: object, *args: object, **kwargs: object) -> None:
    """Indexing, chunks, repeats: followed where the same call on fewer units gives what is left of its outcome."""
    given = (input, *args)
    if _uses_parameters(watch, func, output, given, kwargs):
        return
    if not isinstance(input, Tensor) or watch.numbers(input) is None:
        hold_all(watch, func, output, *given, **kwargs)
        return
    numbers = watch.full(input)
    try:
        after = func(numbers, *args, **kwargs)
        survives = _survives(func, numbers, after, args, kwargs)
    except (RuntimeError, TypeError, IndexError, ValueError):
        hold_all(watch, func, output, *given, **kwargs)
        return
    if not survives:
        watch.coupling.hold(numbers.numpy(), "is told from others by its place")
    _put(watch, output, after)


def _survives(
    func: Function, numbers: Tensor, after: object, args: tuple[object, ...], kwargs: dict[str, object]
) -> bool:
    """Whether the call gives what is left of its outcome when some units are not there."""
    axes = [axis for axis, size in enumerate(numbers.shape) if size > 1]
    axes = [axis for axis in axes if bool((numbers != numbers.narrow(axis, 0, 1)).any())]
    if not axes:
        return True
    every = numbers.unique()
    every = every[every != 0]
    for gone in (every[:1], every[-1:], every[::2], every[len(every) // 2 :]):
        fewer = _without(numbers, gone)
        if fewer is None:
            return False
        if not fewer.numel():
            continue
        try:
            found = func(fewer, *args, **kwargs)
        except (RuntimeError, IndexError, ValueError):
            return False
        wanted = [_without(leaf, gone) for leaf in leaves(after) if isinstance(leaf, Tensor)]
        got = [leaf for leaf in leaves(found) if isinstance(leaf, Tensor)]
        if len(got) != len(wanted) or not all(
            want is not None and torch.equal(one, want) for one, want in zip(got, wanted, strict=True)
        ):
            return False
    return True


def _without(numbers: Tensor, gone: Tensor) -> Tensor | None:
    """The numbers with the slices left out that are of units gone; None where they are not whole slices."""
    out = torch.isin(numbers, gone)
    for axis in range(numbers.dim()):
        others = [i for i in range(numbers.dim()) if i != axis]
        some = out.amax(others) if others else out
        every = out.amin(others) if others else out
        if torch.equal(some, every):
            return numbers.index_select(axis, (~some).nonzero().flatten())
    return None


def reduced(
    watch: Watch, func: Function, output: object, input: Tensor, *args: object, **kwargs: object
) -> None:
    """mean, sum and the like over axes: the units stay apart where the axes are not theirs."""
    if _uses_parameters(watch, func, output, (input, *args), kwargs):
        return
    numbers = watch.numbers(input)
    dims = kwargs.get("dim", kwargs.get("axis", args[0] if args else None))
    if numbers is None or not isinstance(output, Tensor) or isinstance(dims, bool) or dims in ((), []):
        hold_all(watch, func, output, input, *args, **kwargs)
        return
    if dims is None:
        over = set(range(input.dim()))
    else:
        listed = dims if isinstance(dims, Sequence) else [dims]
        over = {axis % max(1, input.dim()) for axis in listed if isinstance(axis, int)}
    if over & set(varying(numbers)):
        hold_all(watch, func, output, input, *args, **kwargs)
        return
    kept = output.dim() == input.dim()
    left = [size for axis, size in enumerate(numbers.shape) if kept or axis not in over]
    watch.put(output, numbers.reshape(left))


def over_places(spatial: int | None) -> Rule:
    """Pooling and resizing over the last axes, so many of them; None: all but the first two."""

    def rule(
        watch: Watch, func: Function, output: object, input: Tensor, *args: object, **kwargs: object
    ) -> None:
        numbers = watch.numbers(input)
        count = input.dim() - 2 if spatial is None else spatial
        made = [leaf for leaf in leaves(output) if isinstance(leaf, Tensor)]
        if numbers is None or any(axis >= input.dim() - count for axis in varying(numbers)):
            hold_all(watch, func, output, input, *args, **kwargs)
            return
        for tensor in made:
            watch.put(tensor, numbers)

    return rule


def padded(
    watch: Watch, func: Function, output: object, input: Tensor, pad: Sequence[int], mode: str = "constant",
    value: float | None = None,
) -> None:  # fmt: skip
    """Padding: between places it is nothing; beside units it adds some that stay."""
    numbers = watch.numbers(input)
    touched = {input.dim() - 1 - i // 2 for i, size in enumerate(pad) if size}
    if numbers is None or (touched & set(varying(numbers)) and mode != "constant"):
        hold_all(watch, func, output, input)
    elif touched & set(varying(numbers)):
        cut(watch, _padding, output, input, pad)
    else:
        watch.put(output, numbers)


def _padding(numbers: Tensor, pad: Sequence[int]) -> Tensor:
    return torch.nn.functional.pad(numbers, list(pad))


def _uses_parameters(
    watch: Watch, func: Function, output: object, args: tuple[object, ...], kwargs: dict[str, object]
) -> bool:
    """Whether a parameter is moved, which is not followed."""
    if not any(id(leaf) in watch.owned for leaf in leaves((args, kwargs))):
        return False
    hold_all(watch, func, output, *args, **kwargs)
    return True


def _on_numbers(watch: Watch, func: Function, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
    given = tree_map(lambda leaf: watch.full(leaf) if isinstance(leaf, Tensor) else leaf, (args, kwargs))
    return func(*given[0], **given[1])


def _put(watch: Watch, output: object, numbers: object) -> None:
    made = [leaf for leaf in leaves(output) if isinstance(leaf, Tensor)]
    found = [leaf for leaf in leaves(numbers) if isinstance(leaf, Tensor)]
    for tensor, its in zip(made, found, strict=True):
        watch.put(tensor, its)
