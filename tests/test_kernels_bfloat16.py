"""Activations stored in bfloat16: sums in float32 of rounded inputs, themselves rounded once, to the nearest even."""

from __future__ import annotations

from collections.abc import Callable, Iterator

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
    adaptive_windows,
    add,
    average_pool,
    batch_norm,
    concatenate,
    folded_layer,
    max_pool,
    pack,
    sliding_windows,
    sparse_branch,
    sparse_layer,
    unpack,
)
from disbud.kernels.build import usable_instructions
from disbud.kernels.library import _library, library
from disbud.kernels.memory import LEAST, Recycler
from test_kernels import BATCHES, EVERY_PATH, PROPERTY, Case, assert_clean, convolutions

BFLOAT16 = torch.bfloat16
# A number of 8 bits is off by half of its last one at most; sums in float32 add some parts in a million.
ROUNDED = 2.0**-8 + 1e-5
INTEGERS = ("avx512 by integers",) if "avx512" in usable_instructions() else ()


@pytest.fixture(params=(*EVERY_PATH, *INTEGERS))
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each build of the kernels, and the path without; AVX-512 with its bfloat16 instructions, and without."""
    instructions, *without = str(request.param).split(" by ")
    monkeypatch.setenv("DISBUD_KERNELS", instructions)
    if without:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    _library.cache_clear()
    torch.use_deterministic_algorithms(True)
    yield str(request.param)
    torch.use_deterministic_algorithms(False)
    _library.cache_clear()


def off(ours: Tensor, exact: Tensor) -> float:
    assert ours.shape == exact.shape
    return float((ours.detach().double() - exact.detach()).norm() / exact.detach().norm().clamp(min=1e-30))


def stored(x: Tensor, *, halo: int = 0) -> Blocked:
    return pack(x.float(), halo=halo, stored=BFLOAT16)


def representable(*shape: int, generator: torch.Generator) -> Tensor:
    """Positive numbers that bfloat16 holds exactly, in float64."""
    return torch.rand(shape, generator=generator).add(0.1).bfloat16().double()


def test_what_is_stored_is_rounded_to_the_nearest_even(path: str) -> None:
    x = torch.cat([torch.randn(5000), torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan")])])
    ties = torch.tensor([1 + 2**-7, 1 + 3 * 2**-7])
    x = torch.cat([x, ties, torch.full((11,), 3e38)]).bfloat16().float().view(-1, 1)
    for factor in (1.0, 1 + 2**-8, 0.3, -7.7, 1 / 3):
        one = Pattern.of_linear(torch.ones(1, 1, dtype=torch.bool))
        y = sparse_layer(stored(x), torch.tensor([factor]), one)
        assert y.data.dtype == BFLOAT16
        # The zero a sum starts with makes zeros positive.
        wanted = (x * torch.tensor(factor) + 0.0).bfloat16().float()
        torch.testing.assert_close(unpack(y).flatten(), wanted.flatten(), rtol=0, atol=0, equal_nan=True)


@given(case=convolutions())
@PROPERTY
def test_convolutions_round_their_sums_once(path: str, case: Case) -> None:
    pattern, of_input = case.pattern(), []
    images = case.images.bfloat16().double()
    exact_leaves = [tensor.clone().requires_grad_() for tensor in (images, case.weight.float().double())]
    exact = case.torchs(*exact_leaves, case.bias.float().double())
    leaves = [images.float(), pattern.gather(case.weight.float()), case.bias.float()]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    x = pack(leaves[0], halo=case.halos[0], stored=BFLOAT16)
    x.data.register_hook(lambda gradient: of_input.append(Blocked(gradient, x.layout)))
    y = sparse_layer(x, leaves[1], pattern, bias=leaves[2], halo=case.halos[1])
    assert_clean(y)
    assert off(unpack(y), exact) <= ROUNDED
    toward = representable(*exact.shape, generator=torch.Generator().manual_seed(1))
    exact.backward(toward)
    unpack(y).backward(toward.float())
    assert_clean(of_input[0])
    assert of_input[0].data.dtype == BFLOAT16
    assert off(leaves[0].grad, exact_leaves[0].grad) <= ROUNDED
    assert [leaf.grad.dtype for leaf in leaves] == [torch.float32] * 3
    # Gradients of parameters are never stored in bfloat16.
    assert off(leaves[1].grad, exact_leaves[1].grad[case.mask]) <= 1e-5
    assert off(leaves[2].grad, toward.sum((0, 2, 3))) <= 1e-5


@pytest.mark.parametrize(("inputs", "outputs", "size"), [(64, 96, 12), (160, 48, 2), (300, 200, 1)])
def test_sums_of_several_channel_blocks_wait_in_float32(
    path: str, inputs: int, outputs: int, size: int
) -> None:
    g = torch.Generator().manual_seed(inputs)
    mask = torch.rand(outputs, inputs, 3, 3, generator=g) < 0.1
    x = representable(40, inputs, size, size, generator=g)
    weight = torch.rand(mask.shape, generator=g)
    exact = functional.conv2d(x, weight.double() * mask, padding=1)
    pattern = Pattern.of_convolution(mask, padding=1)
    assert off(unpack(sparse_layer(stored(x), pattern.gather(weight), pattern)), exact) <= ROUNDED


@given(
    images=st.sampled_from(BATCHES),
    channels=st.integers(1, 5),
    size=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    slope=st.sampled_from((0.0, 0.25, 1.0)),
    pool=st.sampled_from((1, 2)),
    summed=st.booleans(),
    halos=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    seed=st.integers(0, 2**31),
)
@PROPERTY
def test_batch_norm_rounds_what_it_stores(
    path: str,
    images: int,
    channels: int,
    size: tuple[int, int],
    slope: float,
    pool: int,
    summed: bool,
    halos: tuple[int, int],
    seed: int,
) -> None:
    g = torch.Generator().manual_seed(seed)
    images = max(images, 16)  # of few numbers BatchNorm leaves a gradient that is all cancellation
    pool = 1 if summed else pool
    x, added = (representable(images, channels, *size, generator=g) for _ in range(2))
    added = (added - 1).bfloat16().double()
    gamma, beta = torch.rand(channels, generator=g).add(0.5), torch.randn(channels, generator=g)
    whole = [x, gamma.double(), beta.double(), added]
    exact_leaves = [tensor.clone().requires_grad_() for tensor in whole]
    y = functional.batch_norm(exact_leaves[0], None, None, *exact_leaves[1:3], True)
    y = functional.leaky_relu(y + exact_leaves[3] if summed else y, slope)
    exact = functional.max_pool2d(y, pool)
    leaves = [tensor.float().requires_grad_() for tensor in whole]
    running = Statistics(torch.zeros(channels), torch.ones(channels))
    made = batch_norm(
        pack(leaves[0], halo=halos[0], stored=BFLOAT16),
        *leaves[1:3],
        statistics=running,
        slope=slope,
        pool=pool,
        halo=halos[1],
        added=pack(leaves[3], stored=BFLOAT16) if summed else None,
    )
    assert_clean(made)
    assert off(unpack(made), exact) <= ROUNDED
    assert off(running.mean, 0.1 * x.mean((0, 2, 3))) <= 1e-5
    toward = representable(*exact.shape, generator=g)
    exact.backward(toward)
    unpack(made).backward(toward.float())
    assert off(leaves[0].grad, exact_leaves[0].grad) <= ROUNDED
    assert off(leaves[1].grad, exact_leaves[1].grad) <= 1e-4
    assert off(leaves[2].grad, exact_leaves[2].grad) <= 1e-5
    if summed:
        assert off(leaves[3].grad, exact_leaves[3].grad) <= ROUNDED


def test_a_fork_and_a_whole_step_are_rounded_once(path: str) -> None:
    g = torch.Generator().manual_seed(3)
    x, added = representable(20, 9, 7, 6, generator=g), representable(20, 9, 7, 6, generator=g)
    mask = torch.rand(9, 9, 3, 3, generator=g) < 0.4
    weight, pattern = torch.rand(mask.shape, generator=g), Pattern.of_convolution(mask, padding=1)
    scale, shift = torch.rand(9, generator=g), -torch.rand(9, generator=g)
    raw = functional.conv2d(x, weight.double() * mask, padding=1)
    wanted = (raw * scale.double()[:, None, None] + shift.double()[:, None, None] + added).relu()
    y = folded_layer(
        stored(x), pattern.gather(weight), pattern, scale=scale, shift=shift, slope=0.0, added=stored(added)
    )
    assert off(unpack(y), wanted) <= ROUNDED

    leaf, exact_leaf = x.float().requires_grad_(), x.clone().requires_grad_()
    y, branch = sparse_branch(pack(leaf, stored=BFLOAT16), pattern.gather(weight), pattern)
    ((unpack(y) + 0.5 * unpack(branch)).sum()).backward()
    exact = functional.conv2d(exact_leaf, weight.double() * mask, padding=1)
    (exact + 0.5 * exact_leaf).sum().backward()
    assert off(leaf.grad, exact_leaf.grad) <= ROUNDED


def test_pooling_of_what_is_stored(path: str) -> None:
    x = torch.randn(19, 3, 7, 5, generator=torch.Generator().manual_seed(1)).bfloat16().double()
    windows = (sliding_windows(7, 3, padding=1), sliding_windows(5, 3, padding=1))
    assert torch.equal(unpack(max_pool(stored(x), windows)).double(), functional.max_pool2d(x, 3, padding=1))
    leaf = x.float().requires_grad_()
    y = unpack(average_pool(pack(leaf, stored=BFLOAT16), (adaptive_windows(7, 2), adaptive_windows(5, 1))))
    assert off(y, functional.adaptive_avg_pool2d(x, (2, 1))) <= 2 * ROUNDED
    y.sum().backward()
    assert float(leaf.grad.sum()) == pytest.approx(19 * 3 * 2, rel=2 * ROUNDED)


@pytest.mark.parametrize("threads", [2, 5])
def test_bits_do_not_depend_on_threads(threads: int) -> None:
    pattern = Pattern.of_convolution(torch.rand(20, 30, 3, 3) < 0.2, padding=1)
    values, x, found = torch.randn(pattern.kept, requires_grad=True), torch.randn(40, 30, 9, 9), []
    for number in (1, threads):
        torch.set_num_threads(number)
        try:
            y = unpack(sparse_layer(stored(x), values, pattern))
            found.append((y.detach(), *torch.autograd.grad(y.sum(), values)))
        finally:
            torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "half precision": (
        lambda: pack(torch.zeros(1, 2), stored=torch.float16),
        "in torch.float32 or torch.bfloat16",
    ),
    "a sum of two types": (lambda: add(stored(torch.zeros(1, 2)), pack(torch.zeros(1, 2))), "in one type"),
    "a concatenation of two types": (
        lambda: concatenate([stored(torch.zeros(1, 2)), pack(torch.zeros(1, 2))]),
        "in one type",
    ),
    "a shortcut of another type": (
        lambda: batch_norm(
            stored(torch.zeros(3, 2)),
            torch.ones(2),
            torch.zeros(2),
            statistics=None,
            added=pack(torch.ones(3, 2)),
        ),
        "one of that type",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_said(name: str) -> None:
    ask, message = REFUSED[name]
    with pytest.raises(DisbudError, match=message):
        ask()


def test_memory_is_halved() -> None:
    recycler = Recycler()
    recycler.empty((4 * LEAST,), BFLOAT16)
    half = recycler.mapped
    other = Recycler()
    other.empty((4 * LEAST,))
    assert other.mapped == 2 * half


def test_kernels_are_built_for_each_type() -> None:
    both = [library(), library(BFLOAT16)]
    if both[0] is not None:
        assert [kernels.stored for kernels in both if kernels] == [torch.float32, BFLOAT16]
