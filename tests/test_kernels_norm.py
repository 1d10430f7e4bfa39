"""BatchNorm and pooling on blocked activations against torch in float64, with statistics, gradients and odd sizes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from disbud.errors import DisbudError
from disbud.kernels import (
    Statistics,
    Windows,
    adaptive_windows,
    average_pool,
    batch_norm,
    max_pool,
    pack,
    sliding_windows,
    unpack,
)
from test_kernels import BATCHES, assert_as_good, assert_clean, path

__all__ = ["path"]

PROPERTY = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def torchs_norm(norm: nn.BatchNorm2d, slope: float, pool: int, images: Tensor) -> Tensor:
    y = norm(images)
    y = y.relu() if slope == 0 else functional.leaky_relu(y, slope) if slope != 1 else y
    return functional.max_pool2d(y, pool)


@given(
    images=st.sampled_from(BATCHES),
    channels=st.integers(1, 5),
    size=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    slope=st.sampled_from((0.0, 0.1, 1.0)),
    pool=st.sampled_from((1, 2)),
    use=st.sampled_from(("batch", "running")),
    halos=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    offset=st.sampled_from((0.0, 30.0)),
    seed=st.integers(0, 2**31),
)
@PROPERTY
def test_batch_norm_with_activation_and_pooling_is_torchs(
    path: str,
    images: int,
    channels: int,
    size: tuple[int, int],
    slope: float,
    pool: int,
    use: str,
    halos: tuple[int, int],
    offset: float,
    seed: int,
) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(images, channels, *size, generator=g).add(offset)
    gamma, beta = torch.rand(channels, generator=g).add(0.5), torch.randn(channels, generator=g)
    toward = torch.rand(images, channels, size[0] // pool, size[1] // pool, generator=g)
    results = []
    for dtype in (torch.float64, torch.float32):
        norm = nn.BatchNorm2d(channels, dtype=dtype).train(use == "batch")
        with torch.no_grad():
            norm.weight.copy_(gamma)
            norm.bias.copy_(beta)
            norm.running_mean.fill_(offset)  # type: ignore[union-attr]
        leaf = x.clone().to(dtype).requires_grad_()
        y = torchs_norm(norm, slope, pool, leaf)
        y.backward(toward.to(dtype))
        results.append(
            (y.detach(), leaf.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var)
        )
    running = Statistics(torch.full((channels,), offset), torch.ones(channels))
    leaves = [tensor.clone().requires_grad_() for tensor in (x, gamma, beta)]
    packed = pack(leaves[0], halo=halos[0])
    packed.data.retain_grad()
    y = batch_norm(
        packed, leaves[1], leaves[2], statistics=running, use=use, slope=slope, pool=pool, halo=halos[1]
    )
    assert_clean(y)
    unpack(y).backward(toward)
    assert packed.data.grad is not None
    assert_clean(type(packed)(packed.data.grad, packed.layout))
    found = (unpack(y).detach(), *(leaf.grad for leaf in leaves), running.mean, running.variance)
    for ours, exact, usual in zip(found, *results, strict=True):
        # Rounding x itself moves the deviations by 1e-7 of the offset, whoever computes.
        assert_as_good(ours, usual, exact, 5e-6 * max(1.0, offset / 10))


def test_statistics_are_taken_by_their_momentum(path: str) -> None:
    x = torch.randn(4, 3, 5, 5) * 3 + 1
    norm, running = nn.BatchNorm2d(3, momentum=0.3), Statistics(torch.zeros(3), torch.ones(3), momentum=0.3)
    for _ in range(2):
        norm(x)
        batch_norm(pack(x), torch.ones(3), torch.zeros(3), statistics=running)
    torch.testing.assert_close(running.mean, norm.running_mean)
    torch.testing.assert_close(running.variance, norm.running_var)


def test_a_nan_spreads_as_in_torch(path: str) -> None:
    x = torch.randn(2, 2, 4, 4)
    x[0, 0, 1, 2] = float("nan")
    y = unpack(batch_norm(pack(x), torch.ones(2), torch.zeros(2), statistics=None, slope=0.0, pool=2))
    assert y[:, 0].isnan().all()
    assert not y[:, 1].isnan().any()
    pooled = unpack(max_pool(pack(x), (sliding_windows(4, 2), sliding_windows(4, 2))))
    torch.testing.assert_close(pooled, functional.max_pool2d(x, 2), equal_nan=True)


def torchs_pool(kind: str, x: Tensor, **window: object) -> Tensor:
    pool: Callable[..., Tensor] = getattr(functional, f"{kind}_pool2d")
    return pool(x, **window)


@given(
    kind=st.sampled_from(("max", "avg")),
    images=st.sampled_from(BATCHES),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    half=st.booleans(),
    dilation=st.integers(1, 2),
    overhang=st.booleans(),
    divide_by=st.sampled_from(("window", "pixels")),
    halos=st.tuples(st.integers(0, 2), st.integers(0, 2)),
)
@PROPERTY
def test_pooling_is_torchs(
    path: str,
    kind: str,
    images: int,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    half: bool,
    dilation: int,
    overhang: bool,
    divide_by: str,
    halos: tuple[int, int],
) -> None:
    dilation = dilation if kind == "max" else 1
    padding = tuple(k // 2 if half else 0 for k in kernel)
    # Of a window that lies in the padding whole, torch's gradient writes outside its memory; ours is refused.
    if min(size) < dilation or any(
        n + 2 * p < dilation * (k - 1) + 1 for n, p, k in zip(size, padding, kernel, strict=True)
    ):
        return
    # Small whole numbers, so that windows hold their maximum more than once.
    x = torch.randint(-2, 3, (images, 2, *size)).double().requires_grad_()
    more: dict[str, object] = (
        {"dilation": dilation} if kind == "max" else {"count_include_pad": divide_by == "window"}
    )
    y = torchs_pool(kind, x, kernel_size=kernel, stride=stride, padding=padding, ceil_mode=overhang, **more)
    toward = torch.rand(y.shape)
    y.backward(toward.double())
    rows, columns = (
        sliding_windows(
            size[i],
            kernel[i],
            stride=stride[i],
            padding=padding[i],
            dilation=dilation,
            overhang=overhang,
            divide_by=divide_by,
        )
        for i in (0, 1)
    )
    assert_pools_to(kind, x, (rows, columns), y, toward, halos)


def assert_pools_to(
    kind: str, x: Tensor, windows: tuple[Windows, Windows], y: Tensor, toward: Tensor, halos: tuple[int, int]
) -> None:
    leaf = x.detach().float().requires_grad_()
    ours = (max_pool if kind == "max" else average_pool)(pack(leaf, halo=halos[0]), windows, halo=halos[1])
    assert_clean(ours)
    unpack(ours).backward(toward)
    assert x.grad is not None
    assert leaf.grad is not None
    torch.testing.assert_close(unpack(ours).detach(), y.detach().float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(leaf.grad, x.grad.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize(
    ("size", "outputs"), [((7, 5), (3, 2)), ((4, 4), (1, 1)), ((3, 3), (5, 4)), ((1, 1), (1, 1))]
)
def test_adaptive_pooling_is_torchs(
    kind: str, size: tuple[int, int], outputs: tuple[int, int], path: str
) -> None:
    x = torch.randn(19, 3, *size, dtype=torch.float64, requires_grad=True)
    y = torchs_pool(f"adaptive_{kind}", x, output_size=outputs)
    toward = torch.rand(y.shape)
    y.backward(toward.double())
    windows = (adaptive_windows(size[0], outputs[0]), adaptive_windows(size[1], outputs[1]))
    assert_pools_to(kind, x, windows, y, toward, (1, 1))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda x: batch_norm(x, torch.ones(2), torch.zeros(3), statistics=None), "3 channels"),
        (lambda x: batch_norm(x, torch.ones(3), torch.zeros(3), statistics=None, use="running"), "running"),
        (lambda x: batch_norm(x, torch.ones(3), torch.zeros(3), statistics=None, slope=-1.0), "slope -1.0"),
        (lambda x: batch_norm(x, torch.ones(3), torch.zeros(3), statistics=None, pool=3), "pool 3"),
        (lambda x: batch_norm(x, torch.ones(3).double(), torch.zeros(3), statistics=None), "float32"),
        (lambda x: max_pool(x, (sliding_windows(9, 2), sliding_windows(4, 2))), "axis of 4 pixels"),
        (lambda x: sliding_windows(4, 2, padding=2), "not possible"),
        (lambda x: sliding_windows(1, 2), "does not fit 1 pixels"),
        (lambda x: sliding_windows(1, 2, stride=1, padding=1, dilation=2), "no pixel"),
        (lambda x: sliding_windows(4, 2, divide_by="area"), "area"),
        (lambda x: adaptive_windows(4, 0), "at least one"),
    ],
)
def test_what_cannot_be_done_is_said(ask: Callable[[object], object], message: str) -> None:
    with pytest.raises(DisbudError, match=message):
        ask(pack(torch.zeros(2, 3, 4, 4)))


def test_one_value_a_channel_has_no_variance() -> None:
    with pytest.raises(DisbudError, match="no variance"):
        batch_norm(pack(torch.zeros(1, 3)), torch.ones(3), torch.zeros(3), statistics=None)
