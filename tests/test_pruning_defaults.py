"""Tickets are the same whatever torch's default dtype and device are, and however weights lie in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

import disbud
from disbud import seeds
from disbud.errors import DisbudError
from disbud.interventions import CATALOGUE as INTERVENTIONS
from disbud.interventions import on_data, on_mask, on_weights
from disbud.methods.catalogue import CATALOGUE
from method_inputs import asked
from networks import NETWORKS, Network
from test_pruning import moved

DRAWING = ["random", "random-erk", "synflow-random-rounds", "ntk-sap", "dpai", "npb", "phew"]
DTYPES = [torch.bfloat16, torch.float64]
SMALLER: dict[str, dict[str, object]] = {
    "dpai": {"steps": 5},
    "synflow-random-rounds": {"every": 2, "until": 4},
    "random-like": {"densities": "uniform"},
}


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def pruned(model: nn.Module, method: str, network: Network, **more: object) -> disbud.Ticket:
    """At most four rounds, on what the method looks at, in the model's own type."""
    entry = CATALOGUE[method]
    dtype = next(model.parameters()).dtype
    rounds = {} if entry.construction else {"rounds": min(4, entry.rounds)}
    every = {**asked(method, network, dtype=dtype), **rounds, **SMALLER.get(method, {}), **more}
    return disbud.prune(model, method, **{"sparsity": 0.6, **every})  # type: ignore[arg-type]


# Draws


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", DRAWING)
def test_a_seed_draws_the_same_ticket_under_any_default_dtype(method: str, dtype: torch.dtype) -> None:
    network = NETWORKS["conv"]
    model = network.build()
    plain = pruned(model, method, network)
    with default_dtype(dtype):
        assert pruned(model, method, network) == plain


@pytest.mark.parametrize("method", [name for name in DRAWING if name != "phew"])
def test_a_seed_draws_the_same_ticket_under_another_default_device(method: str) -> None:
    network = NETWORKS["conv"]
    model = network.build()
    plain = pruned(model, method, network)
    more = asked(method, network)
    with torch.device("meta"):
        assert pruned(model, method, network, **more) == plain


def test_draws_hardly_tie_in_half_precision() -> None:
    with default_dtype(torch.bfloat16):
        ticket = disbud.prune(nn.Linear(300, 300), "random", sparsity=0.999)
    rows = ticket.masks["weight"].nonzero()[:, 0].double()
    # 90 of 300 rows, uniform: their mean is 149.5 with a standard deviation of 86.6 / sqrt(90).
    assert abs(float(rows.mean()) - 149.5) < 4 * 86.6 / 90**0.5


def test_every_draw_is_on_the_cpu_and_single() -> None:
    def drawn() -> list[Tensor]:
        stream = seeds.generator(3, "a purpose")
        return [
            seeds.uniform((2, 3), stream),
            seeds.normal((20,), stream),
            seeds.whole(9, (4,), stream),
            seeds.order(7, stream),
        ]

    plain = drawn()
    assert [tensor.dtype for tensor in plain] == [torch.float32, torch.float32, torch.int64, torch.int64]
    assert torch.equal(
        plain[0], torch.rand(2, 3, generator=seeds.generator(3, "a purpose"), dtype=torch.float32)
    )
    with default_dtype(torch.float64), torch.device("meta"):
        assert all(torch.equal(one, other) for one, other in zip(drawn(), plain, strict=True))


# What-ifs draw too


def what_ifs(model: nn.Module, ticket: disbud.Ticket, state: dict[str, Tensor]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, entry in INTERVENTIONS.items():
        if entry.acts_on == "mask" and "example" not in entry.needs:
            found[name] = on_mask(ticket, name, seed=1, model=model)
    for init in (
        "kaiming-normal",
        "kaiming-uniform",
        "xavier-normal",
        "xavier-uniform",
        "orthogonal",
        "sparse-kaiming",
    ):
        found[init] = on_weights(state, ticket, "reinit", init=init, seed=1, model=model)[0]
    found["values"] = on_weights(state, ticket, "permute-values", seed=1)[0]
    return found


def same(one: object, other: object) -> bool:
    if isinstance(one, dict):
        assert isinstance(other, dict)
        return all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    return one == other


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_ifs_are_the_same_under_other_defaults(dtype: torch.dtype) -> None:
    model = NETWORKS["grouped"].build()
    ticket, state = disbud.prune(model, "random", sparsity=0.6), model.state_dict()
    plain = what_ifs(model, ticket, state)
    with default_dtype(dtype), torch.device("meta"):
        changed = what_ifs(model, ticket, state)
    assert [name for name in plain if not same(plain[name], changed[name])] == []


@pytest.mark.parametrize("name", [name for name, entry in INTERVENTIONS.items() if entry.acts_on == "data"])
def test_changed_data_is_the_same_under_other_defaults(name: str) -> None:
    batches = [(torch.rand(6, 3, 4, 4), torch.arange(6) % 3) for _ in range(4)]
    plain = on_data(batches, name, seed=1)
    with default_dtype(torch.float64), torch.device("meta"):
        changed = on_data(batches, name, seed=1)
    for (x, y), (other_x, other_y) in zip(plain, changed, strict=True):
        assert torch.equal(x, other_x)
        assert torch.equal(y, other_y)


# Memory


IMAGES = ["grouped", "transposed", "residual"]
RANKING = [name for name, entry in CATALOGUE.items() if not (entry.construction or entry.trains)]
BUILDING = [name for name, entry in CATALOGUE.items() if entry.construction]


def in_both_layouts(method: str, name: str, **more: object) -> list[disbud.Ticket]:
    """In double precision, where the two layouts' rounding ranks nothing differently."""
    network = NETWORKS[name]
    return [
        pruned(network.build().double().to(memory_format=layout), method, network, **more)
        for layout in (torch.contiguous_format, torch.channels_last)
    ]


@pytest.mark.parametrize("keep", ["highest", "lowest"])
@pytest.mark.parametrize("method", RANKING)
@pytest.mark.filterwarnings("ignore:.*all scores of round")  # the lowest of some leave no path
def test_channels_last_makes_no_difference_to_scores(method: str, keep: str) -> None:
    for name in IMAGES:
        try:
            plain, last = in_both_layouts(method, name, keep=keep)
        except DisbudError as error:
            assert method == "random-uniform-plus"
            assert "the layers it fixes need" in str(error)
            continue
        assert plain == last
        assert all(mask.is_contiguous() for mask in last.masks.values())


@pytest.mark.parametrize("method", BUILDING)
def test_channels_last_makes_no_difference_to_constructions(method: str) -> None:
    for name in IMAGES if method != "precrop" else ("conv", "residual"):
        plain, last = in_both_layouts(method, name)
        assert plain == last


@pytest.mark.parametrize("granularity", ["kernel", "channel"])
def test_channels_last_makes_no_difference_to_groups(granularity: str) -> None:
    example = NETWORKS["residual"].example
    plain, last = in_both_layouts("snip", "residual", granularity=granularity, example=example, keep="lowest")
    assert plain == last


def test_channels_last_makes_no_difference_to_methods_that_train() -> None:
    plain, last = in_both_layouts("lottery-ticket", "residual", keep="lowest", train=moved)
    assert plain == last


# Layers without weights


class NoInputs(nn.Module):
    """A layer that reads nothing beside two others."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.e, self.o = nn.Linear(8, 16), nn.Linear(0, 16, bias=False), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(torch.relu(self.a(x)) + self.e(x[:, :0]))  # type: ignore[no-any-return]


class NoOutputs(NoInputs):
    """A layer that makes nothing, which another reads."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Linear(16, 0)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        return self.o(h + self.e(torch.relu(self.b(h))))  # type: ignore[no-any-return]


class Apart(nn.Module):
    """One that the signal never meets."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.e, self.o = nn.Linear(8, 16), nn.Linear(8, 0), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(torch.relu(self.a(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [NoInputs, NoOutputs, Apart])
@pytest.mark.parametrize("method", RANKING + BUILDING)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_layer_without_weights_is_no_obstacle(method: str, kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = Network(kind, torch.zeros(1, 8), 3)
    model = network.build()
    ticket = pruned(model, method, network)
    assert ticket.masks["e.weight"].numel() == 0
    assert ticket.kept == round(0.4 * ticket.total) or (
        method == "precrop" and 0 < ticket.kept < 0.4 * ticket.total
    )


@pytest.mark.parametrize("granularity", ["kernel", "channel", "2:4"])
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_groups_beside_a_layer_without_weights(granularity: str) -> None:
    for kind in (NoInputs, NoOutputs, Apart):
        network = Network(kind, torch.zeros(1, 8), 3)
        ticket = disbud.prune(
            network.build(), "magnitude", sparsity=0.5, granularity=granularity, example=network.example
        )
        assert 0 < ticket.kept <= round(0.5 * ticket.total)
