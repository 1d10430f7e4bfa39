"""poise: its score by hand, every weight on a path, the weights it starts from, and clear errors."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import disbud
from disbud import interventions
from disbud.errors import DisbudError
from disbud.graph import reach
from disbud.methods.strength import strength
from disbud.models import build
from disbud.pruning.sources import scoring_of
from disbud.selection import kept_count
from method_inputs import asked
from networks import NETWORKS

X = torch.randn(30, 6, generator=torch.Generator().manual_seed(3)) * torch.tensor([0.0, 1, 2, 3, 4, 5]) + 7
Y = torch.arange(30) % 3
SPARSITIES = [0.5, 0.9]


def plain(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))


def normed(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))


def started(model: nn.Module, ticket: disbud.Ticket) -> nn.Module:
    """A copy with the weights the ticket starts from, those off it zero."""
    model = copy.deepcopy(model)
    ticket.start_(model)
    ticket.apply_(model)
    return model


def spread(model: nn.Module, x: Tensor = X) -> float:
    """The root of the outputs' variance over examples, BatchNorm computing with them."""
    with torch.no_grad():
        return float(copy.deepcopy(model).train()(x).double().var(0, correction=0).sum().sqrt())


@pytest.mark.parametrize("c", [0.0, 0.4, 1.0])
def test_the_score_is_magnitude_times_a_power_of_the_paths_through_it(c: float) -> None:
    model = plain()
    linear = nn.Sequential(*(copy.deepcopy(m).double() for m in model if isinstance(m, nn.Linear)))
    for layer in linear:
        layer.weight.data.abs_()
        layer.bias.data.zero_()
    linear(X.double().std(0, correction=0, keepdim=True)).sum().backward()
    found = disbud.scores(model, "poise", batches=[(X, Y)], concentration=c)
    for layer, name in zip(linear, found, strict=True):
        expected = layer.weight.data * layer.weight.grad**c
        # Up to one power of two a layer, to the power c.
        ratio = found[name].double()[expected > 0] / expected[expected > 0]
        assert torch.allclose(ratio, ratio.flatten()[0].expand_as(ratio), rtol=1e-4)
    blind = found["0.weight"][:, 0]
    assert bool((blind == 0).all()) == (c > 0)  # the first input is the same in all examples


def test_with_one_path_as_good_as_another_it_is_synflow_on_those_inputs() -> None:
    model, x = plain(), torch.randn(30, 6, generator=torch.Generator().manual_seed(4))
    x = (x - x.mean(0)) / x.std(0, correction=0)
    ours = disbud.prune(
        model, "poise", sparsity=0.6, batches=[(x, Y)], concentration=1, signal=0, examples_per_class=None
    )
    theirs = disbud.prune(model, "synflow", sparsity=0.6, example=x, densities="erk", rounds=40)
    assert ours == theirs
    assert ours.start is None


def test_named_inputs_count_as_others_do() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = plain()

        def forward(self, *, x: Tensor) -> Tensor:
            return self.net(x)  # type: ignore[no-any-return]

    def loss(model: nn.Module, batch: object) -> Tensor:
        return model(x=batch).square().mean()  # type: ignore[no-any-return]

    named = disbud.prune(
        Named(), "poise", sparsity=0.6, batches=[{"x": X}], loss=lambda m, b: loss(m, b["x"])
    )
    given = disbud.prune(plain(), "poise", sparsity=0.6, batches=[(X, Y)])
    assert [mask.tolist() for mask in named.masks.values()] == [
        mask.tolist() for mask in given.masks.values()
    ]


def test_a_layer_before_a_normalisation_has_the_exponent_of_its_own() -> None:
    model = normed()
    batches = [(X, Y)]
    even = disbud.scores(model, "poise", batches=batches, concentration=1, normalised=0)
    assert torch.allclose(even["0.weight"][:, 1:], model[0].weight.detach().abs()[:, 1:])
    assert not torch.allclose(even["3.weight"], model[3].weight.detach().abs())


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "untraceable"])
def test_no_weight_is_off_paths_while_its_layer_has_room_on_one(name: str, sparsity: float) -> None:
    network = NETWORKS[name]
    model = network.build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ticket = disbud.prune(model, "poise", sparsity=sparsity, **asked("poise", network))  # type: ignore[arg-type]
    on_path = disbud.graph.effective(model, ticket, example=network.example)
    room = reach(model, on_path, example=network.example).open
    assert ticket.kept == kept_count(sparsity, ticket.total)
    for name, mask in ticket.masks.items():
        # In attention a query's weight is on a path by itself only with a key's.
        if "in_proj" not in name and bool((mask & ~on_path.masks[name]).any()):
            assert not (room[name] & ~on_path.masks[name]).any()


@pytest.mark.parametrize("sparsity", [0.9, 0.98, 0.997])
@pytest.mark.parametrize("net", ["lenet-300-100", "resnet20:width=0.5", "vgg11-bn:width=0.25"])
def test_on_real_networks_too(net: str, sparsity: float) -> None:
    shape = (1, 28, 28) if net.startswith("lenet") else (3, 32, 32)
    model = build(net, input_shape=shape, seed=1)
    x = torch.randn(8, *shape, generator=torch.Generator().manual_seed(1))
    ticket = disbud.prune(
        model, "poise", sparsity=sparsity, batches=[(x, torch.arange(8))], examples_per_class=None
    )
    assert ticket.kept == kept_count(sparsity, ticket.total)
    assert disbud.graph.effective(model, ticket, example=x[:1]).kept == ticket.kept


@pytest.mark.parametrize("seed", range(4))
def test_outputs_spread_as_far_as_asked_or_as_they_did(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3))
    asked = {"sparsity": 0.9, "batches": [(X, Y)], "examples_per_class": None}
    raised = disbud.prune(model, "poise", **asked, signal=0.5)  # type: ignore[arg-type]
    bare = copy.deepcopy(model)
    raised.apply_(bare)
    assert 0 < spread(bare) < 0.5 * spread(model)  # else nothing is tested
    assert spread(started(model, raised)) == pytest.approx(0.5 * spread(model), rel=0.02)
    low = disbud.prune(model, "poise", **asked, signal=0.5 * spread(bare) / spread(model))  # type: ignore[arg-type]
    assert spread(started(model, low)) == pytest.approx(spread(bare))


def test_kept_weights_before_a_normalisation_have_the_mean_square_of_the_dense_layer() -> None:
    model = normed()
    ticket = disbud.prune(model, "poise", sparsity=0.8, batches=[(X, Y)], examples_per_class=None)
    after, mask = started(model, ticket), ticket.masks["0.weight"]
    kept = after[0].weight.detach()[mask]  # type: ignore[index]
    assert kept.square().mean().item() == pytest.approx(
        model[0].weight.detach().square().mean().item(), rel=1e-4
    )
    assert (model[0].weight.detach()[mask].abs() > 0).all()
    assert kept.abs().mean() < model[0].weight.detach()[mask].abs().mean()  # it keeps large ones


def test_the_power_of_a_layer_is_its_share_of_what_outputs_follow() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 3, bias=False), nn.Linear(6, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x[:15]) + self.b(x[15:])  # type: ignore[no-any-return]

    chain = nn.Sequential(nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False))
    for model, expected in ((chain, [1.0, 1.0]), (normed(), [0.0, 1.0]), (both := Sum(), None)):
        layers = disbud.prunable(model)
        scoring = scoring_of("poise", model, layers, evidence=None, loss=None, example=None, seed=0)
        found = strength(scoring, scoring.weights, ((X,), {}))
        if expected is None:
            with torch.no_grad():
                a, b = both.a(X[:15]), both.b(X[15:])
            a, b = a - a.mean(0), b - b.mean(0)
            expected = [float((part * (a + b)).sum() / (a + b).square().sum()) for part in (a, b)]
            assert sum(expected) == pytest.approx(1)
        assert list(found.powers.values()) == pytest.approx(expected, abs=1e-3)
        assert found.spread == pytest.approx(spread(model), rel=1e-3)


def test_training_begins_with_the_start_and_other_masks_can_have_it() -> None:
    data = disbud.data.load("digits")
    model = build("lenet-300-100", classes=10, input_shape=data.input_shape)
    ticket = disbud.prune(model, "poise", sparsity=0.995, batches=data.batches())
    assert ticket.start is not None
    expected = started(model, ticket).state_dict()
    disbud.train(model, data, ticket=ticket, recipe="digits:epochs=1,lr=1e-30,weight_decay=0")
    assert all(
        torch.allclose(expected[name], weight, atol=1e-20) for name, weight in model.state_dict().items()
    )
    moved = interventions.on_mask(ticket, "shuffle", seed=1)
    assert moved.start == ticket.start


def test_whole_channels_are_left_as_they_were_ranked() -> None:
    network = NETWORKS["conv"]
    ticket = disbud.prune(
        network.build(), "poise", sparsity=0.5, granularity="channel", example=network.example.float(),
        **asked("poise", network),
    )  # fmt: skip
    for mask in ticket.masks.values():
        rows = mask.flatten(1)
        assert all(bool(row.any()) == bool((row | ~rows.any(0)).all()) for row in rows)
    assert ticket.start is not None


def test_a_budget_too_small_for_a_path_is_said() -> None:
    with (
        pytest.warns(UserWarning, match="poise: all scores of round 2 are zero"),
        pytest.warns(UserWarning, match="no path leads from the model's input to its output"),
    ):
        ticket = disbud.prune(plain(), "poise", sparsity=0.99, batches=[(X, Y)])
    assert ticket.kept == round(0.01 * ticket.total)


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"concentration": -1}, "concentration is a number from 0 up, not -1"),
        ({"normalised": "half"}, "normalised is a number from 0 up"),
        ({"signal": True}, "signal is a number from 0 up, not True"),
        ({"batches": [(X[:1], Y[:1])], "examples_per_class": None}, "batches of at least two"),
        ({"loss": lambda model, batch: torch.zeros(())}, "never called the model"),
        ({"batches": None}, "give batches"),
    ],
)
def test_what_makes_no_sense_is_an_error(odd: dict[str, object], words: str) -> None:
    with pytest.raises(DisbudError, match=words):
        disbud.prune(plain(), "poise", **{"sparsity": 0.5, "batches": [(X, Y)], **odd})  # type: ignore[arg-type]


# How a loss calls the model


class Called(nn.Module):
    """A plain network that takes its input in one of many ways, and a factor by name."""

    def __init__(self) -> None:
        super().__init__()
        self.net = plain()


class ByWord(Called):
    def forward(self, x: Tensor, **more: float) -> Tensor:
        return self.net(x) * more["scale"]  # type: ignore[no-any-return]


class Starred(Called):
    def forward(self, *inputs: Tensor, scale: float) -> Tensor:
        return self.net(inputs[0]) * scale  # type: ignore[no-any-return]


class First(Called):
    def forward(self, x: Tensor, /, scale: float, *, power: int = 1) -> Tensor:
        return self.net(x) * scale**power  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [ByWord, Starred, First])
def test_inputs_by_position_and_by_name_at_once(kind: type[nn.Module]) -> None:
    def loss(model: nn.Module, batch: object) -> Tensor:
        x, y = batch  # type: ignore[misc]
        return functional.cross_entropy(model(x, scale=2.0), y)

    model = kind()
    before = dict(model._forward_pre_hooks)
    found = disbud.prune(model, "poise", sparsity=0.6, batches=[(X, Y)], loss=loss)
    assert dict(model._forward_pre_hooks) == before
    given = disbud.prune(plain(), "poise", sparsity=0.6, batches=[(X, Y)])
    assert [m.tolist() for m in found.masks.values()] == [m.tolist() for m in given.masks.values()]


class Scored(Called):
    """As language models do: given labels, it returns its loss too."""

    def forward(
        self, x: Tensor, weight: Tensor | None = None, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        logits = self.net(x if weight is None else x * weight)
        return (
            {"logits": logits}
            if labels is None
            else {"loss": functional.cross_entropy(logits, labels), "logits": logits}
        )


class Insisting(Called):
    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x, y: m(x=x, weight=torch.tensor(2.0), labels=y)["loss"],
        lambda m, x, y: m(x, torch.tensor(2.0), y)["loss"],
        lambda m, x, y: m(x, labels=y, weight=torch.tensor(2.0))["loss"],
    ],
)
def test_labels_that_only_make_a_loss_are_left_out(
    call: Callable[[nn.Module, Tensor, Tensor], Tensor],
) -> None:
    batches = [{"x": X, "labels": Y}]
    found = disbud.prune(
        Scored(),
        "poise",
        sparsity=0.6,
        batches=batches,
        loss=lambda m, b: call(m, b["x"], b["labels"]),  # type: ignore[index]
    )
    plainly = disbud.prune(
        Scored(), "poise", sparsity=0.6, batches=batches,
        loss=lambda m, b: functional.cross_entropy(m(b["x"], torch.tensor(2.0))["logits"], b["labels"]),  # type: ignore[index]
    )  # fmt: skip
    assert found == plainly


def test_a_model_that_must_compute_its_loss_is_told_what_to_do() -> None:
    def loss(model: nn.Module, batch: object) -> Tensor:
        return model(**batch)["loss"]  # type: ignore[arg-type,no-any-return]

    said = r"the model computes its loss itself \(cross_entropy\).*let it return logits"
    with pytest.raises(DisbudError, match=said):
        disbud.prune(Insisting(), "poise", sparsity=0.6, batches=[{"x": X, "labels": Y}], loss=loss)
