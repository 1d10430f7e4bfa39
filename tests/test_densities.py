"""Density rules against closed forms and published vectors: exact in total, capped at 1, no layer empty needlessly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import disbud
from disbud.errors import DisbudError
from disbud.graph import Layer, is_chain
from disbud.models import build
from disbud.selection import RULES, allocate, kept_count
from networks import NETWORKS


def layers_of(shapes: Sequence[tuple[int, ...]]) -> list[Layer]:
    return [Layer(f"l{i}", shape, "linear" if len(shape) == 2 else "conv") for i, shape in enumerate(shapes)]


def convs(widths: Sequence[int], channels: int = 3, kernel: int = 3) -> list[tuple[int, ...]]:
    return [(b, a, kernel, kernel) for a, b in zip([channels, *widths], widths, strict=False)]


VGG19 = [*convs([64] * 2 + [128] * 2 + [256] * 4 + [512] * 8), (10, 512)]
CONV6 = [*convs([64, 64, 128, 128, 256, 256]), (256, 4096), (256, 256), (10, 256)]


def resnet32(width: int, *, shortcuts: bool) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = [(width, 3, 3, 3)]
    for stage in range(3):
        out = width << stage
        for block in range(5):
            into = out // 2 if stage and not block else out
            shapes += [(out, into, 3, 3), (out, out, 3, 3)]
            if shortcuts and into != out:
                shapes.append((out, into, 1, 1))
    return [*shapes, (10, 4 * width)]


def numbers(text: str) -> list[float]:
    return [float(number) for number in text.split()]


PUBLISHED = [
    (VGG19, 0.98, True, 1e-4, numbers(
        "1 1 .8384 .2635 .1461 .087 .0541 .0345 .0223 .0145 .0093 .0059 .0036 .002 .0011 .0005 .3")),
    (VGG19, 0.95, True, 1e-4, numbers(
        "1 1 1 1 .6686 .218 .1355 .0865 .0559 .0362 .0233 .0147 .0089 .0051 .0027 .0012 .3")),
    (VGG19, 0.9, True, 1e-4, numbers("1 1 1 1 1 1 .3177 .1731 .1119 .0725 .0466 .0294 .0179 .0103 .0054 .0024 .3")),
    (resnet32(32, shortcuts=True), 0.98, False, 1e-3, numbers(
        ".158 .149 .141 .132 .124 .116 .108 .101 .093 .087 .080 .073 .067 .061 .056 .051 .046 .041 .036 .032 .028 .024 "
        ".021 .018 .015 .012 .010 .007 .006 .004 .003 .002 .001 .3")),
    (resnet32(16, shortcuts=False), 0.98, False, 1e-3, numbers(
        ".156 .146 .137 .128 .120 .112 .104 .096 .089 .082 .075 .068 .062 .056 .05 .045 .04 .035 .031 .027 .023 .019 "
        ".016 .013 .011 .008 .006 .004 .003 .002 .001 .3")),
]  # fmt: skip


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize(("shapes", "sparsity", "chain", "digit", "densities"), PUBLISHED)
def test_smart_ratio_is_the_published_one(
    shapes: list[tuple[int, ...]],
    sparsity: float,
    chain: bool,
    digit: float,
    densities: list[float],
    official: bool,
) -> None:
    layers = layers_of(shapes)
    assert len(layers) == len(densities)
    counts = allocate("smart-ratio", layers, sparsity, chain=chain, official=official)
    for layer, density in zip(layers, densities, strict=True):
        assert abs(counts[layer.name] / layer.size - density) <= 0.5001 * digit + 1 / layer.size, layer.name


def test_the_layers_of_the_published_networks_are_those_of_the_models() -> None:
    with torch.device("meta"):
        vgg, resnet, conv6 = build("vgg19-bn"), build("resnet32"), build("conv-6")
    assert [layer.shape for layer in disbud.prunable(vgg)] == VGG19
    assert [layer.shape for layer in disbud.prunable(conv6)] == CONV6
    assert is_chain(vgg)
    assert not is_chain(resnet)
    ticket = disbud.prune(build("vgg19-bn"), "smart-ratio", sparsity=0.98)
    assert list(ticket.densities().values())[-1] == 0.3
    assert [row.kept for row in ticket.layers] == list(
        allocate("smart-ratio", disbud.prunable(vgg), 0.98, chain=True).values()
    )


def test_the_published_rule_cannot_pay_for_large_linear_layers() -> None:
    layers = layers_of(CONV6)
    with pytest.raises(
        DisbudError,
        match=r"fixes 335,002 weights.* more than the 226,118 there are to keep; leave out official=True",
    ):
        allocate("smart-ratio", layers, 0.9, official=True)
    counts = allocate("smart-ratio", layers, 0.9)
    assert counts["l8"] == 0.3 * 2560
    assert min(counts.values()) > 0
    # Hidden linear layers fall with depth like convolutions.
    densities = [counts[layer.name] / layer.size for layer in layers[:-1]]
    assert densities == sorted(densities, reverse=True)


def smart_by_hand(
    layers: list[Layer], budget: int, raw: list[float], order: list[int], last_density: float = 0.3
) -> list[float]:
    """Section 4's rule as densities: scale, then carry what exceeds a dense layer along the order."""
    linear = [i for i, layer in enumerate(layers) if layer.kind == "linear"]
    fixed = linear[-1] if linear and len(layers) > 1 else None
    counts = [0.0] * len(layers)
    if fixed is not None:
        counts[fixed] = min(last_density * layers[fixed].size, budget / 2)
    free = [i for i in order if i != fixed]
    c = (budget - sum(counts)) / sum(raw[i] * layers[i].size for i in free)
    carried = 0.0
    for i in free:
        asked = c * raw[i] * layers[i].size + carried
        carried = max(0.0, asked - layers[i].size)
        counts[i] = asked - carried
    return counts if carried < 1e-6 else []


@pytest.mark.parametrize("shape", ["quadratic", "linear", "cubic", "ascending", "uniform"])
@pytest.mark.parametrize("chain", [False, True])
@pytest.mark.parametrize("shapes", [VGG19, CONV6, resnet32(8, shortcuts=True), [(30, 40), (20, 30), (5, 20)]])
def test_smart_ratio_and_its_ablations_by_hand(
    shapes: list[tuple[int, ...]], chain: bool, shape: str
) -> None:
    layers = layers_of(shapes)
    n = len(layers)
    k: dict[str, Callable[[int], int]] = {
        "linear": lambda x: x,
        "cubic": lambda x: x**3,
        "uniform": lambda x: 1,
    }
    quadratic: Callable[[int], int] = lambda x: x * x + x  # noqa: E731
    divided = chain and shape != "uniform"
    raw = [k.get(shape, quadratic)(n - i) / ((i + 1) ** 2 if divided else 1) for i in range(n)]
    order = list(range(n))
    if shape == "ascending":
        raw, order = raw[::-1], order[::-1]
    for sparsity in (0.5, 0.8, 0.9, 0.98):
        budget = kept_count(sparsity, sum(layer.size for layer in layers))
        expected = smart_by_hand(layers, budget, raw, order)
        assert expected or sparsity < 0.9  # with less to keep, nothing is left over at the end
        found = allocate("smart-ratio", layers, sparsity, shape=shape, chain=chain)
        assert sum(found.values()) == budget
        rescued = sum(
            found[f"l{i}"] == 1 and count < 1 for i, count in enumerate(expected)
        )  # taken from the largest
        for i, count in enumerate(expected):
            assert -1 - rescued - 1e-6 < found[f"l{i}"] - count < 1 + 1e-6, (i, sparsity)


def test_ascending_pushes_what_exceeds_to_earlier_layers() -> None:
    layers = layers_of([(10, 10, 1, 1)] * 4)
    counts = allocate("smart-ratio", layers, 0.3, shape="ascending")
    assert list(counts.values()) == [14, 66, 100, 100]  # raw 2 6 12 20, c = 7: 14 42 84 140
    assert list(allocate("smart-ratio", layers, 0.3).values()) == [100, 100, 66, 14]


def test_settings_of_smart_ratio_are_checked() -> None:
    layers = layers_of(CONV6)
    with pytest.raises(DisbudError, match=r"did you mean 'quadratic'"):
        allocate("smart-ratio", layers, 0.9, shape="quadratc")
    for odd in (-0.1, 1.5, math.nan):
        with pytest.raises(DisbudError, match=r"linear_density"):
            allocate("smart-ratio", layers, 0.9, linear_density=odd)
    assert allocate("smart-ratio", layers, 0.9, linear_density=0.5)["l8"] == 1280


def capped(layers: list[Layer], raw: list[float], budget: float) -> list[float]:
    """min(1, c * raw) with c by bisection: what dense-and-solve-again must come to."""

    def total(c: float) -> float:
        return sum(min(1.0, c * r) * layer.size for r, layer in zip(raw, layers, strict=True))

    low, high = 0.0, 1 / min(raw)
    for _ in range(200):
        c = (low + high) / 2
        low, high = (low, c) if total(c) > budget else (c, high)
    return [min(1.0, high * r) * layer.size for r, layer in zip(raw, layers, strict=True)]


def er_raw(shape: tuple[int, ...]) -> float:
    return (shape[1] + shape[0]) / (shape[1] * shape[0])


def erk_raw(shape: tuple[int, ...]) -> float:
    if len(shape) == 2:
        return er_raw(shape)
    n_out, n_in, *kernel = shape
    return (n_in + n_out + sum(kernel)) / (n_in * n_out * math.prod(kernel))


random_layers = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5), st.integers(1, 5)),
    ),
    min_size=1,
    max_size=12,
).map(lambda shapes: layers_of(shapes))
sparsities = st.one_of(st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.9999, 1.0]), st.floats(0, 1))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(layers=random_layers, sparsity=sparsities, rule=st.sampled_from(["er", "erk", "uniform", "igq"]))
def test_rules_by_independent_formulas(layers: list[Layer], sparsity: float, rule: str) -> None:
    sizes = [layer.size for layer in layers]
    budget = kept_count(sparsity, sum(sizes))
    counts = list(allocate(rule, layers, sparsity).values())
    if rule == "igq":
        expected = ideal_gas(sizes, budget)
    else:
        formulas: dict[str, Callable[[tuple[int, ...]], float]] = {
            "er": er_raw,
            "erk": erk_raw,
            "uniform": lambda shape: 1.0,
        }
        raw = formulas[rule]
        expected = capped(layers, [raw(layer.shape) for layer in layers], budget)
    assert sum(counts) == budget
    moved = sum(count == 1 and wanted < 1 for count, wanted in zip(counts, expected, strict=True))
    for count, wanted in zip(counts, expected, strict=True):
        assert -1 - moved - 1e-4 < count - wanted < 1 + 1e-4


def ideal_gas(sizes: list[int], budget: int) -> list[float]:
    """1 / (1 + F m), F by bisection on a logarithmic scale with plain floats."""
    if budget in (0, sum(sizes)):
        return [size * (budget > 0) for size in sizes]
    low, high = 1e-30, 1e30
    for _ in range(400):
        f = math.sqrt(low * high)
        low, high = (f, high) if sum(m / (1 + f * m) for m in sizes) > budget else (low, f)
    return [m / (1 + low * m) for m in sizes]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(layers=random_layers, sparsity=sparsities, rule=st.sampled_from(sorted(RULES)), data=st.data())
def test_every_rule_is_exact_capped_and_leaves_no_layer_empty_without_need(
    layers: list[Layer], sparsity: float, rule: str, data: st.DataObject
) -> None:
    budget = kept_count(sparsity, sum(layer.size for layer in layers))
    more = {}
    if rule == "smart-ratio":
        more = {
            "shape": data.draw(st.sampled_from(["quadratic", "ascending"])),
            "chain": data.draw(st.booleans()),
        }
    try:
        counts = allocate(rule, layers, sparsity, **more)
    except DisbudError as error:
        assert rule == "uniform-plus"
        first = next((layer.size for layer in layers if layer.kind == "conv"), 0)
        last = next((layer.size for layer in reversed(layers) if layer.kind == "linear"), 0)
        assert first + 0.2 * last > budget or budget > sum(layer.size for layer in layers)
        assert "cannot keep" in str(error)
        return
    assert sum(counts.values()) == budget
    assert all(0 <= counts[layer.name] <= layer.size for layer in layers)
    if budget >= len(layers):
        assert min(counts.values()) >= 1


def test_uniform_plus() -> None:
    layers = layers_of([(8, 3, 3, 3), (16, 8, 3, 3), (16, 16, 3, 3), (10, 16)])
    counts = list(allocate("uniform-plus", layers, 0.9).values())
    budget = kept_count(0.9, sum(layer.size for layer in layers))
    rest = (budget - 216 - 32) / (1152 + 2304)
    assert counts[0] == 216
    assert counts[3] == 32  # 0.2 of 160
    assert counts[1:3] == [pytest.approx(1152 * rest, abs=1), pytest.approx(2304 * rest, abs=1)]
    # At low sparsity the last layer is above 0.2 anyway, and uniform like the rest.
    loose = list(allocate("uniform-plus", layers, 0.3).values())
    share = (kept_count(0.3, 216 + 1152 + 2304 + 160) - 216) / (1152 + 2304 + 160)
    assert loose == [216, *(pytest.approx(size * share, abs=1) for size in (1152, 2304, 160))]
    with pytest.raises(DisbudError, match=r"cannot keep 38 weights: the layers it fixes need 216 already"):
        allocate("uniform-plus", layers, 0.99)


def test_known_densities_of_lenet() -> None:
    layers = layers_of([(300, 784), (100, 300), (10, 100)])
    # ER on LeNet-300-100 at 0.98: n_in + n_out = 1084, 400, 110 share the 5,324 weights.
    counts = allocate("er", layers, 0.98)
    assert counts == {
        "l0": round(5324 * 1084 / 1594),
        "l1": round(5324 * 400 / 1594),
        "l2": round(5324 * 110 / 1594),
    }
    assert allocate("erk", layers, 0.98) == counts
    assert list(allocate("er", layers, 0.9).values())[2] == 1000  # 110/1594 of 26,620 is more than there are


@pytest.mark.parametrize("name", NETWORKS)
def test_the_densities_of_a_ticket_are_taken_over(name: str) -> None:
    model = NETWORKS[name].build()
    layers = disbud.prunable(model)
    given_ticket = disbud.prune(model, "magnitude", sparsity=0.7)
    counts = {row.name: row.kept for row in given_ticket.layers}
    assert allocate(given_ticket, layers, None) == counts
    assert allocate(given_ticket, layers, 0.7) == counts
    like = disbud.prune(model, "random-like", densities=given_ticket)
    assert {row.name: row.kept for row in like.layers} == counts
    assert like.origin.parents == (given_ticket.origin,)
    sparser = allocate(given_ticket, layers, 0.9)
    for layer in layers:
        assert abs(
            sparser[layer.name] - counts[layer.name] / given_ticket.kept * sum(sparser.values())
        ) <= len(layers)
    assert sum(sparser.values()) == kept_count(0.9, given_ticket.total)


def test_densities_by_hand() -> None:
    layers = layers_of([(10, 10), (10, 10), (10, 10)])
    by_hand = {"l0": 1.0, "l1": 0.5, "l2": 0.0}
    assert allocate(by_hand, layers, 0.5) == {"l0": 100, "l1": 50, "l2": 0}
    assert allocate(by_hand, layers, 0.8) == {"l0": 40, "l1": 20, "l2": 0}
    assert allocate(by_hand, layers, 0.4) == {"l0": 100, "l1": 80, "l2": 0}
    with pytest.raises(DisbudError, match=r"cannot keep 270 weights: it reaches 200 at most"):
        allocate(by_hand, layers, 0.1)
    with pytest.raises(DisbudError, match=r"no density is given for l2"):
        allocate({"l0": 1.0, "l1": 0.5}, layers, 0.5)
    for odd in (-0.1, 1.1, math.nan):
        with pytest.raises(DisbudError, match=r"fractions of weights kept"):
            allocate({**by_hand, "l2": odd}, layers, 0.5)
    with pytest.raises(DisbudError, match=r"give a sparsity"):
        allocate(by_hand, layers, None)
    with pytest.raises(DisbudError, match=r"did you mean 'erk'"):
        allocate("erkk", layers, 0.5)


def test_a_ticket_of_another_shape_is_refused() -> None:
    ticket = disbud.Ticket.from_masks({"l0": torch.ones(5, 4)})
    with pytest.raises(DisbudError, match=r"another shape for l0"):
        allocate(ticket, layers_of([(4, 5)]), 0.5)
    with pytest.raises(DisbudError, match=r"no density is given for l1"):
        allocate(ticket, layers_of([(5, 4), (4, 3)]), None)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_layers_without_weights_are_passed_over(rule: str) -> None:
    layers = layers_of([(4, 3, 1, 1), (4, 0), (6, 4)])
    counts = allocate(rule, layers, 0.5)
    assert counts["l1"] == 0
    assert sum(counts.values()) == 18
