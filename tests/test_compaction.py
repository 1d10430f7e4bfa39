"""Compaction against brute force: every network of the table, many tickets, networks drawn at random."""

from __future__ import annotations

import copy
import warnings

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

import disbud
from compaction_oracle import at_random, check_exact, close, lived_in, masked
from disbud import Ticket
from disbud.compaction import compact
from disbud.isolation import leaves
from disbud.measures import cost
from disbud.seeds import generator
from networks import NETWORKS, Network
from path_models import CUSTOM

METHODS = ("synflow", "magnitude", "random-erk")


def ticket_by(method: str, network: Network, model: nn.Module, sparsity: float) -> Ticket:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return disbud.prune(model, method, sparsity=sparsity, example=network.example.to(torch.float32)
                            if network.example.is_floating_point() else network.example)  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_the_small_network_is_the_full_one(name: str, method: str) -> None:
    network = NETWORKS[name]
    inputs, labels = network.batch()
    for sparsity in (0.5, 0.8, 0.95):
        model = network.build()
        ticket = ticket_by(method, network, model, sparsity)
        check_exact(lived_in(model), ticket, inputs, labels)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_as_it_was_built_too(name: str) -> None:
    network = NETWORKS[name]
    inputs, labels = network.batch()
    for seed, density in enumerate((0.6, 0.3, 0.15, 0.0)):
        model = network.build(seed).double()
        check_exact(model, at_random(model, density, seed), inputs, labels)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_ticket_that_keeps_all_leaves_all(name: str) -> None:
    network = NETWORKS[name]
    model = network.build()
    found = compact(model, at_random(model, 2.0, 0), example=network.example)
    full = dict(model.named_parameters())
    if name != "unused-branch":
        assert all(kept.whole for kept in found.kept.values())
        assert all(torch.equal(value, full[key]) for key, value in found.model.named_parameters())
        assert found.account.dead_but_kept == {}
    assert found.account.multiply_adds[0] == cost(model, None, example=network.example).multiply_adds
    assert found.account.parameters[0] == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["conv", "batch-norm", "strided", "residual", "conv1d", "densely-connected"])
def test_multiply_adds_are_those_of_live_channels_where_nothing_dead_stays(name: str) -> None:
    network = NETWORKS[name]
    equal = 0
    for seed in range(8):
        model = network.build(seed)
        for module in model.modules():  # without a bias that is not zero, nothing dead speaks
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)
        ticket = at_random(model, 0.3, seed)
        first = next(iter(ticket.masks))
        ticket = Ticket(
            {**ticket.masks, first: torch.ones_like(ticket.masks[first])}
        )  # the inputs are all read
        found = compact(model, ticket, example=network.example)
        live = cost(model, ticket, example=network.example).multiply_adds_live
        assert found.account.multiply_adds[1] >= live
        if not found.account.dead_but_kept and name != "densely-connected":
            assert found.account.multiply_adds[1] == live
            equal += live < found.account.multiply_adds[0]
    assert equal or name in ("residual", "densely-connected")


def test_in_float32_within_its_rounding() -> None:
    model = disbud.models.build("vgg11-bn:width=0.25")
    example = torch.zeros(1, 3, 32, 32)
    ticket = disbud.prune(model, "synflow", sparsity=0.95, example=example, rounds=10)
    lived_in(model).float()
    found = compact(model, ticket, example=example)
    x = torch.randn(4, 3, 32, 32, generator=generator(0, "x"))
    with torch.no_grad():
        assert close(found.model.eval()(x), masked(model, ticket).eval()(x), tolerance=1e-5)
    assert found.account.parameters[1] < found.account.parameters[0]


SPECS = (
    "resnet20:width=0.5",
    "resnet20:width=0.5,shortcut=identity",
    "resnet20:width=0.5,stable=true",
    "vgg11:width=0.125",
    "wideresnet:depth=10,factor=1,width=0.5",
)


@pytest.mark.parametrize("spec", SPECS)
def test_the_networks_of_the_papers(spec: str) -> None:
    model = disbud.models.build(spec)
    example = torch.zeros(1, 3, 32, 32)
    ticket = disbud.prune(model, "synflow", sparsity=0.98, example=example, rounds=10)
    found = check_exact(
        model.double(),
        ticket,
        torch.randn(4, 3, 32, 32, generator=generator(0, "x")).double(),
        torch.arange(4),
    )
    before, after = found.account.multiply_adds
    assert after < before / 2


class Inverted(nn.Module):
    """MobileNet's block: widened by a 1x1, depthwise, narrowed; the narrowing's BatchNorm sees means of zero."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        wide = 4 * n_in
        self.adds = stride == 1 and n_in == n_out
        self.layers = nn.Sequential(
            nn.Conv2d(n_in, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(inplace=True),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(inplace=True),
            nn.Conv2d(wide, n_out, 1, bias=False), nn.BatchNorm2d(n_out),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return x + out if self.adds else out


def test_inverted_residuals() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            Inverted(3, 8, 2), Inverted(8, 8, 1), Inverted(8, 12, 2), Inverted(12, 12, 1), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(12, 3),
        )  # fmt: skip
    ticket = disbud.prune(model, "synflow", sparsity=0.9, example=torch.zeros(1, 3, 16, 16))
    inputs = torch.randn(4, 3, 16, 16, generator=generator(0, "x"), dtype=torch.float64)
    found = check_exact(model.double(), ticket, inputs, torch.arange(4) % 3)
    before, after = found.account.multiply_adds
    assert after < before / 3
    assert not any("groups" in reason for reason in found.account.dead_but_kept)


def test_the_model_and_the_random_streams_are_left_alone() -> None:
    network = NETWORKS["residual"]
    model = network.build()
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    found = compact(model, at_random(model, 0.2, 0), example=network.example)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert {id(p) for p in model.parameters()}.isdisjoint(id(p) for p in found.model.parameters())
    assert [type(m) for m in model.modules()] == [type(m) for m in found.model.modules()]
    assert model.training == found.model.training


# Networks drawn at random


class Drawn(nn.Module):
    """A stack of convolutions with what may stand between them, joined by addition or concatenation here and there."""

    def __init__(self, blocks: list[tuple[int, str, str, str, bool]]) -> None:
        super().__init__()
        self.convs, self.norms, self.kinds = nn.ModuleList(), nn.ModuleList(), blocks
        width = 3
        for out, conv, norm, _, joined in blocks:
            out = width if joined or conv == "depthwise" else out
            groups = {"plain": 1, "depthwise": width, "halves": 2 if width % 2 == 0 and out % 2 == 0 else 1}[
                conv
            ]
            padding = 1 if joined or out % 3 else (2, 1)
            self.convs.append(nn.Conv2d(width, out, 3, padding=padding, groups=groups, bias=norm != "batch"))
            norms = {"batch": nn.BatchNorm2d, "prelu": nn.PReLU, "none": nn.Identity}
            self.norms.append(norms[norm](out))
            width = out if not joined or norm != "batch" else 2 * out
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        for (_, _, norm, act, joined), conv, layer in zip(self.kinds, self.convs, self.norms, strict=True):
            y = getattr(torch, act)(layer(conv(x)))
            if joined:
                y = torch.cat([y, x], 1) if norm == "batch" else x + y
            x = y
        out: Tensor = self.head(x.mean((2, 3)))
        return out


BLOCK = st.tuples(
    st.integers(2, 8),
    st.sampled_from(["plain", "depthwise", "halves"]),
    st.sampled_from(["batch", "none", "prelu"]),
    st.sampled_from(["relu", "tanh", "sigmoid"]),
    st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(BLOCK, min_size=1, max_size=4),
    st.integers(0, 99),
    st.sampled_from([0.1, 0.2, 0.4]),
    st.booleans(),
)
def test_networks_drawn_at_random(
    blocks: list[tuple[int, str, str, str, bool]], seed: int, density: float, trained: bool
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Drawn(blocks).double()
    model = lived_in(model, seed) if trained else model
    inputs = torch.randn(4, 3, 5, 6, generator=generator(seed, "x"), dtype=torch.float64)
    check_exact(model, at_random(model, density, seed), inputs, torch.arange(4) % 3)


# Networks with gates, attention, joins and functions of their own


@pytest.mark.parametrize("name", sorted(CUSTOM))
def test_networks_with_ways_of_their_own(name: str) -> None:
    make, example = CUSTOM[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = lived_in(make())
    given = example if isinstance(example, tuple) else (example,)
    stream = generator(0, "inputs")
    inputs = [torch.randn(e.shape, generator=stream).double() if e.is_floating_point() else e for e in given]
    for density in (0.5, 0.15):
        ticket = at_random(model, density, 1)
        found = compact(model, ticket, example=example)
        with torch.no_grad():
            wanted = leaves(masked(model, ticket).eval()(*inputs))
            outputs = leaves(found.model.eval()(*inputs))
        pairs = [(a, b) for a, b in zip(outputs, wanted, strict=True) if isinstance(a, Tensor)]
        assert pairs
        assert all(close(a, b) for a, b in pairs if isinstance(b, Tensor))
