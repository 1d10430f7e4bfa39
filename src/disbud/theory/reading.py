"""From a real model to what the theory needs of it: its activation and the laws of its layers."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from disbud.errors import DisbudError
from disbud.graph import is_chain, prunable
from disbud.isolation import bare
from disbud.parameters import parameters
from disbud.theory.layered import ChainLayer

if TYPE_CHECKING:
    from disbud.ticket import Ticket

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)


def activation_of(model: nn.Module) -> str:
    """The name of the one activation a model has between its layers; "linear" for a model of one layer.

    It is read off the modules: a model of several layers without one may call functions, and is refused.

    >>> import torch
    >>> from disbud import theory
    >>> theory.activation_of(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LeakyReLU(0.2), torch.nn.Linear(2, 2)))
    'leaky-relu:slope=0.2'
    """
    modules = list(bare(model).modules())
    found = set(map(_name, modules)) - {None}
    if len(found) > 1:
        raise DisbudError(
            f"the model has several activations ({', '.join(sorted(map(str, found)))}); the theory is of one: name it, "
            'as in activation="relu"'
        )
    if not found and sum(isinstance(module, nn.Linear | _ConvNd) for module in modules) > 1:
        raise DisbudError(
            "no activation module found, and what the model calls in its forward cannot be seen: name it, "
            "activation='relu' (or 'linear')"
        )
    return str(found.pop()) if found else "linear"


def _name(module: nn.Module) -> str | None:
    match module:
        case nn.LeakyReLU():
            return f"leaky-relu:slope={module.negative_slope}"
        case nn.ELU():
            return "elu" if module.alpha == 1 else f"elu:alpha={module.alpha}"
        case nn.GELU():
            if module.approximate != "none":
                warnings.warn(
                    f"{module} is read as the exact gelu, from which it differs by 0.0005 at most",
                    stacklevel=3,
                )
            return "gelu"
        case nn.Hardtanh() if not isinstance(module, nn.ReLU6) and (module.min_val, module.max_val) == (
            -1,
            1,
        ):
            return "hard-tanh"
        case nn.ReLU() | nn.Tanh() | nn.SiLU() | nn.Sigmoid():
            return type(module).__name__.lower()
    if type(module).__module__ == "torch.nn.modules.activation" and not isinstance(
        module, nn.MultiheadAttention
    ):
        return type(module).__name__
    return None


def chain_of(model: nn.Module, ticket: Ticket | None = None) -> list[ChainLayer]:
    """The layers of a fully connected chain, with the deviations their weights and biases have, in order.

    With a ticket, weights off it count as zeros. Normalisation, convolutions and joined signals are refused: the
    recursions do not follow them.

    >>> import disbud, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(100, 100), torch.nn.Tanh(), torch.nn.Linear(100, 10))
    >>> done = disbud.theory.initialize_(model, activation="tanh", sigma_b=0.2, seed=0)
    >>> [round(layer.sigma_w, 1) for layer in disbud.theory.chain_of(model)]
    [1.3, 1.3]
    """
    model = bare(model)
    norm = next((name for name, module in model.named_modules() if isinstance(module, _NORMS)), None)
    if norm is not None:
        raise DisbudError(
            f"{norm} normalises: behind it no scale of the weights matters, and the recursions say nothing; they are "
            "for plain chains of linear layers"
        )
    layers = prunable(model)
    other = next((layer for layer in layers if layer.kind != "linear" or layer.aliases), None)
    if other is not None or not is_chain(model):
        what = f"{other.name} is no plain linear layer" if other is not None else "it joins signals"
        raise DisbudError(f"the recursions follow plain chains of linear layers; of this model {what}")
    owned = parameters(model)
    if ticket is not None:
        ticket.check(model)
    found = []
    for layer in layers:
        weight = owned[layer.name].detach().double()
        mask = None if ticket is None else ticket.masks.get(layer.name)
        if mask is not None:
            weight = weight.masked_fill(~mask.to(weight.device), 0)
        biases = owned.get(layer.name.removesuffix("weight") + "bias")
        found.append(
            ChainLayer(
                layer.n_in,
                layer.n_out,
                sigma_w=math.sqrt(layer.n_in * float(weight.square().mean())),
                sigma_b=0.0 if biases is None else math.sqrt(float(biases.detach().double().square().mean())),
                kept=layer.size if mask is None else int(torch.count_nonzero(mask)),
                name=layer.name,
            )
        )
    return found
