"""Sparse layers on blocked activations against torch in float64: outputs and all gradients, whatever the shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from disbud.errors import DisbudError
from disbud.kernels import (
    Blocked,
    Layout,
    Pattern,
    add,
    concatenate,
    elementwise,
    library,
    pack,
    sparse_layer,
    unpack,
    unpack_features,
    with_halo,
)
from disbud.kernels.build import usable_instructions
from disbud.kernels.layout import LANES, pixels_in_use
from disbud.kernels.plan import Sizes, plan

EVERY_PATH = (*usable_instructions(), "torch")
BOUND, WEIGHT_BOUND = 1e-6, 5e-6
BATCHES = (1, 2, 7, 16, 17, 40, 131)
FORMATS = (torch.contiguous_format, torch.channels_last)
PROPERTY = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(params=EVERY_PATH)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each build of the kernels, and the path without; new memory holds NaN, so that nothing passes by luck."""
    monkeypatch.setenv("DISBUD_KERNELS", request.param)
    torch.use_deterministic_algorithms(True)
    yield str(request.param)
    torch.use_deterministic_algorithms(False)


def assert_as_good(ours: Tensor, torchs: Tensor, exact: Tensor, bound: float) -> None:
    """The relative error is within the bound, or within twice that of torch in float32."""
    size = exact.norm().clamp(min=1e-30)
    error, usual = (ours.double() - exact).norm() / size, (torchs.double() - exact).norm() / size
    assert ours.shape == exact.shape
    assert error <= max(bound, 2 * float(usual)), f"{float(error):.1e} against torch's {float(usual):.1e}"


def assert_clean(x: Blocked) -> None:
    """The one rule of the layout: nothing but zero outside the images."""
    outside = ~pixels_in_use(x.layout).expand_as(x.data)
    assert (x.data[outside] == 0).all()


class Case(NamedTuple):
    """A layer and a batch: all that a gradient can depend on."""

    images: Tensor
    weight: Tensor
    bias: Tensor
    mask: Tensor
    window: dict[str, tuple[int, int]]
    groups: int
    halos: tuple[int, int]

    def pattern(self) -> Pattern:
        return Pattern.of_convolution(self.mask, **self.window, groups=self.groups)

    def torchs(self, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.conv2d(images, weight * self.mask, bias, **self.window, groups=self.groups)


# Numbers are positive where a case may be tiny: a sum that cancels to nothing has no relative error worth the name.
@st.composite
def convolutions(draw: st.DrawFn) -> Case:
    pair = lambda low, high: (draw(st.integers(low, high)), draw(st.integers(low, high)))  # noqa: E731
    groups = draw(st.sampled_from((1, 1, 2, 3)))
    outputs, inputs = (groups * n for n in pair(1, 5))
    kernel, stride, padding, dilation = pair(1, 5), pair(1, 3), pair(0, 4), pair(1, 3)
    least = [max(1, dilation[i] * (kernel[i] - 1) + 1 - 2 * padding[i]) for i in (0, 1)]
    size = [n + draw(st.integers(0, 18)) for n in least]
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    images = torch.rand(draw(st.sampled_from(BATCHES)), inputs, *size, generator=g, dtype=torch.float64)
    weight = torch.rand(outputs, inputs // groups, *kernel, generator=g, dtype=torch.float64)
    mask = torch.rand(weight.shape, generator=g) < draw(st.sampled_from((0.0, 0.02, 0.1, 0.5, 1.0)))
    return Case(
        images.to(memory_format=draw(st.sampled_from(FORMATS))),
        weight,
        torch.rand(outputs, generator=g, dtype=torch.float64),
        mask,
        {"stride": stride, "padding": padding, "dilation": dilation},
        groups,
        pair(0, 3),
    )


def gradients(forward: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    output = forward(*leaves)
    toward = torch.rand(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return output.detach(), list(torch.autograd.grad(output, leaves, toward.to(output.dtype)))


@given(case=convolutions())
@PROPERTY
def test_convolutions_and_their_gradients_are_torchs(path: str, case: Case) -> None:
    pattern, of_input = case.pattern(), []

    def ours(images: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        x = pack(images, halo=case.halos[0])
        x.data.register_hook(lambda gradient: of_input.append(Blocked(gradient, x.layout)))
        y = sparse_layer(x, values, pattern, bias=bias, halo=case.halos[1])
        assert_clean(y)
        assert y.layout.halo >= case.halos[1]
        return unpack(y)

    whole = (case.images, case.weight, case.bias)
    single = tuple(tensor.float() for tensor in whole)
    exact, exact_gradients = gradients(case.torchs, *whole)
    usual, usual_gradients = gradients(case.torchs, *single)
    output, found = gradients(ours, single[0], pattern.gather(single[1]), single[2])
    assert_clean(of_input[0])
    assert_as_good(output, usual, exact, BOUND)
    assert_as_good(found[0], usual_gradients[0], exact_gradients[0], BOUND)
    kept = [gradient[1][case.mask] for gradient in (usual_gradients, exact_gradients)]
    assert_as_good(found[1], *kept, WEIGHT_BOUND)
    assert_as_good(found[2], usual_gradients[2], exact_gradients[2], BOUND)


@given(
    images=st.sampled_from(BATCHES),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 6), st.integers(1, 6)),
    outputs=st.integers(1, 40),
    density=st.sampled_from((0.0, 0.05, 0.5, 1.0)),
    halo=st.integers(0, 2),
    seed=st.integers(0, 2**31),
)
@PROPERTY
def test_linear_layers_take_the_features_of_images_where_they_lie(
    path: str, images: int, shape: tuple[int, int, int], outputs: int, density: float, halo: int, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(images, *shape, generator=g, dtype=torch.float64)
    weight = torch.rand(outputs, x[0].numel(), generator=g, dtype=torch.float64)
    bias, mask = (
        torch.rand(outputs, generator=g, dtype=torch.float64),
        torch.rand(weight.shape, generator=g) < density,
    )
    pattern = Pattern.of_linear(mask)

    def torchs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.linear(x.flatten(1), weight * mask, bias)

    def ours(x: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        y = sparse_layer(pack(x, halo=halo), values, pattern, bias=bias)
        assert_clean(y)
        return unpack_features(y)

    exact, exact_gradients = gradients(torchs, x, weight, bias)
    usual, usual_gradients = gradients(torchs, x.float(), weight.float(), bias.float())
    output, found = gradients(ours, x.float(), pattern.gather(weight.float()), bias.float())
    assert_as_good(output, usual, exact, BOUND)
    assert_as_good(found[0], usual_gradients[0], exact_gradients[0], BOUND)
    kept = [gradient[1][mask] for gradient in (usual_gradients, exact_gradients)]
    assert_as_good(found[1], *kept, WEIGHT_BOUND)
    assert_as_good(found[2], usual_gradients[2], exact_gradients[2], BOUND)


@pytest.mark.parametrize(("inputs", "outputs", "size"), [(64, 96, 12), (40, 24, 7), (160, 48, 2)])
def test_layers_of_several_channel_blocks_and_every_tile(
    path: str, inputs: int, outputs: int, size: int
) -> None:
    g = torch.Generator().manual_seed(inputs)
    mask = torch.rand(outputs, inputs, 3, 3, generator=g) < 0.1
    pattern = Pattern.of_convolution(mask, padding=1)
    assert plan(pattern, Sizes(inputs, size, size, 1, 1)).forward.channel_blocks > 1
    images = torch.randn(150, inputs, size, size, generator=g, dtype=torch.float64)
    weight = torch.randn(mask.shape, generator=g, dtype=torch.float64)

    def torchs(images: Tensor, weight: Tensor) -> Tensor:
        return functional.conv2d(images, weight * mask, padding=1)

    def ours(images: Tensor, values: Tensor) -> Tensor:
        return unpack(sparse_layer(pack(images, halo=1), values, pattern))

    exact, exact_gradients = gradients(torchs, images, weight)
    usual, usual_gradients = gradients(torchs, images.float(), weight.float())
    output, found = gradients(ours, images.float(), pattern.gather(weight.float()))
    assert_as_good(output, usual, exact, BOUND)
    assert_as_good(found[0], usual_gradients[0], exact_gradients[0], BOUND)
    assert_as_good(found[1], usual_gradients[1][mask], exact_gradients[1][mask], WEIGHT_BOUND)


# The fourth has so few weights that their gradients are summed in parts.
@pytest.mark.parametrize("shape", [(32, 20, 16, 16), (5, 40, 3, 3), (70, 33, 1, 1), (70, 4, 24, 24)])
def test_results_are_the_same_bits_whatever_the_number_of_threads(shape: tuple[int, ...]) -> None:
    x, mask = torch.randn(shape), torch.rand(70, shape[1], 3, 3) < 0.2
    pattern = Pattern.of_convolution(mask, padding=1, stride=2 if shape[2] > 1 else 1)
    values = torch.randn(pattern.kept)

    def ours(x: Tensor, values: Tensor) -> Tensor:
        return unpack(sparse_layer(pack(x), values, pattern))

    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        try:
            output, of = gradients(ours, x, values)
        finally:
            torch.set_num_threads(1)
        found.append((output, *of))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@given(
    images=st.sampled_from(BATCHES),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)),
    halos=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    memory_format=st.sampled_from(FORMATS),
)
@PROPERTY
def test_packing_is_undone_by_unpacking_and_changing_the_halo_keeps_the_images(
    images: int, sizes: tuple[int, int, int], halos: tuple[int, int], memory_format: torch.memory_format
) -> None:
    x = torch.randn(images, *sizes).to(memory_format=memory_format)
    packed = with_halo(pack(x, halo=halos[0]), halos[1])
    assert packed.layout == Layout(images, *sizes, halo=halos[1])
    assert_clean(packed)
    assert torch.equal(unpack(packed), x)
    assert torch.equal(unpack_features(packed), x.flatten(1))
    # The formula of layout.py, for one number of the last image.
    layout, data = packed.layout, packed.data
    channel, row, column = (size - 1 for size in sizes)
    place = (layout.halo + row * (layout.width + layout.halo) + column) * LANES + (images - 1) % LANES
    assert data[(images - 1) // LANES, channel, place] == x[-1, -1, -1, -1]


@pytest.mark.parametrize("halo", [0, 1])
def test_a_function_of_every_number_leaves_nothing_outside_the_images(halo: int) -> None:
    x = torch.rand(3, 2, 4, 4).add(1).requires_grad_()
    for function in (
        torch.sigmoid,
        torch.cos,
        torch.relu,
        torch.tanh,
        torch.sqrt,
        functional.gelu,
        torch.log,
    ):
        packed = pack(x, halo=halo)
        y = elementwise(packed, function)
        assert_clean(y)
        assert torch.equal(unpack(y), function(x))
        (found,) = torch.autograd.grad(unpack(y).sum(), packed.data)
        assert_clean(Blocked(found, y.layout))
        (wanted,) = torch.autograd.grad(function(x).sum(), x)
        assert torch.equal(unpack(Blocked(found, y.layout)), wanted)


def test_sums_and_concatenations_join_whatever_the_halo() -> None:
    x, y = torch.randn(5, 3, 4, 4), torch.randn(5, 3, 4, 4)
    assert torch.equal(unpack(add(pack(x, halo=2), pack(y))), x + y)
    joined = concatenate([pack(x), pack(y[:, :2], halo=1)])
    assert_clean(joined)
    assert torch.equal(unpack(joined), torch.cat([x, y[:, :2]], 1))


def test_images_that_are_not_there_change_nothing() -> None:
    """Junk in the idle lanes of a gradient that reaches a layer from outside must not be summed; here there is none."""
    x, mask = torch.randn(3, 4, 5, 5), torch.rand(6, 4, 3, 3) < 0.5
    pattern = Pattern.of_convolution(mask, padding=1)
    values, bias = torch.randn(pattern.kept, requires_grad=True), torch.randn(6, requires_grad=True)
    y = sparse_layer(elementwise(pack(x, halo=1), torch.cos), values, pattern, bias=bias)
    found = torch.autograd.grad(unpack(elementwise(y, torch.sigmoid)).sum(), (values, bias))
    weight = pattern.scatter(values.detach()).requires_grad_()
    z = functional.conv2d(x.cos(), weight, bias, padding=1)
    wanted = torch.autograd.grad(z.sigmoid().sum(), (weight, bias))
    torch.testing.assert_close(found, (wanted[0][mask], wanted[1]))


MASK = torch.ones(4, 3, 3, 3, dtype=torch.bool)
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "a mask of numbers": (lambda: Pattern.of_convolution(MASK.float()), "boolean tensor of 4 dimensions"),
    "a linear mask for a convolution": (lambda: Pattern.of_convolution(MASK[:, :, 0, 0]), "of 4 dimensions"),
    "a stride of nothing": (lambda: Pattern.of_convolution(MASK, stride=0), "cannot have stride"),
    "groups that do not part the outputs": (lambda: Pattern.of_convolution(MASK, groups=3), "into 3 groups"),
    "a weight of another shape": (
        lambda: Pattern.of_convolution(MASK).gather(torch.zeros(4, 3, 1, 1)),
        "does not fit a mask",
    ),
    "too few values": (
        lambda: sparse_layer(pack(torch.zeros(1, 3, 5, 5)), torch.zeros(5), Pattern.of_convolution(MASK)),
        "keeps 108 weights",
    ),
    "another number of channels": (
        lambda: sparse_layer(pack(torch.zeros(1, 2, 5, 5)), torch.zeros(108), Pattern.of_convolution(MASK)),
        "takes 3 channels",
    ),
    "images smaller than the kernel": (
        lambda: sparse_layer(pack(torch.zeros(1, 3, 2, 2)), torch.zeros(108), Pattern.of_convolution(MASK)),
        "does not fit 2 pixels",
    ),
    "double precision": (lambda: pack(torch.zeros(1, 3, 5, 5, dtype=torch.float64)), "float32 on the CPU"),
    "values in double precision": (
        lambda: sparse_layer(
            pack(torch.zeros(1, 3, 5, 5)), torch.zeros(108).double(), Pattern.of_convolution(MASK)
        ),
        "float32 on the CPU",
    ),
    "a bias of another size": (
        lambda: sparse_layer(
            pack(torch.zeros(1, 3, 5, 5)), torch.zeros(108), Pattern.of_convolution(MASK), bias=torch.zeros(3)
        ),
        "4 outputs",
    ),
    "images of three dimensions": (lambda: pack(torch.zeros(3, 5, 5)), "are packed, not"),
    "no image": (lambda: pack(torch.zeros(0, 3, 5, 5)), "at least 1"),
    "a sum of two sizes": (
        lambda: add(pack(torch.zeros(1, 3, 5, 5)), pack(torch.zeros(1, 3, 4, 4))),
        "of one size",
    ),
    "data that is not of the layout": (lambda: Blocked(torch.zeros(2), Layout(1, 1)), "does not fit"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_said(name: str, path: str) -> None:
    ask, message = REFUSED[name]
    with pytest.raises(DisbudError, match=message):
        ask()


def test_non_contiguous_inputs_and_gradients_are_read_as_they_are() -> None:
    pattern = Pattern.of_convolution(MASK, padding=1)
    values = torch.randn(216)[::2]
    x = torch.randn(2, 6, 5, 10)[:, ::2, :, ::2]
    y = sparse_layer(pack(x), values, pattern)
    wanted = functional.conv2d(x, values.reshape(MASK.shape), padding=1)
    torch.testing.assert_close(unpack(y), wanted)


def test_the_kernels_that_run_are_those_asked_for(path: str) -> None:
    kernels = library()
    assert (kernels.instructions if kernels else "torch") == path


def test_an_instruction_set_this_processor_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISBUD_KERNELS", "avx1024")
    with pytest.raises(DisbudError, match="avx1024"):
        library()
