"""Second derivatives of convolution and BatchNorm by formula, against finite differences and against torch's own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import disbud
from disbud.methods import grasp
from disbud.methods.curvature import TwiceDifferentiable
from networks import NETWORKS

Function = Callable[[Tensor, Tensor], Tensor]
GAMMA, BETA = torch.tensor([0.5, -1.5]).double(), torch.tensor([0.1, 2.0]).double()

CONVOLUTIONS: dict[str, tuple[Function, tuple[int, ...], tuple[int, ...]]] = {
    "1d": (lambda x, w: functional.conv1d(x, w), (2, 2, 5), (3, 2, 3)),
    "2d": (lambda x, w: functional.conv2d(x, w, BETA.repeat(2)[:3], 1, 1), (2, 2, 4, 3), (3, 2, 3, 3)),
    "3d": (lambda x, w: functional.conv3d(x, w, None, padding=[1, 0, 1]), (1, 2, 2, 3, 2), (2, 2, 2, 1, 2)),
    "strided": (lambda x, w: functional.conv2d(x, w, None, (2, 1), (1,), 2), (2, 1, 5, 6), (2, 1, 2, 3)),
    "grouped": (lambda x, w: functional.conv2d(x, w, groups=2), (2, 4, 3, 3), (4, 2, 2, 2)),
    "depthwise": (lambda x, w: functional.conv2d(x, w, None, 1, 1, 1, 3), (2, 3, 3, 3), (3, 1, 3, 3)),
}
NORMS: dict[str, tuple[Function, tuple[int, ...]]] = {
    "1d": (lambda x, _: functional.batch_norm(x, None, None, GAMMA, BETA, True), (5, 2)),
    "sequence": (lambda x, _: functional.batch_norm(x, None, None, GAMMA, BETA, True), (3, 2, 4)),
    "2d": (
        lambda x, _: functional.batch_norm(x, None, None, GAMMA, None, training=True, eps=0.3),
        (2, 2, 2, 3),
    ),
}
LEFT_TO_TORCH: dict[str, tuple[Function, tuple[int, ...], tuple[int, ...]]] = {
    "named padding": (lambda x, w: functional.conv2d(x, w, padding="same"), (1, 2, 4, 4), (2, 2, 3, 3)),
    "no batch axis": (lambda x, w: functional.conv2d(x, w), (2, 4, 4), (2, 2, 3, 3)),
    "varying bias": (lambda x, w: functional.conv1d(x, w, w.sum((1, 2))), (1, 2, 4), (2, 2, 3)),
    "transposed": (lambda x, w: functional.conv_transpose1d(x, w), (1, 2, 4), (2, 2, 3)),
    "running statistics": (
        lambda x, w: functional.batch_norm(x, BETA, GAMMA.abs(), GAMMA, BETA),
        (3, 2),
        (1,),
    ),
    "no gamma": (lambda x, w: functional.batch_norm(x, None, None, training=True), (4, 2), (1,)),
    "varying gamma": (lambda x, w: functional.batch_norm(x, None, None, w, BETA, True), (4, 2), (2,)),
}


def values(*shape: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64).requires_grad_()


def names_of(result: Tensor) -> str:
    return type(result.grad_fn).__name__


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name: str) -> None:
    function, x_shape, w_shape = CONVOLUTIONS[name]
    x, w = values(*x_shape), values(*w_shape, seed=1)
    expected = function(x, w)
    with TwiceDifferentiable():
        assert names_of(function(x, w)) == "_ConvolutionBackward"
        torch.testing.assert_close(function(x, w), expected)
        for wanted in ((x, w), (x, w.detach()), (x.detach(), w)):
            torch.autograd.gradcheck(function, wanted)
            torch.autograd.gradgradcheck(lambda *given: function(*given).pow(2), wanted)


@pytest.mark.parametrize("name", NORMS)
def test_batch_norm(name: str) -> None:
    function, shape = NORMS[name]
    x, unused = values(*shape), torch.zeros(())
    expected = function(x, unused)
    with TwiceDifferentiable():
        assert names_of(function(x, unused)) == "_BatchNormBackward"
        torch.testing.assert_close(function(x, unused), expected)
        torch.autograd.gradcheck(function, (x, unused))
        torch.autograd.gradgradcheck(lambda x: function(x, unused).pow(2), (x,))


@pytest.mark.parametrize("name", LEFT_TO_TORCH)
def test_what_is_out_of_the_ordinary_is_left_to_torch(name: str) -> None:
    function, x_shape, w_shape = LEFT_TO_TORCH[name]
    x, w = values(*x_shape), values(*w_shape, seed=1)
    expected = function(x, w)
    with TwiceDifferentiable():
        found = function(x, w)
    assert names_of(found) == names_of(expected)
    assert torch.equal(found, expected)


def test_one_number_a_channel_is_torchs_to_refuse() -> None:
    norm = torch.nn.BatchNorm1d(3).double().requires_grad_(False)
    for rows in (1, 2):
        x = values(rows, 3)
        with (
            TwiceDifferentiable(),
            pytest.raises(ValueError, match="more than 1 value per channel")
            if rows == 1
            else contextlib.nullcontext(),
        ):
            assert names_of(norm(x)) == "_BatchNormBackward"


@pytest.mark.parametrize("name", ["batch-norm", "residual", "grouped", "conv1d", "conv3d"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_are_those_of_torchs_own_derivatives(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = NETWORKS[name]
    model, batches = network.build().to(dtype), [network.batch(9, dtype=dtype)]
    ours = disbud.scores(model, "grasp", batches=batches, examples_per_class=None)
    monkeypatch.setattr(grasp, "TwiceDifferentiable", contextlib.nullcontext)
    theirs = disbud.scores(model, "grasp", batches=batches, examples_per_class=None)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    for layer in ours:
        assert (ours[layer] - theirs[layer]).norm() <= tolerance * theirs[layer].norm()
