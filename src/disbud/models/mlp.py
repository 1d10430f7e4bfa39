"""Fully connected networks, LeNet-300-100 among them."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final

from torch import nn

from disbud.errors import DisbudError, unknown_name
from disbud.models.sizes import scaled, whole

ACTIVATIONS: Final[dict[str, type[nn.Module]]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def mlp(
    *,
    classes: int,
    input_shape: tuple[int, ...],
    hidden: int | tuple[int, ...] | None,
    activation: str,
    width: float,
) -> nn.Sequential:
    """Linear layers fc1, fc2, ... with the activation between them; with hidden=None there is one."""
    if activation not in ACTIVATIONS:
        raise unknown_name("activation", str(activation), ACTIVATIONS)
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    n_in, units = math.prod(input_shape), _hidden(hidden)
    for i, n_out in enumerate(units, start=1):
        n_out = scaled(n_out, width)
        layers[f"fc{i}"] = nn.Linear(n_in, n_out)
        layers[f"act{i}"] = ACTIVATIONS[activation]()
        n_in = n_out
    layers[f"fc{len(units) + 1}"] = nn.Linear(n_in, classes)
    return nn.Sequential(layers)


def _hidden(sizes: object) -> tuple[int, ...]:
    if sizes is None:
        return ()
    if isinstance(sizes, str):
        raise DisbudError(f"hidden reads hidden=300+100, or hidden=null for a linear model, not {sizes!r}")
    listed = sizes if isinstance(sizes, tuple | list) else (sizes,)
    return tuple(whole("each size in hidden", size) for size in listed)
