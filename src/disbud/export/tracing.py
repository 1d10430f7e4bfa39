"""From a network to the operations it computes for one input; what cannot be written down is refused by name."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from disbud.errors import DisbudError
from disbud.export.operations import Program, alike
from disbud.export.recording import Recorder
from disbud.export.rules import apply
from disbud.isolation import Example, isolated, leaves
from disbud.seeds import generator


def traced(model: nn.Module, example: Example) -> Program:
    """What the model computes in evaluation for one input of the example's shape.

    Two runs on different inputs have to read alike: a forward that decides by values, or draws, is found out.
    """
    shape = _input_shape(example)
    work = copy.deepcopy(model).to("cpu", torch.float32)
    first, second = (
        _run(work, torch.randn(shape, generator=generator(0, "export", run))) for run in range(2)
    )
    if not alike(first, second):
        raise DisbudError(
            "this network computes otherwise for another input of the same shape, or draws at random in evaluation: "
            "it cannot be written as C; export the part of it that is the same for all inputs"
        )
    return first


def _input_shape(example: Example) -> tuple[int, ...]:
    if not isinstance(example, Tensor) or not example.is_floating_point() or example.dim() < 2:
        got = (
            f"a tensor of {example.dtype} and shape {tuple(example.shape)}"
            if isinstance(example, Tensor)
            else type(example).__name__
        )
        raise DisbudError(
            f"C is written for networks that read one tensor of floating point with a row for each input, such as "
            f"torch.zeros(1, 3, 32, 32); the example is {got}"
        )
    return (1, *example.shape[1:])


def _run(work: nn.Module, input: Tensor) -> Program:
    recorder = Recorder(work, apply)
    with isolated(work, seed=0), torch.no_grad():
        read = recorder.new(input)
        with recorder:
            output = work(input)
    found = [leaf for leaf in leaves(output) if isinstance(leaf, Tensor)]
    if len(found) != 1:
        raise DisbudError(
            f"this network returns {len(found)} tensors, and C is written for networks that return one"
        )
    return Program(read, recorder.value(found[0], "the output"), recorder.operations)
