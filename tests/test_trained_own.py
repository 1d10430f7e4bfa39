"""Methods that train by a function of the user's own, and everything that can be wrong with what they are given."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import disbud
from disbud import DisbudError, Ticket
from disbud.data import Dataset, Split
from disbud.selection import kept_count
from trained_cases import (
    NAMES,
    RECIPE,
    TOTAL,
    State,
    bits,
    counts,
    digits,
    largest,
    network,
    started,
    state_of,
)


@pytest.fixture(autouse=True)
def _a_cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISBUD_CACHE", str(tmp_path / "cache"))


class Loop:
    """A training loop of one's own; it notes what it was given."""

    def __init__(self, steps: int = 6) -> None:
        self.steps = steps
        self.seen: list[Ticket | None] = []

    def __call__(self, model: nn.Module, ticket: Ticket | None, steps: int | None = None) -> None:
        self.seen.append(ticket)
        model.train()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(self.steps if steps is None else steps):
            x = torch.randn(32, 1, 8, 8) + numpy.random.rand() + random.random()
            optimizer.zero_grad()
            functional.cross_entropy(model(x), torch.arange(32) % 10).backward()
            optimizer.step()


def by_hand(kept: list[int], *, rewound: int | None, seed: int = 0) -> tuple[State, State]:
    """The same with the loop written out, its streams seeded as `prune` seeds them."""
    from disbud.seeds import global_streams

    def trained(weights: State, masks: State | None, steps: int | None) -> State:
        model = network()
        model.load_state_dict(weights)
        with global_streams(seed, "training"):
            if masks is None:
                Loop()(model, None, steps)
            else:
                with disbud.sparse(model, Ticket.from_masks(masks)):
                    Loop()(model, None, steps)
        return state_of(model)

    first = state_of(network())
    start = None if rewound is None else trained(first, None, rewound) if rewound else first
    weights, masks = first, None
    for count in kept:
        after = trained(weights, masks, None)
        masks = largest(after, masks, count)
        weights = after if start is None else start
    assert masks is not None
    return masks, weights


def prune(method: str = "lottery-ticket", train: object = None, **more: object) -> Ticket:
    return disbud.prune(network(), method, sparsity=0.8, train=train or Loop(), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "more", "rewound"),
    [
        ("lottery-ticket", {}, 0),
        ("lottery-ticket", {"rewind": "2 steps"}, 2),
        ("learning-rate-rewinding", {}, None),
        ("magnitude-after-training", {}, None),
    ],
)
def test_ones_own_loop_bit_for_bit(method: str, more: dict[str, object], rewound: int | None) -> None:
    target = kept_count(0.8, TOTAL)
    kept = [target] if method.startswith("magnitude") else counts(target, TOTAL)
    masks, start = by_hand(kept, rewound=rewound)
    before = torch.random.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    loop = Loop()
    ticket = prune(method, loop, **more)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (random.getstate(), numpy.random.get_state()[1].tolist()) == before[1:]
    assert all(torch.equal(ticket.masks[name], masks[name]) for name in NAMES)
    assert bits(started(ticket)) == bits(start)
    levels = [seen.kept for seen in loop.seen if seen is not None]
    assert levels == kept[:-1]
    assert ticket.origin.settings["train"] == "test_trained_own:Loop"
    assert ticket.origin.evidence is None


def test_the_model_is_kept_on_the_ticket_around_the_loop() -> None:
    def careless(model: nn.Module, ticket: Ticket | None) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        for _ in range(3):
            model(torch.randn(8, 1, 8, 8)).square().mean().backward()
            optimizer.step()
            for name, mask in ({} if ticket is None else ticket.masks).items():
                assert not model.get_parameter(name)[~mask].any()

    assert prune(train=careless).kept == kept_count(0.8, TOTAL)


def test_the_users_model_is_left_as_it_was() -> None:
    model = network()
    before, modes = bits(state_of(model)), [module.training for module in model.modules()]
    disbud.prune(model, "lottery-ticket", sparsity=0.8, train=Loop())
    assert bits(state_of(model)) == before
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())


def test_levels_are_counted_in_decimal() -> None:
    def moved(model: nn.Module, ticket: Ticket | None) -> None:
        with torch.no_grad():
            model.get_parameter("weight").mul_(1.1)

    ticket = disbud.prune(
        nn.Linear(5, 1, bias=False), "lottery-ticket", sparsity=0.4, per_level=0.1, train=moved
    )
    assert ticket.origin.settings["levels"] == [5, 4, 4, 3]  # of 4.5, 4.05, 3.645, 3.2805


def test_in_a_folder_finished_runs_are_kept(tmp_path: Path) -> None:
    class Killed(Loop):
        def __call__(self, model: nn.Module, ticket: Ticket | None, steps: int | None = None) -> None:
            if len(self.seen) == 4:
                raise KeyboardInterrupt
            super().__call__(model, ticket, steps)

    expected, killed = prune(), Killed()
    with pytest.raises(KeyboardInterrupt):
        prune(train=killed, checkpoint=tmp_path / "kept")
    loop = Killed()
    loop.seen = [None] * -3
    assert prune(train=loop, checkpoint=tmp_path / "kept", rounds=None) == expected
    assert len(loop.seen) == 8 - 4  # of the eight runs, four were there
    assert prune(train=loop, checkpoint=tmp_path / "kept").start == expected.start
    assert len(loop.seen) == 4
    seen: list[object] = []
    prune(train=lambda model, ticket: (seen.append(ticket), Loop()(model, ticket))[1])
    assert len(seen) == 8  # without a folder nothing is kept


def poisoned(model: nn.Module, ticket: Ticket | None) -> None:
    with torch.no_grad():
        model.get_parameter("5.weight")[0, 0] = float("nan")


def rebuilt(model: nn.Module, ticket: Ticket | None) -> None:
    assert isinstance(model, nn.Sequential)
    model[5] = nn.Linear(24, 21)


def extended(model: nn.Module, ticket: Ticket | None) -> None:
    model.register_parameter("scale", nn.Parameter(torch.ones(())))


def beheaded(model: nn.Module, ticket: Ticket | None) -> None:
    model.get_submodule("7").bias = None  # type: ignore[assignment]


def buffered(model: nn.Module, ticket: Ticket | None) -> None:
    model.register_buffer("seen", torch.zeros(1))


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (poisoned, r"train, in dense training, left NaN or infinite values in 5\.weight: the run diverged"),
        (rebuilt, r"changed the architecture: 5\.weight was \(20, 24\) and is \(21, 24\)"),
        (beheaded, r"changed the architecture: 7\.bias is gone"),
        (extended, "changed the architecture: scale is new"),
        (buffered, "changed the architecture: seen is new"),
        (
            lambda model, ticket: None,
            "left every weight as it was; it must train the model that it is given, in place",
        ),
        (
            lambda model, ticket: network(1),
            "returned a model; it must train the one that it is given, in place",
        ),
        (lambda model: None, r"train is a function train\(model, ticket\) .*, not test_trained_own:<lambda>"),
        (network(), r"train is a function train\(model, ticket\)"),
        ("digits", r"train is a function train\(model, ticket\) .*, not 'digits'"),
    ],
)
def test_a_function_that_does_not_train_the_model(train: object, said: str) -> None:
    with pytest.raises(DisbudError, match=said):
        prune(train=train)


def test_nan_in_a_later_level_is_said_of_that_level() -> None:
    loop = Loop()

    def later(model: nn.Module, ticket: Ticket | None) -> None:
        poisoned(model, ticket) if ticket is not None and ticket.sparsity > 0.4 else loop(model, ticket)

    with pytest.raises(DisbudError, match="train, in training on level 3, left NaN"):
        prune(train=later)


def never(model: nn.Module, ticket: Ticket | None) -> None:
    raise AssertionError("it was called")


def several(model: nn.Module, ticket: Ticket | None, steps: int | None = None) -> None:
    raise AssertionError("it was called")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, r"lottery-ticket trains: give data=.*and a recipe; or train=\.\.\., a function"),
        ({"recipe": "digits"}, "lottery-ticket trains: give data="),
        ({"train": never, "data": digits()}, "give data=.* and a recipe, or train=.*; not both"),
        ({"train": never, "recipe": "digits"}, "not both"),
        ({"train": never, "rewind": 2}, r"rewind=2 counts epochs, .* give steps, as in \"500 steps\""),
        ({"train": never, "rewind": "9 steps"}, r"needs train\(model, ticket, steps\).*yours takes no steps"),
        ({"train": several, "rewind": "9 stps"}, 'give "init", an epoch of the dense run'),
        ({"train": never, "method": "early-bird"}, "a function of your own does not say what its epochs are"),
        ({"data": DataLoader(TensorDataset(torch.zeros(2)))}, "Dataset, not a DataLoader; .*from_tensors"),
        ({"data": digits(), "recipe": "digts"}, "did you mean 'digits'"),
        ({"data": digits(), "recipe": "digits:epoch=3"}, "did you mean 'epochs'"),
        ({"data": digits(), "batches": [1]}, r"batches=\.\.\. is for methods that score"),
        ({"data": digits(), "loss": functional.cross_entropy}, r"loss=\.\.\. is for methods that score"),
        ({"data": digits(), "batch_norm": "eval"}, r"batch_norm=\.\.\. is for methods that score"),
        ({"data": digits(), "regrowth": True}, r"regrowth=\.\.\. is for methods that score"),
        ({"data": digits(), "rewind": 3}, r"rewind=3 is not within the run, which has 3 epochs of 5 steps"),
        ({"data": digits(), "rewind": "15 steps"}, "is not within the run"),
        ({"data": digits(), "rewind": -1}, 'rewind=-1: give "init"'),
        ({"data": digits(), "rewind": True}, 'rewind=True: give "init"'),
        ({"data": digits(), "rewind": float("nan")}, 'rewind=nan: give "init"'),
        ({"data": digits(), "rewind": None}, 'rewind=None: give "init"'),
        ({"data": digits(), "rewnd": 1}, "did you mean 'rewind'"),
        ({"data": digits(), "per_level": 0}, "per_level is the fraction .* not 0"),
        ({"data": digits(), "per_level": 1}, "not 1"),
        ({"data": digits(), "per_level": "much"}, "not 'much'"),
        ({"data": digits(), "per_level": 0.5, "rounds": 3}, "give it, or rounds and a schedule"),
        ({"data": digits(), "rounds": 0}, "rounds is a whole number"),
        ({"data": digits(), "schedule": "linea", "rounds": 2}, "did you mean 'linear'"),
        ({"data": digits(), "keep": "high"}, "did you mean 'highest'"),
        ({"data": digits(), "densities": "erkk"}, "did you mean 'erk'"),
        ({"data": digits(), "sparsity": 80}, "for 80 per cent give sparsity=0.8"),
        ({"data": digits(), "method": "early-bird", "rounds": 2}, "prunes once, so it has no 2 rounds"),
        ({"data": digits(), "method": "early-bird", "threshold": 0}, "threshold is a fraction .* not 0"),
        ({"data": digits(), "method": "early-bird", "epochs": 1}, "at least 2, not 1"),
        (
            {"data": digits(), "method": "snip"},
            "snip does not train, so it has no data=.*batches=data.batches",
        ),
        ({"train": never, "method": "magnitude"}, "magnitude does not train, so it has no train="),
        ({"checkpoint": "here", "method": "synflow"}, "synflow does not train, so it has no checkpoint="),
        ({"recipe": "digits", "method": "random"}, "random does not train, so it has no recipe="),
    ],
)
def test_wrong_requests_are_told_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, object], said: str
) -> None:
    import disbud.pruning.recipe_trainer as trainer

    monkeypatch.setattr(trainer, "train", several)
    asked: dict[str, object] = {"method": "lottery-ticket", "sparsity": 0.8, **more}
    if "data" in more:
        asked.setdefault("recipe", RECIPE) if more.get("method") != "snip" else None
    with pytest.raises(DisbudError, match=said):
        disbud.prune(network(), **asked)  # type: ignore[arg-type]


def labelled(labels: Callable[[Tensor], Tensor], *, split: str = "train") -> Dataset:
    """The digits with other labels, past the checks that their makers do."""
    data = digits()
    old = getattr(data, split)
    return replace(data, **{split: Split(old.images, labels(old.labels))})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            labelled(torch.zeros_like),
            "all training labels of few are 0; there is nothing to learn from one class",
        ),
        (
            labelled(lambda y: y + 1),
            "training labels of few go from 1 to 10; with 10 classes they lie between 0 and 9",
        ),
        (labelled(lambda y: y - 1), "training labels of few go from -1 to 8"),
        (labelled(lambda y: y + 1, split="test"), "test labels of few go from 1 to 10"),
    ],
)
def test_data_that_cannot_be_learned_from(data: Dataset, said: str) -> None:
    with pytest.raises(DisbudError, match=said):
        disbud.prune(network(), "hybrid", sparsity=0.8, data=data, recipe=RECIPE)


def test_a_model_that_does_not_fit_the_data_is_told_at_once() -> None:
    for model, said in (
        (
            nn.Sequential(nn.Flatten(), nn.Linear(63, 10)),
            "the model does not take an image of few, 1x8x8: mat1",
        ),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 9)),
            r"logits of shape \(16, 9\) for 16 examples of 10 classes",
        ),
        (network().to("meta"), "1.weight is on the meta device and holds no values"),
    ):
        with pytest.raises(DisbudError, match=said):
            disbud.prune(model, "hybrid", sparsity=0.8, data=digits(), recipe=RECIPE)
    model = network()
    with torch.no_grad():
        model.get_parameter("5.weight")[0, 0] = float("inf")
    with pytest.raises(DisbudError, match=r"5\.weight holds NaN or infinite weights"):
        disbud.prune(model, "hybrid", sparsity=0.8, data=digits(), recipe=RECIPE)


def test_a_recipe_that_diverges_is_one_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(
            DisbudError, match=r"dense training diverged in epoch \d, step \d: .* a smaller lr"
        ):
            disbud.prune(
                network(), "lottery-ticket", sparsity=0.8, data=digits(), recipe="digits:epochs=3,lr=1e30",
                checkpoint=tmp_path / "runs",
            )  # fmt: skip
        assert not [path for path in (tmp_path / "runs").iterdir() if path.suffix != ".lock"]


def test_such_a_method_scores_nothing() -> None:
    with pytest.raises(DisbudError, match="lottery-ticket trains the model and scores nothing before"):
        disbud.scores(network(), "lottery-ticket")


def test_progress_goes_from_nothing_to_all() -> None:
    told: list[tuple[float, str]] = []
    disbud.prune(
        network(), "lottery-ticket", sparsity=0.8, data=digits(), recipe=RECIPE,
        progress=lambda fraction, what: told.append((fraction, what)),
    )  # fmt: skip
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert 0 < fractions[0] < 0.2
    assert fractions[-1] == 1.0
    assert told[0][1].startswith("dense training, epoch 1 of 3")
    assert told[-1][1] == "training on level 7, epoch 3 of 3"
