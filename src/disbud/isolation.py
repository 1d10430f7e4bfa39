"""Looking at a model without leaving a trace: modes, buffers, gradients and random streams come back as they were."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import tree_leaves, tree_map

from disbud.errors import DisbudError
from disbud.parameters import parameters
from disbud.seeds import global_streams

Example = Tensor | tuple[object, ...] | list[object] | Mapping[str, object]
Nested = TypeVar("Nested")


def bare(model: nn.Module) -> nn.Module:
    """The user's own module inside torch.compile's and the data-parallel wrappers."""
    # Asking torch for its compiler imports it, a second's work; where nobody has, no model is compiled.
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    while True:
        if compiler is not None and isinstance(model, compiler.OptimizedModule):
            model = model._orig_mod
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


class _State:
    """What a forward pass can change in a module, as it was: attributes (the mode too) and buffers."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.training = module.training
        self.attributes = dict(vars(module))
        self.buffers = dict(module._buffers)
        self.values = {name: buffer.clone() for name, buffer in self.buffers.items() if buffer is not None}

    def restore(self) -> None:
        now = vars(self.module)
        for name in now.keys() - self.attributes.keys():
            del now[name]
        now.update(self.attributes)
        self.module.training = self.training  # a scripted module keeps its mode elsewhere
        for name in self.module._buffers.keys() - self.buffers.keys():
            del self.module._buffers[name]
        for name, buffer in self.buffers.items():
            if buffer is not None:
                buffer.copy_(self.values[name])
            self.module._buffers[name] = buffer


@contextlib.contextmanager
def isolated(model: nn.Module, *, seed: int, batch_norm: str = "eval") -> Iterator[None]:
    """Run a model inside the block with dropout off and BatchNorm in the mode asked, and leave it as it was.

    Everything but normalisation with running statistics is in eval mode. Buffers and attributes are put back, also
    when the block raises; the global random streams are seeded inside and restored after. Gradients can be taken
    inside, whatever the caller switched off.
    """
    if batch_norm not in ("train", "eval"):
        raise DisbudError(f"BatchNorm is scored in 'train' or in 'eval' mode, not {batch_norm!r}")
    states = [_State(module) for module in model.modules()]
    try:
        for state in states:
            state.module.training = batch_norm == "train" and isinstance(state.module, _NormBase)
        with torch.inference_mode(mode=False), torch.enable_grad(), global_streams(seed, "inside the model"):
            yield
    finally:
        with torch.no_grad():
            for state in states:
                state.restore()


@contextlib.contextmanager
def standing_in(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block the model computes with these tensors in the place of its parameters of those canonical names.

    The module itself is called, so methods, submodules, hooks and type are there. A shared parameter is held in several
    places. Derivatives belong inside the block too, since activation checkpointing computes forward once more for them.
    """
    name_of = {id(parameter): name for name, parameter in parameters(model).items()}
    places: list[tuple[dict[str, Tensor | None], str, Tensor]] = [
        (module._parameters, key, parameter)  # type: ignore[misc]
        for module in model.modules()
        for key, parameter in module._parameters.items()
        if parameter is not None and name_of[id(parameter)] in tensors
    ]
    try:
        for holder, key, parameter in places:
            holder[key] = tensors[name_of[id(parameter)]]
        yield
    finally:
        for holder, key, parameter in places:
            holder[key] = parameter


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


def the_device(model: nn.Module) -> torch.device:
    """The one device the model is on."""
    device = device_of(model)
    if device is None:
        raise DisbudError("the model has no parameters, or has them on several devices; it must be on one")
    return device


def on_device(values: Nested, device: torch.device | None) -> Nested:
    """Nested containers of tensors, moved to the device where one is given."""
    if device is None:
        return values

    def move(leaf: object) -> object:
        if isinstance(leaf, Mapping) and callable(getattr(leaf, "to", None)):
            return leaf.to(device)  # type: ignore[attr-defined]
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf.device.type == "meta" and device.type != "meta":
            raise DisbudError(f"a tensor on the meta device holds no values; the model is on {device}")
        return leaf.to(device)

    moved: Nested = tree_map(move, values)
    return moved


def leaves(values: object) -> list[object]:
    """What nested containers hold, in order; mappings and dataclasses are opened too, which torch does not know."""
    return [leaf for part in tree_leaves(values) for leaf in _opened(part)]


def _opened(value: object) -> list[object]:
    if isinstance(value, Mapping):
        return leaves(dict(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return leaves([getattr(value, field.name) for field in dataclasses.fields(value)])
    return [value]
