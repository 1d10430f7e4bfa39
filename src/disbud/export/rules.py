"""Which operations each of torch's functions is; functions go by their names, whichever class they are called on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from disbud.errors import DisbudError
from disbud.export.layer_rules import batch_norm, convolution, linear
from disbud.export.moving import MOVES, moved
from disbud.export.operations import Along, Combine, Elementwise, View
from disbud.export.pooling_rules import adaptive_pool, average_pool, max_pool
from disbud.export.recording import Recorder
from disbud.isolation import leaves

Rule: TypeAlias = Callable[..., None]

_PRECISIONS = (torch.float32, torch.float64)
# They ask for a size or a type, and what they give is no tensor.
_ASKED = (
    "size dim ndimension numel nelement stride storage_offset is_floating_point is_complex is_contiguous __len__ "
    "__get__ get_device element_size data_ptr type is_signed __hash__ __repr__"
)
_QUESTIONS = frozenset(_ASKED.split())
_TYPES = frozenset({"to", "float", "double", "type", "type_as"})
_DROPOUTS = frozenset(
    {"alpha_dropout", "feature_alpha_dropout", *(f"dropout{n}" for n in ("", "1d", "2d", "3d"))}
)


def apply(
    recorder: Recorder,
    func: Callable[..., object],
    output: object,
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> None:
    """Write down what the function did, or raise an error that names it."""
    name = getattr(func, "__name__", str(func))
    if name in _QUESTIONS and not isinstance(output, Tensor):
        return
    if kwargs.get("out") is not None:
        raise _refused(name, "writes into a tensor that is given as out=")
    if name in MOVES or name == "__get__":
        moved(recorder, func, name, output, args, kwargs)
    elif name in _TYPES:
        _another_type(recorder, name, output, args)
    elif name in _DROPOUTS:
        _dropout(recorder, name, output, args, kwargs)
    else:
        rule = _RULES.get(name) or _RULES.get(name.removesuffix("_"))  # relu_ is relu in place
        if rule is None or (name == "batch_norm" and func is not functional.batch_norm):
            raise _refused(name, "has no rule")
        try:
            given = inspect.signature(rule).bind(recorder, name, output, *args, **kwargs)
        except TypeError as error:
            raise _refused(name, f"is called in a way that is not known: {error}") from None
        rule(*given.args, **given.kwargs)
    _check_types(recorder, name, output)


def _check_types(recorder: Recorder, name: str, output: object) -> None:
    """Single and double precision are taken for one another; any other type is not computed with in C."""
    for leaf in leaves(output):
        if isinstance(leaf, Tensor) and recorder.follows(leaf) and leaf.dtype not in _PRECISIONS:
            raise _refused(name, f"makes {leaf.dtype} of what is computed")


def _refused(name: str, why: str) -> DisbudError:
    shown = name.strip("_") if name.startswith("__") else name  # relu_ keeps its _: that is in place
    return DisbudError(
        f"{shown} cannot be written as C: it {why}; what can: convolutions of one and two axes, linear "
        "layers, BatchNorm in evaluation, activations, pooling, arithmetic, concatenation, padding, softmax, and "
        "what only moves values (to_onnx may take this network)"
    )


def _dropout(
    recorder: Recorder, name: str, output: object, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> None:
    training = kwargs.get("training", args[2] if len(args) > 2 else True)
    if training or not isinstance(output, Tensor):
        raise _refused(name, "draws at random in evaluation too")
    recorder.same(output, recorder.value(args[0], name))


def _another_type(recorder: Recorder, name: str, output: object, args: tuple[object, ...]) -> None:
    """A constant that is given the type of what is computed stays one."""
    if isinstance(output, Tensor) and recorder.follows(args[0]):
        recorder.same(output, recorder.value(args[0], name))


def _made(recorder: Recorder, name: str, output: Tensor, *, changed: object = None) -> View:
    """What is made; a tensor that is changed in place gets a new array."""
    if output is changed:
        recorder.overwritten(output, name)
    return recorder.new(output)


# Entry by entry


def _elementwise(function: str, *defaults: float, names: str = "") -> Rule:
    """The rule of an activation: the settings it takes, by name, and what they are unless given."""
    known = names.split()

    def rule(
        recorder: Recorder, name: str, output: Tensor, input: Tensor, *args: object, **kwargs: object
    ) -> None:
        kwargs.pop("inplace", None)
        given = dict(zip(known, args, strict=False)) | kwargs
        settings = [given.pop(key, default) for key, default in zip(known, defaults, strict=True)]
        numbers = [value for value in settings if isinstance(value, int | float)]
        if len(args) > len(known) or len(numbers) < len(settings) or given:
            raise _refused(name, f"is called with {args or ''}{given or ''}")
        source = recorder.value(input, name)
        result = _made(recorder, name, output, changed=input)
        recorder.add(Elementwise(source, result, function, tuple(map(float, numbers))))

    return rule


def _gelu(recorder: Recorder, name: str, output: Tensor, input: Tensor, approximate: str = "none") -> None:
    source = recorder.value(input, name)
    recorder.add(Elementwise(source, recorder.new(output), "gelu" if approximate == "none" else "gelu_tanh"))


def _clamp(
    recorder: Recorder, name: str, output: Tensor, input: Tensor, min: object = None, max: object = None
) -> None:
    low, high = -np.inf if min is None else min, np.inf if max is None else max
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        raise _refused(name, "has bounds that are tensors")
    source = recorder.value(input, name)
    result = _made(recorder, name, output, changed=input)
    settings = (float(low if low < high else high), float(high))  # where they cross torch has the upper one
    recorder.add(Elementwise(source, result, "hardtanh", settings))


def _clamp_min(recorder: Recorder, name: str, output: Tensor, input: Tensor, min: object) -> None:
    _clamp(recorder, name, output, input, min=min)


def _clamp_max(recorder: Recorder, name: str, output: Tensor, input: Tensor, max: object) -> None:
    _clamp(recorder, name, output, input, max=max)


def _prelu(recorder: Recorder, name: str, output: Tensor, input: Tensor, weight: Tensor) -> None:
    slopes = recorder.constant(weight, name).numbers.reshape(-1)
    if len(slopes) != 1:
        raise _refused(name, "has a slope for each channel")
    source = recorder.value(input, name)
    recorder.add(Elementwise(source, recorder.new(output), "leaky_relu", (float(slopes[0]),)))


def _combined(function: str, *, turned: bool = False) -> Rule:
    def rule(
        recorder: Recorder, name: str, output: Tensor, input: object, other: object, **kwargs: object
    ) -> None:
        if kwargs.pop("alpha", 1) != 1 or kwargs.pop("rounding_mode", None) is not None or kwargs:
            raise _refused(name, "is scaled (alpha) or rounds")
        left, right = (
            recorder.value(side, name) if recorder.follows(side) else recorder.constant(side, name)
            for side in ((other, input) if turned else (input, other))
        )
        result = _made(recorder, name, output, changed=input)
        recorder.add(Combine(function, left, right, result))

    return rule


# Along axes


def _reduced(function: str) -> Rule:
    def rule(
        recorder: Recorder,
        name: str,
        output: Tensor,
        input: Tensor,
        dim: int | tuple[int, ...] | None = None,
        keepdim: bool = False,  # noqa: FBT001 - torch's own
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        given = range(input.dim()) if dim is None or dim == () else (dim,) if isinstance(dim, int) else dim
        axes = sorted(axis % input.dim() for axis in given)
        if axes != list(range(axes[0], axes[-1] + 1)):
            raise _refused(name, f"goes along axes {axes}, which do not lie side by side")
        recorder.add(_along(recorder, name, function, input, axes[0], axes[-1] + 1, recorder.new(output)))

    return rule


def _softmax(
    recorder: Recorder,
    name: str,
    output: Tensor,
    input: Tensor,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
) -> None:
    if dim is None:
        raise _refused(name, "has no axis given")
    axis = dim % input.dim()
    recorder.add(_along(recorder, name, name, input, axis, axis + 1, recorder.new(output)))


def _along(
    recorder: Recorder, name: str, function: str, input: Tensor, first: int, end: int, output: View
) -> Along:
    sizes = [int(np.prod(input.shape[a:b])) for a, b in ((0, first), (first, end), (end, input.dim()))]
    return Along(function, recorder.value(input, name), output, *sizes)


_RULES: dict[str, Rule] = {
    "conv1d": convolution,
    "conv2d": convolution,
    "linear": linear,
    "batch_norm": batch_norm,
    "max_pool1d": max_pool,
    "max_pool2d": max_pool,
    "avg_pool1d": average_pool,
    "avg_pool2d": average_pool,
    "adaptive_avg_pool1d": adaptive_pool,
    "adaptive_avg_pool2d": adaptive_pool,
    "adaptive_max_pool1d": adaptive_pool,
    "adaptive_max_pool2d": adaptive_pool,
    "gelu": _gelu,
    "prelu": _prelu,
    "mean": _reduced("mean"),
    "sum": _reduced("sum"),
    "softmax": _softmax,
    "log_softmax": _softmax,
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": _clamp_min,
    "clamp_max": _clamp_max,
    **dict.fromkeys(("add", "__add__", "__radd__", "__iadd__"), _combined("add")),
    **dict.fromkeys(("sub", "subtract", "__sub__", "__isub__"), _combined("subtract")),
    **dict.fromkeys(("rsub", "__rsub__"), _combined("subtract", turned=True)),
    **dict.fromkeys(("mul", "multiply", "__mul__", "__rmul__", "__imul__"), _combined("multiply")),
    **dict.fromkeys(("div", "divide", "true_divide", "__truediv__", "__itruediv__"), _combined("divide")),
    **dict.fromkeys(("__rdiv__", "__rtruediv__"), _combined("divide", turned=True)),
    "maximum": _combined("maximum"),
    "minimum": _combined("minimum"),
    "relu6": _elementwise("hardtanh", 0.0, 6.0, names="_low _high"),
    "hardtanh": _elementwise("hardtanh", -1.0, 1.0, names="min_val max_val"),
    "leaky_relu": _elementwise("leaky_relu", 0.01, names="negative_slope"),
    "elu": _elementwise("elu", 1.0, names="alpha"),
    "softplus": _elementwise("softplus", 1.0, 20.0, names="beta threshold"),
    **{
        name: _elementwise(function)
        for function, names in {
            "relu": "relu",
            "tanh": "tanh",
            "sigmoid": "sigmoid",
            "silu": "silu",
            "mish": "mish",
            "selu": "selu",
            "hardsigmoid": "hardsigmoid",
            "hardswish": "hardswish",
            "absolute": "abs absolute __abs__",
            "negative": "neg negative __neg__",
            "exponential": "exp",
            "square_root": "sqrt",
            "square": "square",
        }.items()
        for name in names.split()
    },
}
