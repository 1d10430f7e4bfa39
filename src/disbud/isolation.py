"""Looking at a model without leaving a trace: modes, buffers, gradients and random streams come back as they were."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import tree_map

from disbud.errors import DisbudError
from disbud.seeds import global_streams

Example = Tensor | tuple[object, ...] | list[object] | Mapping[str, object]
Nested = TypeVar("Nested")


def bare(model: nn.Module) -> nn.Module:
    """The user's own module inside torch.compile's and the data-parallel wrappers."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch._dynamo.OptimizedModule)
    while isinstance(model, wrappers):
        model = model._orig_mod if isinstance(model, torch._dynamo.OptimizedModule) else model.module
    return model


@contextlib.contextmanager
def isolated(model: nn.Module, *, seed: int, batch_norm: str = "eval") -> Iterator[None]:
    """Run a model inside the block with dropout off and BatchNorm in the mode asked, and leave it as it was.

    Everything but normalisation with running statistics is in eval mode. Buffers are put back, also when the block
    raises; the global random streams are seeded inside and restored after.
    """
    if batch_norm not in ("train", "eval"):
        raise DisbudError(f"BatchNorm is scored in 'train' or in 'eval' mode, not {batch_norm!r}")
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        for module, _ in modes:
            module.training = batch_norm == "train" and isinstance(module, _NormBase)
        with global_streams(seed, "inside the model"):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                buffer.copy_(value)
                module._buffers[name] = buffer


def forward(model: nn.Module, example: Example) -> object:
    """Call the model on one example: a tensor, a tuple or list of inputs, or a mapping of named inputs."""
    if isinstance(example, Mapping):
        return model(**example)
    if isinstance(example, tuple | list):
        return model(*example)
    if not isinstance(example, Tensor):
        raise DisbudError(
            f"an example is a tensor, a tuple or a dict of inputs, not a {type(example).__name__}"
        )
    return model(example)


def device_of(model: nn.Module) -> torch.device | None:
    """The one device all parameters are on; None where they are on several."""
    devices = {parameter.device for parameter in model.parameters()}
    return devices.pop() if len(devices) == 1 else None


def on_device(values: Nested, device: torch.device | None) -> Nested:
    """Nested containers of tensors, moved to the device where one is given."""
    if device is None:
        return values

    def move(leaf: object) -> object:
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf.device.type == "meta" and device.type != "meta":
            raise DisbudError(f"a tensor on the meta device holds no values; the model is on {device}")
        return leaf.to(device)

    moved: Nested = tree_map(move, values)
    return moved
