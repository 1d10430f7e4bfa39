"""What normalisation and attention become in the linearised network.

Normalisation keeps its scale. Attention mixes all positions it may look at evenly, whatever its queries and keys.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from disbud.graph.flow.arithmetic import layer
from disbud.graph.flow.signals import Function, Signals, passes


def batch_norm(
    signals: Signals, func: Function, input: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
    weight: Tensor | None = None, bias: Tensor | None = None, training: object = False, momentum: float = 0.1,
    eps: float = 1e-5, cudnn_enabled: object = True,
) -> Tensor:  # fmt: skip
    """BatchNorm in eval mode: x * abs(gamma) / sqrt(var + eps); statistics of the signal itself are no scale."""
    if func is torch.batch_norm:
        running_mean, running_var, weight, bias = weight, bias, running_mean, running_var
    scale, mean = weight, None
    if not training and running_var is not None:
        deviation = torch.sqrt(running_var + eps).to(input.dtype)
        scale = 1 / deviation if weight is None else signals.factor(weight) / deviation
        mean = running_mean
    return _scale_and_shift(signals, input, scale, bias, mean, (-1,) + (1,) * (input.dim() - 2))


def instance_norm(
    signals: Signals, func: Function, input: Tensor, running_mean: Tensor | None = None,
    running_var: Tensor | None = None, weight: Tensor | None = None, bias: Tensor | None = None,
    use_input_stats: object = True, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """InstanceNorm: as BatchNorm where it has running statistics, else x * abs(gamma)."""
    return batch_norm(
        signals, func, input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
    )


def layer_norm(
    signals: Signals, func: Function, input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None,
    bias: Tensor | float | None = None, eps: float | None = None, *_: object,
) -> Tensor:  # fmt: skip
    """LayerNorm and RMSNorm: x * abs(gamma)."""
    shift = bias if isinstance(bias, Tensor) else None  # RMSNorm has eps in its place
    return _scale_and_shift(signals, input, weight, shift, None, tuple(normalized_shape))


def group_norm(
    signals: Signals, func: Function, input: Tensor, num_groups: int, weight: Tensor | None = None,
    bias: Tensor | None = None, *_: object, **__: object,
) -> Tensor:  # fmt: skip
    """GroupNorm: x * abs(gamma)."""
    return _scale_and_shift(signals, input, weight, bias, None, (-1,) + (1,) * (input.dim() - 2))


def _scale_and_shift(
    signals: Signals, input: Tensor, scale: Tensor | None, shift: Tensor | None, mean: Tensor | None,
    shape: tuple[int, ...],
) -> Tensor:  # fmt: skip
    exponent = signals.exponent(input)
    mean, shift = signals.bias(mean, exponent), signals.bias(shift, exponent)
    output = signals.copied(input) if mean is None else input - mean.view(shape)
    output = output if scale is None else output * signals.factor(scale).view(shape)
    return signals.settle(output if shift is None else output + shift.view(shape), exponent)


def softmax(
    signals: Signals, func: Function, input: Tensor, dim: int | None = None, *_: object,
    dtype: torch.dtype | None = None, **__: object,
) -> Tensor:  # fmt: skip
    """The same share for every entry that is not masked."""
    dim = dim if dim is not None else 0 if input.dim() in (0, 1, 3) else 1
    shares = _shares(passes(input.detach()), dim, dtype or input.dtype)
    signals.put_softmax(shares, of=input)
    return shares


def attention(
    signals: Signals, func: Function, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
    dropout_p: float = 0.0, is_causal: object = False, *, scale: float | None = None, enable_gqa: object = False,
) -> Tensor:  # fmt: skip
    """scaled_dot_product_attention: the mean of the values at the positions that each query may look at."""
    exponent = signals.exponent(value)
    if enable_gqa:
        value = value.repeat_interleave(query.size(-3) // value.size(-3), -3)
    allowed = None if attn_mask is None else passes(attn_mask)
    if is_causal:
        allowed = torch.ones(query.size(-2), value.size(-2), dtype=torch.bool, device=value.device).tril()
    return signals.put(_mixed(value, allowed, query.size(-2)), exponent)


def multi_head_attention(
    signals: Signals, func: Function, *args: object, **kwargs: object
) -> tuple[Tensor, Tensor | None]:
    """MultiheadAttention: values projected, mixed evenly, projected back."""
    given = bound(*args, **kwargs)
    first = 2 * given["embed_dim_to_check"]  # queries and keys come before the values
    weight, bias = given["v_proj_weight"], given["in_proj_bias"]
    weight = given["in_proj_weight"][first:] if weight is None else weight
    projected = layer(
        signals, functional.linear, given["value"], weight, None if bias is None else bias[first:]
    )
    batched = projected.dim() == 3
    length, heads = given["query"].shape[0], given["num_heads"]
    values = by_head(signals, projected, heads)
    batch = len(values)
    allowed = allowed_by(given["attn_mask"], given["key_padding_mask"], batch, heads)
    mixed = _mixed(values, allowed, length).permute(2, 0, 1, 3).reshape(length, batch, -1)
    mixed = signals.put(mixed if batched else mixed.squeeze(1), signals.exponent(projected))
    output = layer(signals, functional.linear, mixed, given["out_proj_weight"], given["out_proj_bias"])
    if not given["need_weights"]:
        return output, None
    everywhere = torch.ones(batch, heads, length, values.shape[2], dtype=torch.bool, device=output.device)
    weights = _shares(everywhere if allowed is None else allowed & everywhere, -1, output.dtype)
    weights = weights.mean(1) if given["average_attn_weights"] else weights
    return output, weights if batched else weights.squeeze(0)


_MULTI_HEAD = inspect.signature(functional.multi_head_attention_forward)


def bound(*args: object, **kwargs: object) -> dict[str, Any]:
    """The arguments of multi_head_attention_forward by name."""
    given = _MULTI_HEAD.bind(*args, **kwargs)
    given.apply_defaults()
    return given.arguments


def by_head(signals: Signals, projected: Tensor, heads: int) -> Tensor:
    """A projection of shape (position, [batch,] feature) as (batch, head, position, feature)."""
    rows = projected if projected.dim() == 3 else projected.unsqueeze(1)
    split = rows.reshape(*rows.shape[:2], heads, -1).permute(1, 2, 0, 3)
    return signals.put(split, signals.exponent(projected))


def allowed_by(mask: Tensor | None, padding: Tensor | None, batch: int, heads: int) -> Tensor | None:
    """Where attention may look, as (batch, head, query, key), from the masks of multi_head_attention_forward."""
    allowed = None
    if mask is not None:
        allowed = ~mask if mask.dtype == torch.bool else passes(mask)
        allowed = allowed.view(batch, heads, *mask.shape[1:]) if mask.dim() == 3 else allowed
    if padding is not None:
        kept = (~padding if padding.dtype == torch.bool else passes(padding)).view(batch, 1, 1, -1)
        allowed = kept if allowed is None else allowed & kept
    return allowed


def _mixed(values: Tensor, allowed: Tensor | None, length: int) -> Tensor:
    """The mean over the positions allowed, for each of `length` queries."""
    shares = None if allowed is None else _shares(allowed, -1, values.dtype)
    mixed = values.mean(-2, keepdim=True) if shares is None else shares @ values
    return mixed.expand(*mixed.shape[:-2], length, mixed.shape[-1])


def _shares(allowed: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    return allowed.to(dtype) / allowed.sum(dim, keepdim=True).clamp(min=1)
