"""What each of torch's functions does to the numbers of units; what is not here holds all that it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from disbud.compaction import moves
from disbud.compaction.coupling import Flags, Numbers
from disbud.compaction.holding import hold_all
from disbud.compaction.watching import Owned, Rule, Watch, varying
from disbud.graph.flow.arithmetic import homes
from disbud.isolation import leaves

Function = Callable[..., object]

_GROUPS = 3  # the place of `groups` among what follows a convolution's bias, transposed or not

_OF_EACH = (
    "relu relu6 hardtanh sigmoid expit tanh gelu silu softplus elu selu celu leaky_relu rrelu hardsigmoid hardswish "
    "mish logsigmoid tanhshrink softsign hardshrink softshrink threshold clamp clip clamp_min clamp_max neg negative "
    "abs absolute exp exp2 expm1 log log1p sqrt rsqrt square reciprocal sin cos erf sign round floor ceil trunc "
    "nan_to_num dropout dropout1d dropout2d dropout3d feature_dropout"
)
_TYPES = "to float double half bfloat16 type_as contiguous clone detach requires_grad_ cpu cuda positive"
_PAIRS = (
    "add sub subtract rsub mul multiply div divide true_divide maximum minimum pow __add__ __radd__ __sub__ __rsub__ "
    "__mul__ __rmul__ __truediv__ __rtruediv__ __pow__"
)
_IN_PLACE = (
    "add_ sub_ subtract_ mul_ multiply_ div_ divide_ true_divide_ __iadd__ __isub__ __imul__ __itruediv__"
)


def rule_of(func: object, kwargs: Mapping[str, object]) -> Rule:
    """The rule for a function; one that writes into a tensor of the caller's is not followed."""
    return hold_all if kwargs.get("out") is not None else _TABLE.get(func, hold_all)


def of_each(
    watch: Watch, func: Function, output: object, input: Tensor, *args: object, **kwargs: object
) -> None:
    """An activation, or another type: each entry stays where it is."""
    same = isinstance(output, Tensor) and output.shape == input.shape and watch.numbers(input) is not None
    if not same or any(isinstance(leaf, Tensor) for leaf in leaves((args, kwargs))):
        hold_all(watch, func, output, input, *args, **kwargs)
        return
    watch.put(output, watch.numbers(input))


def pair(watch: Watch, func: Function, output: object, *args: object, **kwargs: object) -> None:
    """input + other, and the like: units in the same place go together."""
    given = [*args, *(kwargs[name] for name in ("other", "exponent") if name in kwargs)]
    if len(given) < 2 or not isinstance(output, Tensor):
        hold_all(watch, func, output, *args, **kwargs)
        return
    first, second = given[:2]
    a, b = (watch.numbers(value) for value in (first, second))
    if a is not None and b is not None:
        watch.put(output, _joined(watch, first, second, a, b, output.dim()))
        return
    numbers, other = (a, second) if a is not None else (b, first)
    owned = watch.owned.get(id(other))
    if numbers is None:
        hold_all(watch, func, output, *args, **kwargs)
    elif owned is not None:
        _by_entries(watch, owned, first if a is not None else second, numbers)
        watch.put(output, _widened(numbers, output.dim()))
    else:
        dims = numbers.dim()
        if any(_size(other, axis - dims) > 1 for axis in varying(numbers)):
            watch.coupling.hold(numbers.numpy(), "is combined with a constant of a size of its own")
        watch.put(output, _widened(numbers, output.dim()))


def _joined(watch: Watch, first: object, second: object, a: Tensor, b: Tensor, dims: int) -> Tensor:
    """The numbers of what two signals make, their units united where they meet one to one."""
    a, b = _widened(a, dims), _widened(b, dims)
    for mine, its, other in ((a, b, second), (b, a, first)):
        if any(_size(other, axis - dims) == 1 for axis in varying(mine)):
            watch.coupling.hold(its.numpy(), "acts on many channels at once")
            watch.coupling.feed(mine.numpy())
            return mine
    watch.coupling.unite(a.numpy(), b.numpy())
    return torch.maximum(a, b)


def _by_entries(watch: Watch, owned: Owned, other: object, numbers: Tensor) -> None:
    """A parameter that is added or multiplied entry by entry goes by the units that it meets."""
    assert isinstance(other, Tensor)
    for axis in varying(numbers):
        own, along = axis - numbers.dim() + owned.tensor.dim(), watch.along(other, axis)
        if along is None:
            watch.hold_owned(owned, "goes by several axes at once")
            watch.coupling.hold(numbers.numpy(), "goes by several axes at once")
        elif own >= 0 and owned.tensor.shape[own] > 1:
            watch.goes_by(owned, own, along)


def _widened(numbers: Tensor, dims: int) -> Tensor:
    return numbers.reshape([1] * (dims - numbers.dim()) + list(numbers.shape))


def _size(value: object, axis: int) -> int:
    """The size of a tensor along an axis counted from the last; 1 for a number, and where there is no such axis."""
    return value.shape[axis] if isinstance(value, Tensor) and value.dim() >= -axis else 1


# Layers


def linear(
    watch: Watch,
    func: Callable[..., object],
    output: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
) -> None:
    """A linear layer: features in, features out."""
    _layer(watch, output, input, weight, bias, axis=-1, groups=1, usable=np.ones((), np.bool_))


def convolution(
    watch: Watch, func: Callable[..., Tensor], output: Tensor, input: Tensor, weight: Tensor,
    bias: Tensor | None = None, *args: object, **kwargs: object,
) -> None:  # fmt: skip
    """A convolution, transposed or not: channels in, channels out."""
    transposed = "transpose" in func.__name__
    first = weight.shape[0] if transposed else weight.shape[1]
    axis = 1 - weight.dim()
    groups = output.shape[axis] // weight.shape[1] if transposed else input.shape[axis] // first
    usable = _usable(func, input, weight, *args, **kwargs)
    _layer(watch, output, input, weight, bias, axis=axis, groups=groups, usable=usable, transposed=transposed)


def _usable(
    func: Callable[..., Tensor], input: Tensor, weight: Tensor, *args: object, **kwargs: object
) -> Flags:
    """The taps of a kernel that meet anything but padding at some position."""
    spatial = weight.dim() - 2
    tap = torch.ones(1, 1, *weight.shape[2:], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, 1, *input.shape[-spatial:], dtype=torch.float64)
    alone = [1 if i == _GROUPS else arg for i, arg in enumerate(args)]
    kwargs = {name: 1 if name == "groups" else value for name, value in kwargs.items()}
    with torch.enable_grad():
        (found,) = torch.autograd.grad(func(one, tap, None, *alone, **kwargs).sum(), tap)
    return np.asarray((found[0, 0] > 0).numpy())


def _layer(
    watch: Watch, output: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None, *, axis: int, groups: int,
    usable: Flags, transposed: bool = False,
) -> None:  # fmt: skip
    owned = watch.owned.get(id(weight))
    if owned is None or owned.tensor.dim() < 2:
        watch.hold((input, weight, bias), "is read by a weight that is computed, not a plain parameter")
        watch.put(output, None)
        return
    along = watch.along(input, axis)
    if along is None:
        watch.hold(input, "is read along an axis that mixes it with others")
        along = np.zeros(input.shape[axis], np.int64)
    layer = watch.layer_of(owned, inputs=along, groups=groups, transposed=transposed)
    layer.usable = np.asarray(layer.usable | usable)
    counted = input if transposed else output
    watch.count(weight, counted.numel() // max(1, counted.shape[axis]) * weight.numel())
    if bias is not None:
        _goes_by_channels(watch, bias, layer.outputs)
    shape = [1] * output.dim()
    shape[axis] = -1
    watch.put(output, torch.from_numpy(layer.outputs).view(shape))


def _goes_by_channels(watch: Watch, tensor: Tensor | None, numbers: Numbers) -> None:
    """Note that a bias, a scale or a statistic has an entry for each of these units."""
    if tensor is None:
        return
    owned = watch.owned.get(id(tensor))
    if owned is None:
        watch.coupling.hold(numbers, "has a bias or scale that is computed, not a plain parameter")
    else:
        watch.goes_by(owned, 0, numbers)


def embedding(
    watch: Watch, func: Callable[..., object], output: Tensor, input: Tensor, weight: Tensor,
    padding_idx: int | None = None, max_norm: float | None = None, *args: object, **kwargs: object,
) -> None:  # fmt: skip
    """An embedding: its columns are units; its rows are chosen by the input."""
    owned = watch.owned.get(id(weight))
    if owned is None or max_norm is not None:
        hold_all(watch, func, output, input, weight)
        return
    watch.goes_by(owned, 0, np.zeros(weight.shape[0], np.int64), "is a row that the input chooses")
    known = owned.axes.get(1)
    numbers = watch.goes_by(owned, 1, watch.coupling.new(weight.shape[1]) if known is None else known)
    watch.coupling.feed(numbers)
    watch.put(output, torch.from_numpy(numbers).view([1] * (output.dim() - 1) + [-1]))


# Per channel


def batch_norm(
    watch: Watch, func: Callable[..., object], output: Tensor, input: Tensor, *args: object, **kwargs: object
) -> None:
    """BatchNorm and InstanceNorm: each channel by itself, with a scale, a shift and statistics of its own."""
    along = watch.along(input, 1) if input.dim() > 1 else None
    tensors = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if along is None:
        hold_all(watch, func, output, input, *tensors)
        return
    for tensor in tensors:
        _goes_by_channels(watch, tensor, along)
    watch.put(output, watch.numbers(input))


def prelu(watch: Watch, func: Callable[..., object], output: Tensor, input: Tensor, weight: Tensor) -> None:
    """PReLU: one slope, or one a channel."""
    along = watch.along(input, 1) if input.dim() > 1 else None
    if weight.numel() > 1 and along is None:
        hold_all(watch, func, output, input, weight)
        return
    if weight.numel() > 1 and along is not None:
        _goes_by_channels(watch, weight, along)
    watch.put(output, watch.numbers(input))


_RULES: dict[str, Rule] = {
    " ".join(f"{name} {name}_" for name in _OF_EACH.split()): of_each,
    _TYPES: of_each,
    f"{_PAIRS} {_IN_PLACE}": pair,
    "linear": linear,
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d": convolution,
    "embedding": embedding,
    "batch_norm instance_norm": batch_norm,
    "prelu": prelu,
    "mean sum amax amin std var logsumexp": moves.reduced,
    "pad": moves.padded,
    "max_pool1d max_pool1d_with_indices avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d "
    "adaptive_max_pool1d_with_indices lp_pool1d": moves.over_places(1),
    "max_pool2d max_pool2d_with_indices avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d "
    "adaptive_max_pool2d_with_indices lp_pool2d": moves.over_places(2),
    "max_pool3d max_pool3d_with_indices avg_pool3d adaptive_avg_pool3d adaptive_max_pool3d "
    "adaptive_max_pool3d_with_indices lp_pool3d": moves.over_places(3),
    "interpolate upsample": moves.over_places(None),
    "view reshape flatten unflatten view_as reshape_as ravel": moves.viewed,
    "permute transpose transpose_ swapaxes swapdims movedim moveaxis t squeeze unsqueeze cat concat concatenate stack":
        moves.moved,
    "__getitem__ narrow select chunk split unbind index_select flip roll expand expand_as repeat tile pixel_shuffle "
    "pixel_unshuffle": moves.cut,
}  # fmt: skip


def _table() -> dict[object, Rule]:
    return {function: rule for names, rule in _RULES.items() for function in homes(names)}


_TABLE = _table()
