"""SynFlow: which weights carry the flow of a signal, without a look at data (Tanaka et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from disbud.errors import DisbudError, unknown_name
from disbud.graph.flow import Inputs, Network, ones_like_example
from disbud.isolation import device_of
from disbud.methods.scoring import Scoring, Tensors

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def synflow(s: Scoring, *, biases: str, dtype: str) -> Tensors:
    """theta * dR/dtheta with theta = abs(w) and R = 1^T (prod_l abs(W_l)) 1 (Tanaka et al. 2020, eqs. 3 and 5)."""
    return flow(s, torch.abs, biases=biases, dtype=dtype)


def synflow_l2(s: Scoring, *, biases: str, dtype: str) -> Tensors:
    """theta * dR/dtheta with theta = w^2 and R = 1^T (prod_l W_l^2) 1."""
    return flow(s, torch.square, biases=biases, dtype=dtype)


def flow(
    s: Scoring,
    magnitude: Callable[[Tensor], Tensor],
    *,
    biases: str,
    dtype: str,
    inputs: Inputs | None = None,
) -> Tensors:
    """theta * dR/dtheta with theta = magnitude(w) and R what comes of the inputs (None: ones), of the weights kept.

    Up to one power of two, common to all layers, by which R would leave the range of floating-point numbers.
    """
    network = s.memo.get("network")
    known = isinstance(network, Network)
    if not isinstance(network, Network):
        network = _network(s, magnitude, biases, dtype, inputs)
        s.memo["network"] = network
    if known and s.dropped is not None:
        network.drop(s.dropped)
    elif s.masks is not None:
        network.keep(s.masks)
    return network.sensitivities(s.positions)


def _network(
    s: Scoring, magnitude: Callable[[Tensor], Tensor], biases: str, dtype: str, inputs: Inputs | None
) -> Network:
    if biases not in ("drop", "abs"):
        raise unknown_name("treatment of biases", biases, ("drop", "abs"))
    if dtype not in _DTYPES:
        raise unknown_name("dtype to score in", dtype, _DTYPES)
    if inputs is None:
        inputs = _ones(s, _DTYPES[dtype])
    keep_biases = biases == "abs"
    return Network(s.model, s.weights, magnitude, inputs, keep_biases=keep_biases, dtype=_DTYPES[dtype])


def _ones(s: Scoring, dtype: torch.dtype) -> Inputs:
    if s.example is None:
        raise DisbudError(
            "SynFlow sends a signal of ones through the model and must know the shape of its input: give example=..., "
            "such as torch.zeros(1, 3, 32, 32), or a tuple or dict of inputs; its numbers do not matter"
        )
    return ones_like_example(s.example, dtype, device_of(s.model))
