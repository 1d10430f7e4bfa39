"""Models whose forward is written out of the ordinary: they get the ticket of the same network written plainly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import disbud
from disbud.errors import DisbudError
from disbud.graph import effective, log10_paths
from disbud.graph.links import links
from disbud.graph.sweeps import Sweeps, Visit
from disbud.methods.catalogue import CATALOGUE
from networks import IMAGE, ROW
from test_pruning import prune

Step = Callable[[Tensor, Tensor], Tensor]
# What counts paths or follows units, quickly; the settings keep constructions short.
COUNTING: dict[str, dict[str, object]] = {
    "npb": {},
    "phew": {},
    "dpai": {"steps": 3},
    "synflow": {"rounds": 3},
    "precrop": {},
    "magnitude": {"granularity": "channel"},
}
DIAGONAL = torch.eye(6, dtype=torch.bool)


def seeded(model: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return model()


class Stepping(nn.Module):
    """Two convolutions, and something done to what the second makes."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        y = self.step(self.norm(self.second(x)), x)
        out: Tensor = self.head(torch.tanh(y).mean((2, 3)))
        return out


def _plus(y: Tensor, x: Tensor) -> Tensor:
    y += x
    return y


def _twice(y: Tensor, x: Tensor) -> Tensor:
    y *= 2
    return y


def _half(y: Tensor, x: Tensor) -> Tensor:
    y /= 2
    return y


def _less(y: Tensor, x: Tensor) -> Tensor:
    y -= 0.5 * x
    return y


def _cleared(y: Tensor, x: Tensor) -> Tensor:
    y[:, 0] = 0
    return y


def _filled(y: Tensor, x: Tensor) -> Tensor:
    return y.masked_fill_(DIAGONAL, 0.0)


def _replaced(y: Tensor, x: Tensor) -> Tensor:
    y[:, :4] = x[:, 4:]
    return y


def _by_view(y: Tensor, x: Tensor) -> Tensor:
    y.view(len(y), -1).add_(1.0)
    return y


def _beside(made: Callable[[Tensor], Tensor]) -> tuple[Step, Step]:
    """What is written into a function's output is not in its input, which is read again."""

    def written(y: Tensor, x: Tensor) -> Tensor:
        one = made(y)
        one += x
        return one + y[:, torch.arange(7, -1, -1)]

    return written, lambda y, x: made(y) + x + y[:, torch.arange(7, -1, -1)]


FIRST = torch.arange(8).view(1, 8, 1, 1) == 0
IN_PLACE: dict[str, tuple[Step, Step]] = {
    "sum": (_plus, lambda y, x: y + x),
    "product with a number": (_twice, lambda y, x: y * 2),
    "quotient": (_half, lambda y, x: y / 2),
    "difference": (_less, lambda y, x: y - 0.5 * x),
    "one channel": (_cleared, lambda y, x: torch.where(FIRST, torch.zeros(()), y)),
    "diagonal": (_filled, lambda y, x: y.masked_fill(DIAGONAL, 0.0)),
    "half of the channels": (_replaced, lambda y, x: torch.cat([x[:, 4:], y[:, 4:]], 1)),
    "by a view": (_by_view, lambda y, x: y + 1.0),
    "beside relu": _beside(functional.relu),
    "beside a power": _beside(lambda y: y**2),
    "beside a bound": _beside(lambda y: torch.maximum(y, torch.zeros(()))),
    "beside a norm": _beside(lambda y: functional.group_norm(y, 2)),
    "beside dropout": _beside(lambda y: functional.dropout(y, 0.5, training=True)),
}


@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("method", COUNTING)
def test_in_place_or_not_is_one_network(method: str, name: str) -> None:
    tickets = [
        prune(
            seeded(lambda step=step: Stepping(step)), method, sparsity=0.5, example=IMAGE, **COUNTING[method]
        )
        for step in IN_PLACE[name]
    ]
    assert tickets[0] == tickets[1]


# Surroundings


class Mixed(nn.Module):
    """Computes in bfloat16, as its own forward asks."""

    def __init__(self, *, asks: bool) -> None:
        super().__init__()
        self.asks = asks
        self.first, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.asks):
            out: Tensor = self.head(torch.relu(self.norm(self.first(x))).mean((2, 3)))
            return out


@pytest.mark.parametrize("method", [*COUNTING, "synflow-l2", "px", "poise"])
def test_autocast_is_off_where_signals_are_not_the_models_own(method: str) -> None:
    more: dict[str, object] = {"example": IMAGE, **COUNTING.get(method, {})}
    if method in ("px", "poise"):
        more |= {"batches": [(torch.randn(8, 3, 6, 6), torch.arange(8) % 4)], "rounds": 2}
        more["examples_per_class"] = None
    ticket = prune(seeded(lambda: Mixed(asks=True)), method, sparsity=0.5, **more)
    if method not in ("px", "poise"):  # which also see the model as it is, in bfloat16
        assert ticket == prune(seeded(lambda: Mixed(asks=False)), method, sparsity=0.5, **more)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert ticket == prune(seeded(lambda: Mixed(asks=False)), method, sparsity=0.5, **more)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase] | type[nn.RNNCellBase]) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 5), nn.Linear(5, 3)
        self.between = kind(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.between(torch.tanh(self.first(x)))
        out: Tensor = self.head(y[0] if isinstance(y, tuple) else y)
        return out


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_biases_that_are_dropped_are_those_of_recurrent_layers_too(
    kind: type[nn.RNNBase] | type[nn.RNNCellBase],
) -> None:
    model = seeded(lambda: Recurrent(kind))
    found: dict[tuple[float, str, str], Tensor] = {}
    for scale in (1.0, 100.0):
        with torch.no_grad():
            for name, parameter in model.between.named_parameters():  # type: ignore[union-attr]
                if "bias" in name:
                    parameter.mul_(scale)
        for biases in ("drop", "abs"):
            for dtype in ("float32", "float64"):
                scores = disbud.scores(model, "synflow", example=ROW, biases=biases, dtype=dtype)
                found[scale, biases, dtype] = scores["first.weight"]
    assert torch.equal(found[1.0, "drop", "float32"], found[100.0, "drop", "float32"])
    assert torch.allclose(found[1.0, "drop", "float32"].double(), found[1.0, "drop", "float64"].double())
    assert not torch.allclose(found[1.0, "abs", "float32"], found[100.0, "abs", "float32"])


# Weights read by parts, and layers without weights


class Reads(nn.Module):
    """A weight that is read once as a layer has it, and once in another way."""

    def __init__(self, again: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.again = again
        self.first, self.tied, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.tied(torch.relu(self.first(x))))
        out: Tensor = self.head(torch.relu(self.again(x, self.tied.weight)))
        return out


BY_PARTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "transposed": lambda x, w: functional.linear(x, w.t()),
    "columns": lambda x, w: functional.linear(x[:, :4], w[:, :4]) + functional.linear(x[:, 4:], w[:, 4:]),
    "every second row": lambda x, w: torch.cat([functional.linear(x, w[::2]), x[:, :4]], 1),
}


@pytest.mark.parametrize("name", BY_PARTS)
@pytest.mark.parametrize("method", ["npb", "phew", "magnitude"])
def test_units_of_a_weight_read_otherwise_are_not_guessed(method: str, name: str) -> None:
    model = seeded(lambda: Reads(BY_PARTS[name]))
    with pytest.raises(DisbudError, match=r"tied.weight is read transposed or by some of its columns"):
        prune(model, method, sparsity=0.5, example=ROW, **COUNTING[method])


def test_rows_of_a_weight_are_outputs_of_its_layer() -> None:
    model = seeded(lambda: Reads(lambda x, w: torch.cat([functional.linear(x, w[5:]), x[:, :5]], 1)))
    found = links(model, ["first.weight", "tied.weight", "head.weight"], example=ROW)
    assert [(place.layer, place.outputs, place.first) for place in found.places] == [
        ("first.weight", 8, 0), ("tied.weight", 8, 0), ("tied.weight", 3, 5), ("head.weight", 3, 0),
    ]  # fmt: skip
    into_head = {(int(a), int(b)): int(c) for a, b, p, c in found.links if p == 3}
    assert into_head == {(2, i): i for i in range(3)} | {(1, i): i + 3 for i in range(5)}


class Half(nn.Module):
    """Of one weight only the first rows are read."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.wide, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.linear(torch.relu(self.first(x)), self.wide.weight[:4])
        out: Tensor = self.head(torch.relu(y))
        return out


def test_rows_that_are_never_read_are_on_no_path() -> None:
    model = seeded(Half)
    found = effective(model, None, example=ROW).masks["wide.weight"]
    assert found[:4].all()
    assert not found[4:].any()
    visits: list[Visit] = []
    sweeps = Sweeps(model, [layer.name for layer in disbud.prunable(model)], example=ROW)
    sweeps.run(back=visits.append)
    assert [visit.layer for visit in visits] == [
        "head.weight",
        "first.weight",
    ]  # what it counts is of whole weights
    sweeps.run(there=visits.append)
    assert [visit.layer for visit in visits if visit.gains is None] == ["wide.weight"]
    assert sweeps.log10_paths == log10_paths(model, None, example=ROW)


class Empty(nn.Module):
    """A layer beside the others that has no inputs, or makes no outputs."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 4)
        self.empty = nn.Linear(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        y = y + self.empty(x[:, : self.empty.in_features]).sum(1, keepdim=True)
        out: Tensor = self.head(y)
        return out


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("sizes", [(6, 0), (0, 8)])
def test_layers_without_weights_have_no_paths(sizes: tuple[int, int]) -> None:
    model = seeded(lambda: Empty(*sizes))
    full = seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)))
    found = effective(model, None, example=ROW)
    assert {row.name: row.kept for row in found.layers} == {
        "first.weight": 48, "head.weight": 32, "empty.weight": 0,
    }  # fmt: skip
    assert log10_paths(model, None, example=ROW) == log10_paths(full, None, example=ROW)
    names = ["first.weight", "empty.weight", "head.weight"]
    places = {place.layer: (place.inputs, place.outputs) for place in links(model, names, example=ROW).places}
    assert places == {"first.weight": (6, 8), "empty.weight": sizes, "head.weight": (8, 4)}


# Inputs


class Writing(nn.Module):
    """Centres what it is given, in place or not."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.first, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.sub_(0.5).mul_(2) if self.in_place else (x - 0.5) * 2
        out: Tensor = self.head(torch.relu(self.first(x)).mean((2, 3)))
        return out


LOOKING = [name for name, entry in CATALOGUE.items() if entry.needs == "batches" and not entry.trains]


@pytest.mark.parametrize("method", LOOKING)
def test_a_model_that_writes_over_its_input_leaves_the_batches_as_they_are(method: str) -> None:
    x, y = torch.randn(8, 3, 6, 6), torch.arange(8) % 4
    more: dict[str, object] = {"rounds": 3} if not CATALOGUE[method].construction else {}
    batches = [(x.clone(), y), (x.clone(), y)]
    tickets = [
        prune(
            seeded(lambda asked=asked: Writing(in_place=asked)), method, sparsity=0.5, examples_per_class=None,
            example=IMAGE, batches=[batch], **more,
        )
        for asked, batch in zip((False, True), batches, strict=True)
    ]  # fmt: skip
    assert tickets[0] == tickets[1]
    assert torch.equal(batches[1][0], x)
