"""What torch's functions become where paths are counted; what is not here follows the linearised network.

Normalisation and activations are the identity, pools and means are sums, constants multiply as ones. Attention mixes
evenly: its values carry the paths, its queries and keys steer them. A sigmoid or softmax that multiplies a signal is a
gate and steers it as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from disbud.errors import DisbudError
from disbud.graph.flow import arithmetic, mixing, pooling
from disbud.graph.flow.arithmetic import Rule, homes, in_place, replaced
from disbud.graph.flow.counts import DETACHING, Counts
from disbud.graph.flow.rules import TABLE
from disbud.graph.flow.signals import Function, Signals, Value, passes, tensors_in


def counting(signals: Signals) -> Counts:
    """The same signals, known to count: these rules are used with no others."""
    return cast(Counts, signals)


def inherit(signals: Signals, func: Callable[..., object], *args: object, **kwargs: object) -> object:
    """A function without a rule of its own must move its signals or add them up.

    What is made of gates alone, a view or a sum of them, is a gate.
    """
    counts = counting(signals)
    found = [value for value in tensors_in((args, kwargs)) if value in signals and value.is_floating_point()]
    args, kwargs, exponent = arithmetic.at_one_exponent(signals, args, kwargs)
    output = func(*args, **kwargs)
    made = list(tensors_in((output,)))
    numbers = [value for value in made if value.is_floating_point()]
    if not found or not made:
        for value in made:
            signals.put(value, exponent)
        return output
    if not getattr(func, "__name__", "").endswith("_"):  # which works in place, and not twice
        _check_moves_or_adds(func, args, kwargs, found, numbers)
    for value in numbers:
        signals.put(value, exponent)
    for value in made:
        if not value.is_floating_point():
            counts.put_condition(value)
    if numbers and all(counts.is_gate(value) for value in found):
        links = {id(value): counts.links(value) for value in found}
        through = func(*replaced(args, links), **replaced(kwargs, links))
        same = [value for value in tensors_in((through,)) if value.is_floating_point()]
        for value, link in zip(numbers, same, strict=True):
            counts.put_gate(value, link)
    return output


def _check_moves_or_adds(
    func: Callable[..., object],
    args: tuple[object, ...],
    kwargs: dict[str, object],
    found: Sequence[Tensor],
    made: Sequence[Tensor],
) -> None:
    """Raise where twice the signals do not give exactly twice the outcome: powers of two are exact."""
    if not made:
        return
    present = {id(value) for value in tensors_in((args, kwargs))}
    doubled = {id(value): 2 * value for value in found if id(value) in present}
    with torch.no_grad():
        twice = func(*replaced(args, doubled), **replaced(kwargs, doubled))
    again = [value for value in tensors_in((twice,)) if value.is_floating_point()]
    if doubled and not all(torch.equal(two, 2 * one) for one, two in zip(made, again, strict=True)):
        raise DisbudError(
            f"paths are not defined through {getattr(func, '__name__', func)}, which neither moves its input nor adds "
            "it up, and is no activation, layer, pooling or normalisation that disbud knows"
        )


def layer(
    signals: Signals, func: Function, input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: object,
    **kwargs: object,
) -> Tensor:  # fmt: skip
    """A linear layer or convolution: one edge for each kept weight and place."""
    read = counting(signals).reads(weight, input)
    return counting(signals).gives(arithmetic.layer(signals, func, read, weight, None, *args, **kwargs))


def gate(signals: Signals, func: Function, input: Tensor, *_: object, **__: object) -> Tensor:
    """sigmoid: the identity, and where it multiplies another signal, a gate that is open."""
    opened = signals.put(input.view_as(input), signals.exponent(input))
    return counting(signals).put_gate(opened, torch.ones_like(input))


def glu(signals: Signals, func: Function, input: Tensor, dim: int = -1) -> Tensor:
    """One half gates the other."""
    carried, steering = (signals.put(part, signals.exponent(input)) for part in input.chunk(2, dim))
    return times(signals, torch.mul, carried, gate(signals, func, steering))


def times(signals: Signals, func: Function, input: Value, other: Value) -> Tensor:
    """input * other, by what each of them is: a signal, a gate, or a constant that is zero or not."""
    counts = counting(signals)
    if input in signals and other in signals:
        assert isinstance(input, Tensor)
        assert isinstance(other, Tensor)
        if counts.is_gate(other):
            return _gated(counts, input, other)
        return _gated(counts, other, input) if counts.is_gate(input) else counts.joined(input, other)
    signal, constant = (input, other) if input in signals else (other, input)
    assert isinstance(signal, Tensor)
    scale = _whether(counts, constant)
    output = signals.settle(torch.mul(signal, scale), signals.exponent(signal) + signals.exponent(constant))
    if counts.is_gate(signal):
        counts.put_gate(output, counts.links(signal) * scale)
    return output


def _gated(counts: Counts, carried: Tensor, gate: Tensor) -> Tensor:
    output = counts.settle(carried * counts.opened(gate), counts.exponent(carried))
    if counts.is_gate(carried):
        counts.put_gate(output, counts.links(carried) * counts.links(gate))
    return output


def _whether(counts: Counts, constant: Value) -> Value:
    return counts.factor(constant) if isinstance(constant, Tensor) else float(constant != 0)


def product(signals: Signals, func: Function, *args: object, **kwargs: object) -> Tensor:
    """Matrix products; of two signals, the product of their counts; of a gate and a signal, that of its links."""
    counts = counting(signals)
    found = [value for value in tensors_in((args, kwargs)) if value in signals]
    gates = [value for value in found if counts.is_gate(value)]
    if gates and len(gates) < len(found):
        opened = {id(value): counts.opened(value) for value in gates}
        args, kwargs = replaced(args, opened), replaced(kwargs, opened)
    return arithmetic.product(signals, func, *args, **kwargs)


def over(signals: Signals, func: Function, input: Value, other: Value, **kwargs: object) -> Tensor:
    """input / other: whatever divides, scales."""
    if input not in signals:
        return torch.ones_like(cast(Tensor, other))
    assert isinstance(input, Tensor)
    return times(signals, func, input, torch.ones_like(other) if isinstance(other, Tensor) else 1.0)


def under(signals: Signals, func: Function, other: Tensor, input: Value) -> Tensor:
    """input / other, written from the right."""
    return over(signals, func, input, other)


def power(signals: Signals, func: Function, input: Value, exponent: Value | None = None) -> object:
    """Powers are activations; an inverse one normalises and counts as one."""
    degree = arithmetic.DEGREES.get(getattr(func, "__name__", ""), exponent)
    if not isinstance(input, Tensor) or input not in signals:
        return arithmetic.inherit(signals, func, input, *(() if exponent is None else (exponent,)))
    inverse = isinstance(degree, int | float) and degree < 0
    return torch.ones_like(input) if inverse else arithmetic.identity(signals, func, input)


def plus(signals: Signals, func: Function, input: Value, other: Value, *, alpha: float = 1) -> Tensor:
    """input + other, whatever the sign and size in which other is added; a gate and a constant are a gate."""
    counts, output = counting(signals), arithmetic.plus(signals, func, input, other)
    for one, more in ((input, other), (other, input)):
        if counts.is_gate(one) and more not in signals:
            counts.put_gate(output, counts.links(cast(Tensor, one)).expand_as(output))
    return output


def choose(signals: Signals, func: Function, condition: Tensor, input: Value, other: Value) -> Tensor:
    """where(condition, input, other); what signals decide can come from either side, and a constant is no signal."""
    if not counting(signals).is_condition(condition):
        return arithmetic.choose(signals, func, condition, input, other)
    sides = [cast(Tensor, side) for side in (input, other) if side in signals]
    found = arithmetic.plus(signals, func, *sides) if len(sides) == 2 else sides[0]
    shape = torch.broadcast_shapes(*(x.shape for x in (condition, input, other) if isinstance(x, Tensor)))
    return found if found.shape == shape else inherit(signals, torch.broadcast_to, found, shape)  # type: ignore[return-value]


def fill(signals: Signals, func: Function, input: Tensor, mask: Tensor, value: Value) -> Tensor:
    """input.masked_fill(mask, value)."""
    return choose(signals, func, mask, value, input)


def between(signals: Signals, func: Function, input: Tensor, end: Tensor, weight: Value) -> Tensor:
    """lerp: both ends."""
    return arithmetic.plus(signals, func, input, end)


def plus_product(
    signals: Signals, func: Function, input: Value, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """input + a @ b."""
    found = product(signals, torch.matmul, a, b)
    return arithmetic.plus(signals, torch.add, found, input)


def differences(signals: Signals, func: Function, input: Tensor, n: int = 1, dim: int = -1) -> Tensor:
    """diff: neighbours joined."""
    for _ in range(n):
        size, exponent = input.shape[dim] - 1, signals.exponent(input)
        before, after = (signals.put(input.narrow(dim, start, size), exponent) for start in (0, 1))
        input = arithmetic.plus(signals, func, before, after)
    return input


def extreme(
    signals: Signals,
    func: Function,
    input: Value,
    other: Value | None = None,
    *args: object,
    **kwargs: object,
) -> object:
    """maximum and max: of two signals their sum, of a signal and a bound the signal, over an axis the sum over it."""
    other = kwargs.pop("other", other)  # type: ignore[assignment]
    if isinstance(other, Tensor):
        if not (input in signals and other in signals):
            return arithmetic.identity(signals, func, input if input in signals else other)  # type: ignore[arg-type]
        return arithmetic.plus(signals, func, input, other)
    axis = kwargs.pop("dim", other)
    assert isinstance(input, Tensor)
    if axis is None:
        return arithmetic.inherit(signals, torch.sum, input)
    found = func(input, axis, *args, **kwargs)
    values = arithmetic.inherit(signals, torch.sum, input, axis, *args, **kwargs)
    return type(found)((values, found[1]))


def softmax(
    signals: Signals, func: Function, input: Tensor, dim: int | None = None, *_: object,
    dtype: torch.dtype | None = None, **__: object,
) -> Tensor:  # fmt: skip
    """The identity where nothing is masked, and where it multiplies another signal, a gate."""
    scores = signals.put(input.clamp(min=0), signals.exponent(input))
    return counting(signals).put_gate(scores, passes(input.detach()).to(input.dtype))


def attention(
    signals: Signals, func: Function, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
    dropout_p: float = 0.0, is_causal: object = False, *, scale: float | None = None, enable_gqa: object = False,
) -> Tensor:  # fmt: skip
    """scaled_dot_product_attention: the values at the positions each query may look at, steered by query and key."""
    if enable_gqa:
        times_over = query.size(-3) // value.size(-3)
        key, value = (_repeated(signals, part, times_over) for part in (key, value))
    allowed = torch.ones(query.size(-2), value.size(-2), dtype=torch.bool, device=value.device)
    if is_causal:
        allowed = allowed.tril()
    if attn_mask is not None:
        allowed = allowed & passes(attn_mask)
    return _attended(signals, query, key, value, allowed)


def multi_head_attention(
    signals: Signals, func: Function, *args: object, **kwargs: object
) -> tuple[Tensor, Tensor | None]:
    """MultiheadAttention: queries, keys and values projected, mixed, projected back."""
    given = mixing.bound(*args, **kwargs)
    size, stacked = given["embed_dim_to_check"], given["in_proj_weight"]
    weights = [given[f"{name}_proj_weight"] for name in "qkv"]
    if weights[0] is None:
        weights = [stacked[i * size : (i + 1) * size] for i in range(3)]
    read = zip((given["query"], given["key"], given["value"]), weights, strict=True)
    query, key, value = (layer(signals, functional.linear, x, weight) for x, weight in read)
    heads, batched = given["num_heads"], value.dim() == 3
    query, key, value = (mixing.by_head(signals, x, heads) for x in (query, key, value))
    length, batch = query.shape[2], query.shape[0]
    allowed = torch.ones(batch, heads, length, value.shape[2], dtype=torch.bool, device=value.device)
    masked = mixing.allowed_by(given["attn_mask"], given["key_padding_mask"], batch, heads)
    allowed = allowed if masked is None else allowed & masked
    mixed = _attended(signals, query, key, value, allowed)
    joined = mixed.permute(2, 0, 1, 3).reshape(length, batch, -1)
    joined = signals.put(joined if batched else joined.squeeze(1), signals.exponent(mixed))
    output = layer(signals, functional.linear, joined, given["out_proj_weight"])
    if not given["need_weights"]:
        return output, None
    shares = allowed.to(output.dtype)
    shares = shares.mean(1) if given["average_attn_weights"] else shares
    return output, shares if batched else shares.squeeze(0)


def refuse_recurrent(signals: Signals, func: Function, *_: object) -> object:
    """Recurrent cells have gates inside, whose paths torch does not show."""
    raise DisbudError(
        f"paths are not defined through recurrent layers ({func.__name__}), whose gates are computed inside torch; "
        "measure the rest of the model by itself"
    )


def _attended(signals: Signals, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
    counts = counting(signals)
    scores = arithmetic.product(signals, torch.matmul, query, key.transpose(-2, -1))
    links = counts.opened(counts.put_gate(scores, allowed.to(value.dtype).expand_as(scores)))
    return arithmetic.product(signals, torch.matmul, links, value)


def _repeated(signals: Signals, heads: Tensor, times_over: int) -> Tensor:
    return signals.put(heads.repeat_interleave(times_over, -3), signals.exponent(heads))


_RULES: dict[str, Rule] = {
    "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d": layer,
    "batch_norm instance_norm layer_norm rms_norm group_norm relu relu_": arithmetic.identity,
    "sigmoid expit hardsigmoid": gate,
    "glu": glu,
    "matmul __matmul__ __rmatmul__ mm bmm mv dot vdot inner outer ger": product,
    "einsum tensordot kron multi_dot chain_matmul": product,
    "mul multiply __mul__ __rmul__": times,
    "div divide true_divide __truediv__ __div__": over,
    "__rtruediv__ __rdiv__": under,
    "pow __pow__ float_power square sqrt rsqrt reciprocal": power,
    "add sub subtract rsub __add__ __radd__ __sub__ __rsub__": plus,
    "addmm baddbmm addmv": plus_product,
    "maximum minimum fmax fmin max min": extreme,
    "mean nanmean amax amin logsumexp": pooling.summed,
    "softmax": softmax,
    "where": choose,
    "masked_fill": fill,
    "lerp": between,
    "diff": differences,
    "scaled_dot_product_attention": attention,
    "multi_head_attention_forward": multi_head_attention,
    "lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell": refuse_recurrent,
    "max_pool1d max_pool1d_with_indices avg_pool1d": pooling.pool(1),
    "max_pool2d max_pool2d_with_indices avg_pool2d": pooling.pool(2),
    "max_pool3d max_pool3d_with_indices avg_pool3d": pooling.pool(3),
    "lp_pool1d lp_pool2d lp_pool3d": pooling.lp_pool,
    "adaptive_avg_pool1d adaptive_max_pool1d adaptive_max_pool1d_with_indices": pooling.adaptive(1),
    "adaptive_avg_pool2d adaptive_max_pool2d adaptive_max_pool2d_with_indices": pooling.adaptive(2),
    "adaptive_avg_pool3d adaptive_max_pool3d adaptive_max_pool3d_with_indices": pooling.adaptive(3),
}
_IN_PLACE: dict[str, Callable[..., Tensor]] = {
    "mul_ multiply_ __imul__": times,
    "div_ divide_ true_divide_ __itruediv__ __idiv__": over,
    "add_ sub_ subtract_ __iadd__ __isub__": plus,
    "masked_fill_": fill,
}


def _table() -> dict[object, Rule]:
    rules = _RULES | {names: in_place(rule) for names, rule in _IN_PLACE.items()}
    own: dict[object, Rule] = {function: rule for names, rule in rules.items() for function in homes(names)}
    derivatives = dict.fromkeys((torch.autograd.grad, torch.autograd.backward), arithmetic.blank)
    return TABLE | own | dict.fromkeys(DETACHING, arithmetic.itself) | derivatives


_TABLE = _table()


def counting_rule(function: object) -> Rule:
    """What the function does where paths are counted."""
    return _TABLE.get(function, inherit)
