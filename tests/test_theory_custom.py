"""Activations of one's own: the same numbers as the named ones, and an answer to each that the theory cannot take."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from disbud import DisbudError, theory


class CustomModule(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(x)


@pytest.mark.parametrize(
    ("name", "function", "kinks"),
    [
        ("tanh", torch.tanh, ()),
        ("tanh", nn.Tanh(), ()),
        ("relu", nn.ReLU(), (0,)),
        ("leaky-relu", functional.leaky_relu, (0.0,)),
        ("elu", nn.ELU(), (0.0,)),
        ("elu:alpha=0.5", nn.ELU(0.5), (0.0,)),
        ("gelu", nn.GELU(), ()),
        ("silu", CustomModule(), ()),
        ("hard-tanh", functional.hardtanh, (1, -1)),
        ("erf", torch.erf, ()),
        ("sigmoid", torch.sigmoid, ()),
    ],
)
def test_named_activations_are_torchs(
    name: str, function: Callable[[Tensor], Tensor], kinks: tuple[float, ...]
) -> None:
    own, named = theory.activation(function, kinks=kinks), theory.activation(name)
    assert own.closed is None
    assert own.kinks == named.kinks
    for q in (0.01, 1.0, 40.0):
        for sigma_w in (1.0, 1.7):
            mine, theirs = (
                (
                    theory.variance_map(phi, q, sigma_w=sigma_w, sigma_b=0.1),
                    theory.chi(phi, q, sigma_w=sigma_w),
                    theory.correlation_map(phi, 0.97, q=q, sigma_w=sigma_w, sigma_b=0.1),
                )
                for phi in (own, named)
            )
            assert mine == pytest.approx(theirs, rel=1e-11)


def test_a_function_of_numpy_with_its_derivative() -> None:
    phi = theory.activation(np.tanh, derivative=lambda x: 1 / np.cosh(x) ** 2, name="mine")
    assert phi.name == "mine"
    assert theory.edge_of_chaos(phi, 0.2).sigma_w == pytest.approx(theory.edge_of_chaos("tanh", 0.2).sigma_w)


def test_a_bare_function_will_do_wherever_a_name_does() -> None:
    assert theory.phase(torch.tanh, sigma_w=2.0).chi == pytest.approx(theory.phase("tanh", sigma_w=2.0).chi)


def test_autograd_works_whatever_mode_the_caller_is_in() -> None:
    with torch.no_grad():
        theory.chi(torch.tanh, 1.0, sigma_w=1.0)
    with torch.inference_mode():
        theory.chi(torch.tanh, 1.0, sigma_w=1.0)


@pytest.mark.parametrize(
    ("function", "settings", "message"),
    [
        (nn.ReLU(), {}, r"not smooth between -0\.4\d* and 0\.0\d*: .*kinks=\[0\.0\]"),
        (torch.abs, {}, "not smooth"),
        (torch.sign, {}, "not smooth"),
        (functional.relu6, {"kinks": [0]}, "not smooth between 5.* and 6"),
        (torch.sign, {"kinks": [0]}, "jumps from -1 to 1 at 0"),
        (lambda x: x.float().tanh().double(), {}, "float64"),
        (lambda x: x.softmax(-1), {}, "each element by itself"),
        (torch.exp, {}, "no faster than a power"),
        (torch.log, {}, "should be finite"),
        (np.tanh, {}, "give derivative="),
        (np.tanh, {"derivative": np.tanh}, "the derivative of the activation is"),
        (torch.tanh, {"kinks": ["a"]}, "kinks is a sequence of numbers"),
        (torch.tanh, {"kinks": [np.inf]}, "kinks are finite"),
        (lambda: 3, {}, "neither on a numpy array"),
        (nn.Linear(5, 5).double(), {}, "each element by itself|neither"),
    ],
)
def test_what_the_theory_cannot_take_is_said(
    function: Callable[..., object], settings: dict[str, object], message: str
) -> None:
    with pytest.raises(DisbudError, match=message):
        theory.activation(function, **settings)
