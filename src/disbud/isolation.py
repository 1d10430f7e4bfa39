"""Looking at a model without leaving a trace: modes, buffers, caches and random streams come back as they were."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

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


_CONTAINERS = frozenset({list, dict, set, OrderedDict, defaultdict, deque})


class _State:
    """What a forward pass can change in a module, as it was: attributes (the mode too), what they hold, buffers."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.training = module.training
        self.attributes = dict(vars(module))
        self.held = [
            (holder, dict(holder) if isinstance(holder, dict) else list(holder))
            for holder in _containers(vars(module).values())
        ]
        self.trained = [(p, p.requires_grad) for p in module._parameters.values() if p is not None]
        self.buffers = dict(module._buffers)
        self.values = {
            name: buffer.detach().clone() for name, buffer in self.buffers.items() if buffer is not None
        }

    def enter(self) -> None:
        """Let the module write to its buffers: one made under torch.inference_mode is a copy meanwhile."""
        for name, value in self.values.items():
            if self.buffers[name].is_inference():  # type: ignore[union-attr]
                self.module._buffers[name] = value

    def restore(self) -> None:
        now = vars(self.module)
        for name in now.keys() - self.attributes.keys():
            del now[name]
        now.update(self.attributes)
        self.module.training = self.training  # a scripted module keeps its mode elsewhere
        for holder, kept in self.held:
            if holder or kept:
                holder.clear()
                (holder.extend if isinstance(holder, list | deque) else holder.update)(kept)
        for parameter, trained in self.trained:
            if parameter.requires_grad is not trained:
                parameter.requires_grad_(trained)
        for name, buffer in self.buffers.items():
            self.module._buffers[name] = buffer
            if buffer is not None and _can_be_written(buffer):
                # Past autograd: a graph of the caller's that needs the buffer finds what it saved.
                buffer.data.copy_(self.values[name])


def _containers(values: Iterable[Any]) -> list[Any]:
    """The plain containers among some values, and those that these hold, each once."""
    found: dict[int, Any] = {}
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if type(value) in _CONTAINERS and id(value) not in found:
            found[id(value)] = value
            if value:
                waiting += value.values() if isinstance(value, dict) else value
    return list(found.values())


def _can_be_written(buffer: Tensor) -> bool:
    """Whether torch writes to it outside of torch.inference_mode: not where one number in memory is several entries."""
    expanded = buffer.layout is torch.strided and any(
        step == 0 and size > 1 for step, size in zip(buffer.stride(), buffer.shape, strict=True)
    )
    return not (expanded or buffer.is_inference())


@contextlib.contextmanager
def isolated(model: nn.Module, *, seed: int, batch_norm: str = "eval") -> Iterator[None]:
    """Run a model inside the block with dropout off and BatchNorm in the mode asked, and leave it as it was.

    Everything but normalisation with running statistics is in eval mode. Buffers, attributes, what lists, dicts and
    sets among them hold, submodules and which parameters are trained are put back, also when the block raises; the
    global random streams are seeded inside and restored after. Gradients can be taken inside, whatever the caller
    switched off; nothing is compiled there, and activation checkpoints are plain calls.
    """
    if batch_norm not in ("train", "eval"):
        raise DisbudError(f"BatchNorm is scored in 'train' or in 'eval' mode, not {batch_norm!r}")
    with torch.inference_mode(mode=False), torch.enable_grad():
        states = [_State(module) for module in model.modules()]
        try:
            for state in states:
                state.enter()
                state.module.training = batch_norm == "train" and isinstance(state.module, _NormBase)
            with _as_written(), global_streams(seed, "inside the model"):
                yield
        finally:
            with torch.no_grad():
                for state in states:
                    state.restore()


def _around_nothing(*_: object, **__: object) -> Iterator[None]:
    """What torch.utils.checkpoint runs before and after a call: nothing."""
    yield


class _PlainCall:
    """In the place of the autograd function by which a reentrant checkpoint calls."""

    @staticmethod
    def apply(function: Callable[..., object], preserve_rng_state: object, *args: object) -> object:
        return function(*args)


# What torch.utils.checkpoint calls by, and what stands in for it.
_PLAIN: dict[str, object] = {
    "_checkpoint_without_reentrant_generator": _around_nothing,
    "CheckpointFunction": _PlainCall,
}


@contextlib.contextmanager
def _as_written() -> Iterator[None]:
    """Within the block a model's own Python runs, once for each call.

    Compiled code has derivatives of the first order only, and rules for torch's functions never see what it calls.
    Checkpoints compute forward again during backward: by other rules, and with other weights, than the first time.
    """
    checkpoints = sys.modules.get("torch.utils.checkpoint")
    found = {name: getattr(checkpoints, name, plain) for name, plain in _PLAIN.items()}
    own = {name: value for name, value in found.items() if value is not _PLAIN[name]}
    # Asking for the compiler's stance imports the compiler; where nobody has, nothing is compiled.
    compiled = "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")
    with torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext():
        try:
            for name in own:
                setattr(checkpoints, name, _PLAIN[name])
            yield
        finally:
            for name, value in own.items():
                setattr(checkpoints, name, value)


@contextlib.contextmanager
def standing_in(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block the model computes with these tensors in the place of its parameters of those canonical names.

    The module itself is called, so methods, submodules, hooks and type are there. A shared parameter is held in several
    places, and recurrent layers keep a list of theirs.
    """
    name_of = {id(parameter): name for name, parameter in parameters(model).items()}
    places = [
        place
        for module in model.modules()
        for place in _places(module)
        if name_of.get(id(place[2])) in tensors
    ]
    try:
        for holder, key, parameter in places:
            holder[key] = tensors[name_of[id(parameter)]]
        yield
    finally:
        for holder, key, parameter in places:
            holder[key] = parameter


def _places(module: nn.Module) -> Iterator[tuple[Any, str | int, Tensor]]:
    """Where a module holds its own parameters: in what, and at which key there."""
    for name, parameter in module._parameters.items():
        if parameter is not None:
            yield module._parameters, name, parameter
    flat = vars(module).get("_flat_weights")  # what recurrent layers compute with
    for i, parameter in enumerate(flat if isinstance(flat, list) else []):
        if parameter is not None:
            yield flat, i, parameter


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


def usable(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of one that was made in inference mode, which derivatives cannot use."""
    with torch.inference_mode(mode=False):
        return tensor.clone() if tensor.is_inference() else tensor


def on_device(values: Nested, device: torch.device | None) -> Nested:
    """Nested containers of tensors, moved to the device where one is given, with none that derivatives cannot use."""

    def move(leaf: object) -> object:
        if isinstance(leaf, Mapping) and callable(getattr(leaf, "to", None)):
            return leaf if device is None else leaf.to(device)  # type: ignore[attr-defined]
        if not isinstance(leaf, Tensor):
            return leaf
        if device is not None and leaf.is_meta and device.type != "meta":
            raise DisbudError(f"a tensor on the meta device holds no values; the model is on {device}")
        with torch.inference_mode(mode=False):
            return usable(leaf if device is None else leaf.to(device))

    moved: Nested = tree_map(move, values)
    return moved


def to_write_on(values: Nested) -> Nested:
    """The same in copies: a model may write over what it is given."""
    copies: Nested = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, values)
    return copies


def leaves(values: object) -> list[object]:
    """What nested containers hold, in order; mappings and dataclasses are opened too, which torch does not know."""
    return [leaf for part in tree_leaves(values) for leaf in _opened(part)]


def _opened(value: object) -> list[object]:
    if isinstance(value, Mapping):
        return leaves(dict(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return leaves([getattr(value, field.name) for field in dataclasses.fields(value)])
    return [value]
