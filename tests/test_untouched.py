"""Pruning looks and leaves no trace: the model and the global random streams are bit for bit as they were."""

from __future__ import annotations

import copy
import random
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import disbud
from disbud.methods.catalogue import CATALOGUE
from networks import NETWORKS, Network
from test_pruning import METHODS, request

DATA_DRIVEN = [name for name, method in CATALOGUE.items() if method.needs == "batches"]
MANY = ["dropout", "batch-norm", "tied", "transformer"]


def bits(value: object) -> bytes:
    """Equal only where every bit is: NaN equals itself, 0 does not equal -0."""
    if isinstance(value, Tensor):
        return (
            repr((value.dtype, value.shape)).encode()
            + value.detach().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
        )
    return repr(value).encode()


def snapshot(model: nn.Module) -> dict[str, object]:
    """Everything of a model that pruning could disturb, identities of tensors included."""
    found: dict[str, object] = {"order": [name for name, _ in model.named_modules()]}
    for name, value in [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]:
        found[f"{name} value"], found[f"{name} is"] = bits(value), id(value)
        found[f"{name} wants"], found[f"{name} leaf"] = value.requires_grad, value.is_leaf
        found[f"{name} gradient"], found[f"{name} gradient is"] = bits(value.grad), id(value.grad)
    for name, module in model.named_modules():
        found[f"{name} mode"] = module.training
        found[f"{name} attributes"] = sorted(vars(module))
        found[f"{name} hooks"] = [len(hooks) for key, hooks in vars(module).items() if key.endswith("_hooks")]
    return found


def streams() -> tuple[object, ...]:
    return bits(torch.random.get_rng_state()), repr(numpy.random.get_state()), random.getstate()


@pytest.fixture(autouse=True)
def _own_streams() -> Iterator[None]:
    """Tests here seed the global streams, and put them back."""
    states = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(11), numpy.random.seed(11), random.seed(11)
        yield
    random.setstate(states[0]), numpy.random.set_state(states[1])


def lived_in(network: Network) -> nn.Module:
    """A model in mid-use: odd modes, gradients, moved statistics, a frozen parameter, a weight of -0."""
    model = network.build()
    for i, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, i) if i % 2 else None
        parameter.requires_grad_(i != 1)
        with torch.no_grad():
            parameter.view(-1)[0] = -0.0
    for i, module in enumerate(model.modules()):
        module.training = i % 2 == 0
        if hasattr(module, "running_mean"):
            module.get_buffer("running_mean").add_(0.5)
    return model


DRAWING = (
    "npb",
    "phew",
    "ntk-sap",
    "synflow-random-rounds",
    "dpai",
)  # besides those that are random throughout


@pytest.mark.filterwarnings(
    "ignore:px. all scores of round"
)  # no ReLU of this BatchNorm lets anything through
@pytest.mark.parametrize("name", MANY)
@pytest.mark.parametrize("method", METHODS)
def test_pruning_and_scoring_leave_everything_as_it_was(method: str, name: str) -> None:
    if CATALOGUE[method].whole_channels and name == "tied":
        pytest.skip("no channel of a network of tied layers can go")
    network = NETWORKS[name]
    model = lived_in(network)
    more = request(method, network)
    before, global_before = snapshot(model), streams()
    first = disbud.prune(model, method, sparsity=0.5, **more)  # type: ignore[arg-type]
    assert snapshot(model) == before
    assert streams() == global_before
    entry = CATALOGUE[method]
    if entry.densities != "like" and not entry.trains and not entry.construction:
        disbud.scores(model, method, **{k: v for k, v in more.items() if k != "rounds"})  # type: ignore[arg-type]
        assert snapshot(model) == before
        assert streams() == global_before
    # Neither the streams, nor the modes, nor the gradients have a say in the ticket.
    torch.manual_seed(12), numpy.random.seed(12), random.seed(12)
    for parameter in model.parameters():
        parameter.grad = None
    model.train()
    assert disbud.prune(model, method, sparsity=0.5, **more) == first  # type: ignore[arg-type]


class Fails(nn.Module):
    """Fails at its n-th call, after everything before it has left its marks."""

    def __init__(self, inner: nn.Module, calls: int) -> None:
        super().__init__()
        self.inner, self.calls = inner, calls
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(()))
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        self.last = out
        self.seen.add_(1)
        self.calls -= 1
        torch.rand(1), random.random()
        if self.calls < 0:
            raise RuntimeError("boom")
        return out


@pytest.mark.parametrize("calls", [0, 1, 2])
@pytest.mark.parametrize("method", DATA_DRIVEN)
def test_also_when_the_model_fails_half_way(method: str, calls: int) -> None:
    network = NETWORKS["batch-norm"]
    model = Fails(lived_in(network), calls)
    batches = [network.batch(6, seed, dtype=torch.float32) for seed in range(3)]
    before, global_before = snapshot(model), streams()
    with pytest.raises(RuntimeError, match=r"boom"):
        disbud.prune(model, method, sparsity=0.5, batches=batches, examples_per_class=None)
    assert snapshot(model) == before
    assert streams() == global_before
    assert (model.calls, model.last) == (calls, None)


def test_also_when_an_example_fails() -> None:
    network = NETWORKS["batch-norm"]
    for method in ("synflow", "magnitude"):
        model = Fails(lived_in(network), 0)
        before, global_before = snapshot(model), streams()
        with pytest.raises(RuntimeError, match=r"boom"):
            disbud.prune(model, method, sparsity=0.5, example=network.example)
        assert snapshot(model) == before
        assert streams() == global_before


@pytest.mark.parametrize("method", DATA_DRIVEN)
def test_also_when_the_loss_or_the_data_fails_half_way(method: str) -> None:
    network = NETWORKS["dropout"]
    model = lived_in(network)
    x, y = network.batch(6, dtype=torch.float32)
    before, global_before = snapshot(model), streams()

    def loss(m: nn.Module, batch: object) -> Tensor:
        m(x).sum()
        random.random()
        raise KeyError("boom")

    def data() -> Iterator[tuple[Tensor, Tensor]]:
        yield x, y
        numpy.random.rand()
        raise KeyError("boom")

    with pytest.raises(KeyError, match=r"boom"):
        disbud.prune(model, method, sparsity=0.5, batches=[(x, y)], loss=loss, examples_per_class=None)
    if method == "poise":  # it asks for one batch and never meets what comes after
        ticket = disbud.prune(model, method, sparsity=0.5, batches=data(), examples_per_class=None)
        assert ticket.origin.evidence is not None
        assert ticket.origin.evidence["batches"] == 1
    else:
        with pytest.raises(KeyError, match=r"boom"):
            disbud.prune(model, method, sparsity=0.5, batches=data(), examples_per_class=None)
    assert snapshot(model) == before
    assert streams() == global_before


@pytest.mark.parametrize("method", METHODS)
def test_the_same_call_gives_the_same_ticket_and_random_ones_follow_the_seed(method: str) -> None:
    network = NETWORKS["residual"]
    more = request(method, network)
    tickets = [
        disbud.prune(network.build(), method, sparsity=0.6, seed=seed, **more)  # type: ignore[arg-type]
        for seed in (0, 0, 1)
    ]
    assert tickets[0] == tickets[1]
    assert tickets[0].origin == tickets[1].origin
    drawn = "random:" in CATALOGUE[method].function or method in DRAWING
    assert (tickets[0] != tickets[2]) is drawn


def loader(**more: object) -> DataLoader[tuple[Tensor, ...]]:
    x, y = NETWORKS["linear"].batch(60, dtype=torch.float32)
    return DataLoader(TensorDataset(x, y), batch_size=7, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("per_class", [4, None])
def test_a_loader_that_shuffles_follows_the_seed_and_leaves_the_streams_alone(per_class: int | None) -> None:
    model = NETWORKS["linear"].build()
    origins: list[object] = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(origins))
        before = streams()
        ticket = disbud.prune(
            model, "iterative-snip", sparsity=0.6, rounds=3, batches=loader(shuffle=True), seed=seed,
            examples_per_class=per_class,
        )  # fmt: skip
        assert streams() == before
        assert ticket.origin.evidence is not None
        origins.append(ticket.origin.evidence["sha256"])
    assert origins[0] == origins[1] != origins[2]


@pytest.mark.parametrize("make", [lambda data: iter(data), lambda data: (batch for batch in data)])
def test_a_one_shot_iterator_is_read_inside_the_seeded_streams(
    make: Callable[[Iterable[object]], Iterable[object]],
) -> None:
    def noisy() -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(3):
            yield torch.randn(6, 6), torch.arange(6) % 3

    model = NETWORKS["linear"].build()
    before = streams()
    tickets = [
        disbud.prune(
            model, "iterative-snip", sparsity=0.6, rounds=3, batches=make(noisy()), examples_per_class=None
        )
        for _ in range(2)
    ]
    assert streams() == before
    assert tickets[0] == tickets[1]
    assert tickets[0].origin == tickets[1].origin


class Caching(nn.Module):
    """Fills caches, makes modules, freezes parameters and counts while it runs, as published models do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.scales: dict[object, Tensor] = {}
        self.history: list[object] = []
        self.shapes: set[object] = set()
        self.nested: dict[str, list[object]] = {"seen": []}
        self.last: deque[object] = deque(maxlen=2)
        self.recent: OrderedDict[str, object] = OrderedDict(before=1)
        self.made = nn.ModuleList()
        self.mask: Tensor
        self.register_buffer("mask", torch.ones(1).expand(8))

    def forward(self, x: Tensor) -> Tensor:
        if "scale" not in self.scales:
            self.scales["scale"] = torch.linspace(1, 2, 8).to(x) * x.new_ones(8)
        self.history.append(x)
        self.shapes.add(x.shape)
        self.nested["seen"].append(x)
        self.last.append(x)
        self.recent["x"] = x
        self.recent.pop("before", None)
        if not hasattr(self, "late"):
            self.late = nn.Identity()
            self.made.append(nn.Identity())
        for parameter in self.norm.parameters():
            parameter.requires_grad_(False)
        y = self.norm(self.first(x)) * self.scales["scale"] * self.mask
        out: Tensor = self.head(self.late(torch.tanh(y)))
        return out


@pytest.mark.parametrize("method", ["magnitude", "snip", "grasp", "synflow", "npb", "ntk-sap", "dpai"])
def test_what_a_model_keeps_while_it_runs_is_gone(method: str) -> None:
    network = NETWORKS["linear"]
    model = Caching()
    before = snapshot(model)
    disbud.prune(model, method, sparsity=0.5, **request(method, network))  # type: ignore[arg-type]
    assert not model.scales
    assert not model.history
    assert not model.shapes
    assert model.nested == {"seen": []}
    assert not model.last
    assert list(model.recent.items()) == [("before", 1)]
    assert not model.made
    assert snapshot(model) == before
    assert model(network.batch(4, dtype=torch.float32)[0]).dtype == torch.float32


@pytest.mark.parametrize("method", ["magnitude", "snip", "synflow", "npb"])
@pytest.mark.parametrize("training", [True, False])
def test_a_graph_of_the_callers_is_still_good(method: str, training: bool) -> None:
    network = NETWORKS["batch-norm"]
    model, alone = network.build().train(training), network.build().train(training)
    x, _ = network.batch(6, dtype=torch.float32)
    totals = [net(x).square().sum() for net in (model, alone)]
    disbud.prune(model, method, sparsity=0.5, **request(method, network))  # type: ignore[arg-type]
    for total in totals:
        total.backward()
    for one, other in zip(model.parameters(), alone.parameters(), strict=True):
        assert one.grad is not None
        assert bits(one.grad) == bits(other.grad)


def test_a_model_that_keeps_its_activations_can_still_be_copied() -> None:
    network = NETWORKS["linear"]
    model = Fails(network.build(), 10**9)
    disbud.prune(
        model, "grasp", sparsity=0.5, batches=[network.batch(6, dtype=torch.float32)], examples_per_class=None
    )
    assert model.last is None
    copy.deepcopy(model)


def test_scripted_modules_get_their_mode_back() -> None:
    network = NETWORKS["linear"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is on its way out
        scripted = torch.jit.script(nn.Dropout(0.5))
    model = nn.Sequential(scripted, network.build())
    more = request("snip", network)
    first = disbud.prune(model, "snip", sparsity=0.5, **more)  # type: ignore[arg-type]
    assert scripted.training
    model.eval()
    assert disbud.prune(model, "snip", sparsity=0.5, **more) == first  # type: ignore[arg-type]
    assert not scripted.training
