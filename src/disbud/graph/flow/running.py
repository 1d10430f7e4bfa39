"""Running a model as its linearised network: what stands in for its parameters, buffers, functions and inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from disbud.graph.flow.arithmetic import Rule, whole
from disbud.graph.flow.rules import linear_rule
from disbud.graph.flow.signals import Signals, tensors_in
from disbud.isolation import Example, leaves, standing_in

Inputs = tuple[tuple[object, ...], dict[str, object]]
Holder = dict[str, Tensor | None]
StandIn = tuple[Holder, str, Tensor]


@contextlib.contextmanager
def linearised(
    model: nn.Module,
    state: Mapping[str, Tensor],
    buffers: Sequence[StandIn],
    signals: Signals,
    *,
    rule_of: Callable[[object], Rule] = linear_rule,
) -> Iterator[None]:
    """Within the block the model computes with this state and these buffers, by the rules of the linearised network."""
    with (
        standing_in(model, state),
        _replaced(buffers),
        torch._C._DisableAutocast(),
        _Linearised(signals, rule_of),
    ):
        yield


class _Linearised(TorchFunctionMode):
    """While active, every function of a signal does what the linearised network does."""

    def __init__(self, signals: Signals, rule_of: Callable[[object], Rule]) -> None:
        super().__init__()
        self.signals = signals
        self.rule_of = rule_of

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if (
            func is torch._C._set_grad_enabled
        ):  # a backbone that the model keeps from being trained is passed as well
            return None
        with torch._C._DisableAutocast():  # which the model itself may have turned on
            found = [value for value in tensors_in((args, kwargs)) if value in self.signals]
            if any(value.is_floating_point() for value in found):
                return self.rule_of(func)(self.signals, func, *args, **kwargs)
            if found:
                return whole(self.signals, self.rule_of(func), func, *args, **kwargs)
            output = self.signals.constant(func, *args, **kwargs)
            for value in tensors_in((output,)):
                if value.requires_grad:
                    self.signals.put_constant(value)
            return output


def buffers_in(model: nn.Module, dtype: torch.dtype, *, positive: bool) -> Iterator[StandIn]:
    """What stands in for each buffer of numbers: the same in this type, and positive if it belongs to the state."""
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_floating_point():
                positive_too = positive and name not in module._non_persistent_buffers_set
                yield module._buffers, name, (buffer.abs() if positive_too else buffer).to(dtype)


@contextlib.contextmanager
def _replaced(buffers: Sequence[StandIn]) -> Iterator[None]:
    own = [holder[name] for holder, name, _ in buffers]
    try:
        for holder, name, value in buffers:
            holder[name] = value
        yield
    finally:
        for (holder, name, _), buffer in zip(buffers, own, strict=True):
            holder[name] = buffer


def ones_like_example(example: Example, dtype: torch.dtype, device: torch.device | None) -> Inputs:
    """The example's positional and named inputs, with ones for its numbers; whole numbers stay.

    Of rows, images and volumes one is taken, where the model has no other input whose sizes would have to fit. The
    first of three axes may be the batch or a sequence, and stays.
    """
    alone = sum(isinstance(leaf, Tensor) for leaf in leaves(example)) == 1

    def ones(leaf: object) -> object:
        if not isinstance(leaf, Tensor):
            return leaf
        if not leaf.is_floating_point():
            return leaf.to(device)
        shape = (1, *leaf.shape[1:]) if alone and leaf.dim() in (2, 4, 5) else leaf.shape
        return torch.ones(shape, dtype=dtype, device=device)

    if isinstance(example, Mapping):
        return (), {name: tree_map(ones, value) for name, value in example.items()}
    inputs = tuple(example) if isinstance(example, tuple | list) else (example,)
    return tuple(tree_map(ones, value) for value in inputs), {}


def given(signals: Signals, inputs: Inputs) -> Inputs:
    """The inputs as signals, in copies that the model may write over."""
    handed: Inputs = tree_map(
        lambda leaf: signals.begin(leaf.clone()) if isinstance(leaf, Tensor) else leaf, inputs
    )
    for leaf in leaves(handed):  # those in containers that torch does not open
        if isinstance(leaf, Tensor) and leaf not in signals:
            signals.put(leaf)
    return handed
