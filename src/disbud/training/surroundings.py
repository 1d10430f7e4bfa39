"""What a run sets around itself and puts back: random streams, kernels, modes, precision, memory order."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy
import torch

from disbud.seeds import global_streams

if TYPE_CHECKING:
    from torch import nn

    from disbud.training.recipes import Recipe


@contextlib.contextmanager
def around(model: nn.Module, *, seed: int, device: torch.device, recipe: Recipe) -> Iterator[None]:
    """All that a run by this recipe sets around itself, put back at the end, however it ends."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(global_streams(seed, "training"))
        stack.enter_context(same_kernels(device))
        stack.enter_context(in_mode(model, "train"))
        if recipe.channels_last:
            stack.enter_context(channels_last(model))
        yield


# The states of numpy's and Python's streams, in types that a checkpoint may hold.
Streams = tuple[tuple[list[int], int, int, float], tuple[int, tuple[int, ...], float | None]]


def seed_torch(device: torch.device, seed: int) -> None:
    """Seed torch's streams for one step, so that its dropout depends on no step before it.

    To be called inside `disbud.seeds.global_streams`, which puts them back.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def seed_others(seed: int) -> None:
    """Seed the streams of numpy and Python, for an epoch: once a step would slow small networks."""
    numpy.random.seed(seed % 2**32)
    random.seed(seed)


def others() -> Streams:
    """Where the streams of numpy and Python are."""
    found = numpy.random.get_state(legacy=False)
    inner = found["state"]
    return (inner["key"].tolist(), inner["pos"], found["has_gauss"], found["gauss"]), random.getstate()


def set_others(streams: Streams) -> None:
    """Put the streams of numpy and Python where `others` found them."""
    keys, position, has_normal, normal = streams[0]
    numpy.random.set_state(("MT19937", numpy.array(keys, numpy.uint32), position, has_normal, normal))
    version, python_keys, python_normal = streams[1]
    random.setstate((version, tuple(python_keys), python_normal))


@contextlib.contextmanager
def same_kernels(device: torch.device) -> Iterator[None]:
    """Have cuDNN choose its kernels without a stopwatch, among those that give the same bits each time."""
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """Autocast to bfloat16, or nothing."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


@contextlib.contextmanager
def in_mode(model: nn.Module, mode: str) -> Iterator[None]:
    """The whole model in train or eval mode inside the block, each module in its own mode again after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.train(mode == "train")
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def channels_last(model: nn.Module) -> Iterator[None]:
    """The weights of 2-d convolutions in channels_last order inside the block; values stay what they are."""
    moved = [tensor for tensor in model.parameters() if tensor.dim() == 4 and tensor.is_contiguous()]
    for tensor in moved:
        tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for tensor in moved:
            tensor.data = tensor.data.contiguous()
