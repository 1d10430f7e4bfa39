"""Sums in BatchNorm's pass, forks in a layer's and whole residual steps in one pass, against torch in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from disbud.errors import DisbudError
from disbud.kernels import (
    Blocked,
    Pattern,
    Statistics,
    batch_norm,
    folded_layer,
    pack,
    sparse_branch,
    sparse_layer,
    unpack,
)
from test_kernels import BATCHES, BOUND, PROPERTY, WEIGHT_BOUND, assert_as_good, assert_clean, gradients, path

__all__ = ["path"]

SLOPES = st.sampled_from((0.0, 0.1, 1.0))
HALOS = st.tuples(*[st.integers(0, 2)] * 3)


def activated(y: Tensor, slope: float) -> Tensor:
    return functional.leaky_relu(y, slope)


@given(
    images=st.sampled_from(BATCHES),
    channels=st.integers(1, 5),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    slope=SLOPES,
    use=st.sampled_from(("batch", "running")),
    halos=HALOS,
    seed=st.integers(0, 2**31),
)
@PROPERTY
def test_a_sum_in_the_pass_of_batch_norm_is_torchs(
    path: str,
    images: int,
    channels: int,
    size: tuple[int, int],
    slope: float,
    use: str,
    halos: tuple[int, int, int],
    seed: int,
) -> None:
    if images * size[0] * size[1] < 2:
        return
    g = torch.Generator().manual_seed(seed)
    x, added = (torch.randn(images, channels, *size, generator=g, dtype=torch.float64) for _ in range(2))
    gamma, beta = torch.rand(channels, generator=g).add(0.5), torch.randn(channels, generator=g)
    whole = (x, added, gamma.double(), beta.double())
    single = tuple(tensor.float() for tensor in whole)

    def torchs(x: Tensor, added: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        moments = [torch.full((channels,), value, dtype=x.dtype) for value in (0.1, 1.2)]
        return activated(
            functional.batch_norm(x, *moments, gamma, beta, training=use == "batch") + added, slope
        )

    def ours(x: Tensor, added: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        running = Statistics(torch.full((channels,), 0.1), torch.full((channels,), 1.2))
        given = [pack(tensor, halo=halo) for tensor, halo in zip((x, added), halos, strict=False)]
        for activation in given:
            activation.data.register_hook(
                lambda gradient, layout=activation.layout: assert_clean(Blocked(gradient, layout))
            )
        y = batch_norm(
            given[0], gamma, beta, statistics=running, use=use, slope=slope, halo=halos[2], added=given[1]
        )
        assert_clean(y)
        return unpack(y)

    exact, exact_gradients = gradients(torchs, *whole)
    usual, usual_gradients = gradients(torchs, *single)
    output, found = gradients(ours, *single)
    assert_as_good(output, usual, exact, BOUND)
    for place, bound in enumerate((BOUND, BOUND, WEIGHT_BOUND, WEIGHT_BOUND)):
        # Of two or three numbers BatchNorm leaves a gradient that is all cancellation.
        room = bound if images * size[0] * size[1] > 16 else 1e-3
        assert_as_good(found[place], usual_gradients[place], exact_gradients[place], room)


def test_a_nan_in_a_sum_spreads_as_in_torch(path: str) -> None:
    x, added = torch.randn(2, 2, 3, 3), torch.randn(2, 2, 3, 3)
    added[1, 0, 1, 1] = float("nan")
    y = batch_norm(
        pack(x), torch.ones(2), torch.zeros(2), statistics=None, slope=0.0, added=pack(added, halo=1)
    )
    wanted = (functional.batch_norm(x, None, None, training=True) + added).relu()
    torch.testing.assert_close(unpack(y), wanted, equal_nan=True)


@given(
    images=st.sampled_from(BATCHES),
    channels=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    size=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    stride=st.integers(1, 3),
    kernel=st.integers(1, 3),
    halos=HALOS,
    unread=st.sampled_from(("neither", "layer", "branch")),
    seed=st.integers(0, 2**31),
)
@PROPERTY
def test_the_gradients_of_a_fork_meet_in_the_layers_pass(
    path: str,
    images: int,
    channels: tuple[int, int],
    size: tuple[int, int],
    stride: int,
    kernel: int,
    halos: tuple[int, int, int],
    unread: str,
    seed: int,
) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(images, channels[0], *size, generator=g, dtype=torch.float64)
    weight = torch.rand(channels[1], channels[0], kernel, kernel, generator=g, dtype=torch.float64)
    mask = torch.rand(weight.shape, generator=g) < 0.5
    pattern = Pattern.of_convolution(mask, stride=stride, padding=kernel // 2)

    def joined(y: Tensor, x: Tensor) -> Tensor:
        y, x = y.detach() if unread == "layer" else y, x.detach() if unread == "branch" else x
        return torch.cat([y.flatten(1), x.square().flatten(1)], 1)

    def torchs(x: Tensor, weight: Tensor) -> Tensor:
        return joined(functional.conv2d(x, weight * mask, None, stride, kernel // 2), x) + 0 * weight.sum()

    def ours(x: Tensor, values: Tensor) -> Tensor:
        packed = pack(x, halo=halos[0])
        packed.data.register_hook(lambda gradient: assert_clean(Blocked(gradient, packed.layout)))
        y, branch = sparse_branch(packed, values, pattern, halo=halos[1])
        return joined(unpack(y), unpack(branch)) + 0 * values.sum()

    exact, exact_gradients = gradients(torchs, x, weight)
    usual, usual_gradients = gradients(torchs, x.float(), weight.float())
    output, found = gradients(ours, x.float(), pattern.gather(weight.float()))
    assert_as_good(output, usual, exact, BOUND)
    assert_as_good(found[0], usual_gradients[0], exact_gradients[0], BOUND)
    assert_as_good(found[1], usual_gradients[1][mask], exact_gradients[1][mask], WEIGHT_BOUND)


@given(
    images=st.sampled_from(BATCHES),
    channels=st.tuples(st.integers(1, 70), st.sampled_from((1, 3, 140))),
    size=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    stride=st.integers(1, 2),
    slope=SLOPES,
    halos=HALOS,
    summed=st.booleans(),
    seed=st.integers(0, 2**31),
)
@PROPERTY
def test_a_layer_with_all_that_follows_it_is_torchs(
    path: str,
    images: int,
    channels: tuple[int, int],
    size: tuple[int, int],
    stride: int,
    slope: float,
    halos: tuple[int, int, int],
    summed: bool,
    seed: int,
) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(images, channels[0], *size, generator=g, dtype=torch.float64)
    weight = torch.rand(channels[1], channels[0], 3, 3, generator=g, dtype=torch.float64)
    mask = torch.rand(weight.shape, generator=g) < 0.2
    scale, shift = (torch.rand(channels[1], generator=g, dtype=torch.float64).add(0.5) for _ in range(2))
    pattern = Pattern.of_convolution(mask, stride=stride, padding=1)

    def torchs(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, added: Tensor | None) -> Tensor:
        y = functional.conv2d(x, weight * mask, None, stride, 1) * scale[:, None, None] + shift[:, None, None]
        return activated(y if added is None else y - added, slope)

    plain = torchs(x, weight, scale, shift, None)
    added = 2 * torch.rand(plain.shape, generator=g, dtype=torch.float64) if summed else None
    exact = torchs(x, weight, scale, shift, added)
    whole = [x, weight, scale, shift, *([] if added is None else [added])]
    single = [tensor.float() for tensor in whole]
    usual = torchs(*single[:4], single[4] if summed else None)
    y = folded_layer(
        pack(single[0], halo=halos[0]),
        pattern.gather(single[1]),
        pattern,
        scale=single[2],
        shift=single[3],
        slope=slope,
        added=pack(-single[4], halo=halos[2]) if summed else None,
        halo=halos[1],
    )
    assert_clean(y)
    assert_as_good(unpack(y), usual, exact, BOUND)


LINEAR = Pattern.of_linear(torch.ones(3, 4, dtype=torch.bool))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda x: batch_norm(x, *AFFINE, statistics=None, added=pack(torch.zeros(2, 4, 3, 3))), "of that size"),
        (lambda x: batch_norm(x, *AFFINE, statistics=None, added=x, pool=2), "cannot be pooled"),
        (lambda x: folded(x, torch.ones(2), None), "3 outputs is scaled"),
        (lambda x: folded(x, torch.ones(3), pack(torch.zeros(2, 4))), "of that size"),
    ],
)  # fmt: skip
def test_what_cannot_be_joined_is_said(ask: Callable[[Blocked], object], message: str, path: str) -> None:
    with pytest.raises(DisbudError, match=message):
        ask(pack(torch.ones(2, 4)) if "output" in message else pack(torch.zeros(2, 4, 2, 2)))


AFFINE = (torch.ones(4), torch.zeros(4))


def folded(x: Blocked, scale: Tensor, added: Blocked | None) -> Blocked:
    x = pack(unpack(x)[:, :, 0, 0])
    return folded_layer(x, torch.ones(12), LINEAR, scale=scale, shift=torch.zeros(3), added=added)


def test_sparse_branch_hands_on_its_input() -> None:
    x = pack(torch.ones(2, 4))
    y, again = sparse_branch(x, torch.ones(12), LINEAR)
    assert torch.equal(y.data, sparse_layer(x, torch.ones(12), LINEAR).data)
    assert torch.equal(again.data, x.data)
