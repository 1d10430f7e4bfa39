"""The inputs that a model is followed and checked on: of the example's shape, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from disbud.compaction.following import run
from disbud.compaction.widening import wide
from disbud.errors import DisbudError
from disbud.isolation import Example, device_of, forward, isolated, leaves, on_device
from disbud.seeds import generator

ROWS = 4  # of an example with one: BatchNorm cannot be trained on a single one


def inputs_for(work: nn.Module, model: nn.Module, example: Example) -> tuple[Example, int]:
    """Inputs that the working copy gives finite outputs on, and how many times the example's rows they have.

    They are drawn at random, four rows of them where the example has one, or as many as it has where the model takes
    no others, as with a mask of its own. Where the model is not defined on random numbers, as a logarithm is not, they
    are the example's own.
    """
    problem: Exception | None = None
    ran = False
    for inputs, rows in _candidates(example):
        try:
            with isolated(work, seed=0):
                outputs = leaves(run(work, inputs))
        except Exception as error:
            problem = error
            continue
        if all(bool(leaf.isfinite().all()) for leaf in outputs if isinstance(leaf, Tensor)):
            return inputs, rows
        ran = True
    if ran:
        raise DisbudError(
            "the outputs of this model are not finite, neither on random inputs of the example's shape nor on the "
            "example's own numbers, so nothing can be checked; give an example with numbers that the model is meant for"
        )
    assert problem is not None
    if _runs(model, example):
        raise DisbudError(
            f"the model runs on the example, but not in float64, in which compaction checks what it does ({problem}); "
            "a tensor that its forward makes or holds in a type of its own should be a buffer, or take the type of "
            "what it meets, as in torch.from_numpy(table).to(x.dtype)"
        ) from problem
    raise problem


def _candidates(example: Example) -> Iterator[tuple[Example, int]]:
    tensors = [leaf for leaf in leaves(example) if isinstance(leaf, Tensor)]
    if tensors and all(leaf.dim() > 1 and leaf.shape[0] == 1 for leaf in tensors):
        yield _drawn(example, rows=ROWS), ROWS
    yield _drawn(example, rows=1), 1
    yield _each(example, lambda tensor: wide(tensor.detach())), 1


def _drawn(example: Example, *, rows: int) -> Example:
    draws = generator(0, "compaction")

    def drawn(tensor: Tensor) -> Tensor:
        shape = (rows * tensor.shape[0], *tensor.shape[1:]) if tensor.dim() else tensor.shape
        if tensor.is_complex() or tensor.is_floating_point():
            dtype = torch.complex128 if tensor.is_complex() else torch.float64
            return torch.randn(shape, generator=draws, dtype=dtype)
        return tensor.detach().cpu().expand(shape).contiguous()

    return _each(example, drawn)


def _each(example: Example, function: Callable[[Tensor], Tensor]) -> Example:
    """The example with every tensor in it replaced."""

    def replaced(leaf: object) -> object:
        return function(leaf) if isinstance(leaf, Tensor) else leaf

    if isinstance(example, Mapping):
        return {name: tree_map(replaced, value) for name, value in example.items()}
    found: Example = tree_map(replaced, example)
    return found


def _runs(model: nn.Module, example: Example) -> bool:
    """Whether the model as it was given takes the example as it was given."""
    try:
        with isolated(model, seed=0):
            forward(model, on_device(example, device_of(model)))
    except Exception:
        return False
    return True
