"""What a method gave, before it is ranked: scores all zero, of another shape, of no layer; weights written in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import disbud
from disbud.errors import DisbudError
from disbud.methods.catalogue import CATALOGUE
from disbud.methods.scoring import Scoring

X, Y = torch.randn(16, 8, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 4
RANKING = [
    name
    for name, entry in CATALOGUE.items()
    if not (entry.construction or entry.trains or entry.densities == "like")
]
STOPPED = {"snip", "iterative-snip", "force", "synflow", "synflow-l2", "px", "poise"}


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def headless() -> nn.Sequential:
    """With a last layer that begins at zero."""
    model = mlp()
    nn.init.zeros_(model[2].weight)
    return model


def asked(method: str) -> dict[str, object]:
    if CATALOGUE[method].needs == "batches":
        return {"batches": [(X, Y)], "examples_per_class": None}
    return {"example": torch.zeros(1, 8)}


# Scores that say nothing


@pytest.mark.parametrize("method", RANKING)
def test_a_choice_by_position_alone_is_said(method: str) -> None:
    more = asked(method)
    scores = disbud.scores(headless(), method, **more)  # type: ignore[arg-type]
    silent = not any(bool(score.any()) for score in scores.values())
    assert silent >= (method in STOPPED)
    if not silent:  # warnings are errors here
        disbud.prune(headless(), method, sparsity=0.5, rounds=1, **more)  # type: ignore[arg-type]
        return
    said = rf"{method}: all scores of round 1 are zero.*by their position.*\(2.weight\).*zero-initialised"
    with pytest.warns(UserWarning, match=said) as caught:
        ticket = disbud.prune(headless(), method, sparsity=0.5, rounds=3, **more)  # type: ignore[arg-type]
    assert len(caught) == 1  # and not once a round
    assert caught[0].filename == __file__
    assert ticket.kept == 96


@pytest.mark.parametrize("granularity", ["kernel", "channel", "2:4"])
def test_so_is_one_among_groups(granularity: str) -> None:
    with pytest.warns(UserWarning, match="all scores of round 1 are zero"):
        disbud.prune(
            headless(),
            "snip",
            sparsity=0.5,
            granularity=granularity,
            example=torch.zeros(1, 8),
            **asked("snip"),
        )  # type: ignore[arg-type]


def test_where_there_is_nothing_to_choose_nothing_is_said() -> None:
    for sparsity in (0, 1):
        disbud.prune(headless(), "snip", sparsity=sparsity, **asked("snip"))  # type: ignore[arg-type]


def test_one_score_is_enough() -> None:
    model = mlp()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    with pytest.warns(UserWarning, match=r"\(0.weight, 2.weight\)"):
        disbud.prune(model, "magnitude", sparsity=0.5)
    with torch.no_grad():
        model[2].weight[3, 5] = 1e-30
    assert disbud.prune(model, "magnitude", sparsity=0.5).masks["2.weight"][3, 5]


def test_so_is_a_model_that_lets_nothing_through() -> None:
    model = mlp()
    with torch.no_grad():
        model[0].bias.fill_(-1e3)  # no unit is ever active
    with pytest.warns(UserWarning, match="nothing that this method looks at gets through the model"):
        disbud.prune(model, "px", sparsity=0.5, **asked("px"))  # type: ignore[arg-type]


# Scores of one's own


@pytest.fixture
def method() -> Iterator[Callable[..., str]]:
    """Makes a function a method, for one test."""

    def make(function: Callable[[Scoring], object], **more: object) -> str:
        disbud.method("own", "a test's own", **more)(function)  # type: ignore[arg-type]
        return "own"

    with mock.patch.dict(CATALOGUE):
        yield make


def of_each(change: Callable[[Tensor], object]) -> Callable[[Scoring], object]:
    return lambda s: {name: change(weight) for name, weight in s.weights.items()}


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (of_each(lambda w: w.abs().t()), r"own gave 0.weight shape \(8, 16\), not shape \(16, 8\)"),
        (of_each(lambda w: w.abs().flatten()), r"own gave 0.weight shape \(128,\), not shape \(16, 8\)"),
        (of_each(lambda w: w.sum()), r"own gave 0.weight shape \(\), not shape \(16, 8\)"),
        (of_each(lambda w: w.abs().tolist()), r"own gave 0.weight a list, not shape \(16, 8\)"),
        (lambda s: {}, r"own gave nothing and not 0.weight, 2.weight"),
        (lambda s: {"0.weight": s.weights["0.weight"].abs()}, r"own gave 0.weight and not 2.weight"),
        (lambda s: None, r"own gave a NoneType; it should give a dict with a tensor of its weight's shape"),
        (lambda s: [w.abs() for w in s.weights.values()], r"own gave a list; it should give a dict"),
    ],
)
@pytest.mark.parametrize("ask", [disbud.prune, disbud.scores])
def test_what_is_no_score_of_each_weight_is_an_error(
    method: Callable[..., str], ask: Callable[..., object], function: Callable[[Scoring], object], said: str
) -> None:
    more = {"sparsity": 0.5} if ask is disbud.prune else {}
    with pytest.raises(DisbudError, match=said):
        ask(mlp(), method(function), **more)


def test_masks_of_a_construction_are_held_to_the_same(method: Callable[..., str]) -> None:
    def transposed(s: Scoring, budget: int) -> dict[str, Tensor]:
        return {name: torch.ones(tuple(reversed(w.shape)), dtype=torch.bool) for name, w in s.weights.items()}

    with pytest.raises(DisbudError, match=r"own gave 0.weight shape \(8, 16\), not shape \(16, 8\)"):
        disbud.prune(mlp(), method(transposed, construction=True), sparsity=0)


def biases_zeroed(s: Scoring) -> dict[str, Tensor]:
    with torch.no_grad():
        s.model[2].bias.zero_()  # type: ignore[index,union-attr,operator]
    return {name: weight.abs() for name, weight in s.weights.items()}


@pytest.mark.parametrize(
    ("function", "name"), [(of_each(Tensor.abs_), "0.weight"), (biases_zeroed, "2.bias")]
)
def test_weights_written_in_place_are_said(
    method: Callable[..., str], function: Callable[[Scoring], object], name: str
) -> None:
    own = method(function)
    for ask, more in ((disbud.prune, {"sparsity": 0.5}), (disbud.scores, {})):
        with pytest.raises(DisbudError, match=f"own changed {name} of the model in place"):
            ask(mlp(), own, **more)  # type: ignore[operator]


def test_weights_that_count_no_changes_are_taken_as_they_are() -> None:
    with torch.inference_mode():
        model = mlp()
    assert disbud.prune(model, "magnitude", sparsity=0.5).kept == 96


def test_survivors_may_be_scored_in_a_row_and_what_is_besides_is_left_out(method: Callable[..., str]) -> None:
    def flat(s: Scoring) -> dict[str, Tensor]:
        scores = {name: weight.abs() for name, weight in s.weights.items()}
        if s.positions is not None:
            scores = {name: scores[name].flatten()[where.long()] for name, where in s.positions.items()}
        return {"0.bias": torch.ones(16), **dict(reversed(scores.items()))}

    name = method(flat)
    plain = disbud.prune(mlp(), "magnitude", sparsity=0.7)
    for rounds in (1, 4):
        assert disbud.prune(mlp(), name, sparsity=0.7, rounds=rounds, schedule="linear") == plain
    second = disbud.scores(mlp(), name, ticket=plain)
    for layer, weight in mlp().named_parameters():
        if layer in second:
            assert torch.equal(second[layer], weight.detach().abs() * plain.masks[layer])
    assert list(second) == ["0.weight", "2.weight"]


# How groups add up


def test_single_weights_have_no_aggregate() -> None:
    for name, more in (
        ("magnitude", {}),
        ("dpai", {"example": torch.zeros(1, 8)}),
        ("precrop", {"example": torch.zeros(1, 8)}),
        ("lottery-ticket", {"train": lambda model, ticket: None}),
    ):
        with pytest.raises(
            DisbudError, match=r"aggregate='abs-of-sum' .* no groups are ranked here; leave it out"
        ):
            disbud.prune(mlp(), name, sparsity=0.5, aggregate="abs-of-sum", **more)  # type: ignore[arg-type]
    grouped = disbud.prune(mlp(), "magnitude", sparsity=0.5, aggregate="abs-of-sum", granularity="2:4")
    assert grouped.origin.settings["aggregate"] == "abs-of-sum"
