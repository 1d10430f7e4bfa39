"""Which channels that nothing feeds say nothing: zero wherever they are read, and no parameter can learn through them.

A channel that the input does not reach still speaks through its bias or its BatchNorm's shift. It can go only where
what it says is zero, in evaluation and in training, and where no derivative would change that: after a ReLU, for one,
where the shift is not above zero.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from disbud.compaction.coupling import Flags, Numbers
from disbud.compaction.following import Followed, run
from disbud.compaction.watching import Layer
from disbud.compaction.widening import real
from disbud.graph import LAYER_FUNCTIONS
from disbud.graph.flow.arithmetic import homes
from disbud.isolation import Example, isolated
from disbud.seeds import generator
from disbud.ticket import Ticket

_DROPOUT = frozenset(homes("dropout dropout1d dropout2d dropout3d feature_dropout"))
_NORMS = frozenset(homes("batch_norm instance_norm"))
_BATCH_NORM = inspect.signature(functional.batch_norm)
_ROUNDING = 1e-6  # float32's, with room: a constant minus its mean, before it is divided by the root of eps


def silent(work: nn.Module, ticket: Ticket, followed: Followed, inputs: Example, candidates: Flags) -> Flags:
    """The candidates of which neither a value nor a derivative is seen."""
    left = candidates.copy()
    for training, noise in ((False, 0.0), (True, 1.0), (True, -1.0)):
        if not left.any():
            break
        try:
            left &= ~_heard(work, ticket, followed, inputs, left, training=training, noise=noise)
        except Exception:  # it cannot be trained on inputs such as these, so nothing is known
            return followed.channels.flags()
    return left


def _heard(
    work: nn.Module,
    ticket: Ticket,
    followed: Followed,
    inputs: Example,
    candidates: Flags,
    *,
    training: bool,
    noise: float,
) -> Flags:
    """The candidates that say something in this mode."""
    heard = followed.channels.flags()
    of = followed.channels.of
    name_of = {id(owned.tensor): owned.name for owned in followed.owned.values()}
    listening = _Listening(noise)
    draws = generator(0, "silence")
    total = torch.zeros((), dtype=torch.float64)
    with isolated(work, seed=0):
        work.train(training)
        with listening:
            run(work, inputs)
        for weight, read in listening.read:
            layer = followed.layers.get(name_of.get(id(weight), ""))
            if layer is None:
                continue
            channels = of[layer.inputs]
            by_unit = read.movedim(-1 if weight.dim() == 2 else 1 - weight.dim(), 0).flatten(1)
            by_unit = by_unit[torch.from_numpy(candidates[channels])]
            channels = channels[candidates[channels]]
            heard[channels[(by_unit.detach() != 0).any(1).numpy()]] = True
            numbers = real(by_unit)
            total = total + (numbers * torch.rand(numbers.shape, generator=draws, dtype=torch.float64)).sum()
        for found in _learning(total, ticket, followed):
            if found is None:
                return candidates
            heard[of[found]] = True
    return heard


def _learning(total: Tensor, ticket: Ticket, followed: Followed) -> Iterator[Numbers | None]:
    """The units whose parameters have a derivative; None where a parameter has one that goes by no unit."""
    if not total.requires_grad:
        return
    trained = [owned for owned in followed.owned.values() if owned.tensor.requires_grad]
    found = torch.autograd.grad(total, [owned.tensor for owned in trained], allow_unused=True)
    for owned, gradient in zip(trained, found, strict=True):
        if gradient is None:
            continue
        mask = ticket.masks.get(owned.name)
        moving = (gradient if mask is None else gradient.masked_fill(~mask, 0)) != 0
        if not bool(moving.any()):
            continue
        layer = followed.layers.get(owned.name)
        if layer is not None:
            yield layer.outputs[_along_outputs(layer, moving)]
        elif not owned.axes:
            yield None
        else:
            for axis, numbers in owned.axes.items():
                yield numbers[
                    moving.movedim(axis, 0).flatten(1).any(1).numpy() if moving.dim() > 1 else moving.numpy()
                ]


def _along_outputs(layer: Layer, moving: Tensor) -> Flags:
    """Which outputs of a layer some entry of its weight belongs to."""
    if not layer.transposed:
        found: Flags = moving.flatten(1).any(1).numpy()
        return found
    grouped = moving.reshape(layer.groups, -1, moving.shape[1], moving[0, 0].numel())
    by_group: Flags = grouped.any(3).any(1).flatten().numpy()
    return by_group


class _Listening(TorchFunctionMode):
    """Notes what each layer reads, with dropout off.

    In training a constant minus its mean is zero but for rounding, on which nothing may depend: `noise` is added to
    what normalisation makes, in that size, upwards or downwards.
    """

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.read: list[tuple[Tensor, Tensor]] = []
        self._noise = noise

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = dict(kwargs or {})
        if func in _DROPOUT:
            return args[0]
        output = func(*args, **kwargs)
        if func in LAYER_FUNCTIONS:
            weight = kwargs.get("weight", args[1] if len(args) > 1 else None)
            read = kwargs.get("input", args[0] if args else None)
            if isinstance(weight, Tensor) and isinstance(read, Tensor):
                self.read.append((weight, read))
        elif func in _NORMS and self._noise:
            return _disturbed(func, output, args, kwargs, self._noise)
        return output


def _disturbed(
    func: Callable[..., object],
    output: object,
    args: tuple[object, ...],
    kwargs: dict[str, object],
    noise: float,
) -> object:
    """What normalisation makes, with rounding as large as it can be in float32."""
    assert isinstance(output, Tensor)
    input, scale, eps = args[0] if args else kwargs["input"], None, 1e-5
    if func is functional.batch_norm:
        given = _BATCH_NORM.bind(*args, **kwargs)
        given.apply_defaults()
        scale, eps = given.arguments["weight"], given.arguments["eps"]
    assert isinstance(input, Tensor)
    around = [axis for axis in range(input.dim()) if axis != 1]
    size = input.detach().abs().amax(around) * (_ROUNDING / max(eps, 1e-12) ** 0.5)
    if isinstance(scale, Tensor):
        size = size * scale.detach().abs()
    return output + noise * size.view(-1, *[1] * (input.dim() - 2))
