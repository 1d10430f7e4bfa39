"""Methods that train before they prune, bit for bit against the same written plainly; and what they are known to do."""

from __future__ import annotations

import copy
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import disbud
from disbud import DisbudError, Ticket
from disbud.methods.catalogue import CATALOGUE
from disbud.methods.trained import distance
from disbud.models import build
from disbud.selection import allocate, kept_count
from trained_cases import (
    NAMES,
    RECIPE,
    STEPS,
    TOTAL,
    State,
    bits,
    counts,
    dense_states,
    digits,
    half_up,
    iterated,
    largest,
    network,
    started,
    state_of,
)

TRAINED = [name for name, method in CATALOGUE.items() if method.trains]


@pytest.fixture(autouse=True)
def _a_cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISBUD_CACHE", str(tmp_path / "cache"))


def prune(method: str, **more: object) -> Ticket:
    asked: dict[str, object] = {"sparsity": 0.8, "data": digits(), "recipe": RECIPE, **more}
    return disbud.prune(network(), method, **asked)  # type: ignore[arg-type]


def same(ticket: Ticket, masks: State, start: State) -> bool:
    return (
        list(ticket.masks) == list(masks)
        and all(torch.equal(ticket.masks[name], mask) for name, mask in masks.items())
        and bits(started(ticket)) == bits(start)
    )


@pytest.mark.parametrize("seed", [0, 7])
def test_a_lottery_ticket_is_the_plain_loop_rewound_to_its_first_weights(seed: int) -> None:
    model, data = network(), digits()
    first = state_of(model)
    expected = iterated(model, data, counts(kept_count(0.8, TOTAL), TOTAL), rewound=first, seed=seed)
    ticket = prune("lottery-ticket", seed=seed)
    assert same(ticket, *expected)
    assert ticket.kept == kept_count(0.8, TOTAL)
    assert bits(state_of(model)) == bits(first)
    assert len(ticket.origin.settings["levels"]) == 8  # type: ignore[arg-type]  # .8^7 is above .2, .8^8 is not


@pytest.mark.parametrize(
    ("rewind", "step"), [(1, STEPS), (0.5, 3), ("7 steps", 7), ("1 step", 1), (2.0, 10), (0, 0)]
)
def test_rewound_to_any_step_of_the_dense_run(rewind: object, step: int) -> None:
    model, data = network(), digits()
    early = dense_states(model, data)[step]
    expected = iterated(model, data, [800, kept_count(0.8, TOTAL)], rewound=early)
    ticket = prune("lottery-ticket", rewind=rewind, per_level=1 - 800 / TOTAL)
    assert same(ticket, *expected)
    assert ticket.origin.settings["rewind_step"] == step


def test_learning_rate_rewinding_goes_on_from_the_trained_weights() -> None:
    model, data = network(), digits()
    expected = iterated(model, data, counts(kept_count(0.6, TOTAL), TOTAL), rewound=None)
    ticket = prune("learning-rate-rewinding", sparsity=0.6)
    assert same(ticket, *expected)
    assert same(prune("lottery-ticket", sparsity=0.6, rewind="none"), *expected)


@pytest.mark.parametrize("schedule", ["exponential", "linear"])
def test_rounds_and_a_schedule_take_the_place_of_a_fraction_a_level(schedule: str) -> None:
    steps = {"exponential": [0.1 ** (k / 3) for k in (1, 2)], "linear": [1 - 0.9 * k / 3 for k in (1, 2)]}
    kept = [half_up(Fraction(density) * TOTAL) for density in steps[schedule]] + [kept_count(0.9, TOTAL)]
    expected = iterated(network(), digits(), kept, rewound=None)
    ticket = prune("learning-rate-rewinding", sparsity=0.9, rounds=3, schedule=schedule)
    assert same(ticket, *expected)
    assert ticket.origin.settings["levels"] == kept


def test_magnitude_after_training_is_one_level() -> None:
    expected = iterated(network(), digits(), [kept_count(0.8, TOTAL)], rewound=None)
    assert same(prune("magnitude-after-training"), *expected)


def test_the_other_end_of_the_ranking_is_kept_where_that_is_asked() -> None:
    (trained,) = dense_states(network(), digits())[-1:]
    ticket = prune("magnitude-after-training", keep="lowest")
    complement = largest(trained, None, TOTAL - kept_count(0.8, TOTAL))
    assert all(torch.equal(ticket.masks[name], ~complement[name]) for name in NAMES)


@pytest.mark.parametrize("densities", [None, "erk", "uniform"])
def test_hybrid_keeps_the_largest_trained_weights_of_each_layer(densities: str | None) -> None:
    model, data = network(), digits()
    (trained,) = dense_states(model, data)[-1:]
    layers = disbud.prunable(model)
    rule = {"chain": True} if densities is None else {}
    count = allocate(densities or "smart-ratio", layers, 0.9, **rule)
    masks = {name: largest(trained, None, count[name], (name,))[name] for name in NAMES}
    more = {} if densities is None else {"densities": densities}
    assert same(prune("hybrid", sparsity=0.9, **more), masks, trained)


def test_the_densities_of_a_ticket_say_how_much_is_kept() -> None:
    given = disbud.prune(network(), "random-erk", sparsity=0.9)
    ticket = prune("hybrid", sparsity=None, densities=given)
    assert ticket.densities() == given.densities()
    assert ticket.origin.parents == (given.origin,)


def test_levels_within_densities_each_go_to_their_own_count() -> None:
    ticket = prune("lottery-ticket", sparsity=0.9, densities="erk")
    layers = disbud.prunable(network())
    assert {row.name: row.kept for row in ticket.layers} == allocate("erk", layers, 0.9)
    by_layer = [counts(kept, layer.size) for kept, layer in zip(
        allocate("erk", layers, 0.9).values(), layers, strict=True)]  # fmt: skip
    most = max(map(len, by_layer))
    padded = [[*own, *[own[-1]] * (most - len(own))] for own in by_layer]
    assert ticket.origin.settings["levels"] == [sum(level) for level in zip(*padded, strict=True)]


def test_an_early_bird_is_drawn_where_the_mask_settles() -> None:
    model, data, recipe = network(), digits(), "digits:epochs=12,lr=0.05"
    states = dense_states(model, data, recipe=recipe)[STEPS::STEPS]
    masks = [largest(state, None, kept_count(0.5, TOTAL)) for state in states]

    def apart(one: State, other: State) -> float:
        differing = torch.cat([(one[name] != other[name]).flatten() for name in NAMES])
        return differing.double().mean().item()

    far = [max(apart(masks[i], masks[j]) for j in range(i - 3, i)) for i in range(3, len(masks))]
    for threshold in (far[0] * 1.001, far[2] * 1.001, far[4] * 1.001):
        settled = next(i for i, distance in enumerate(far) if distance < threshold) + 3
        ticket = prune("early-bird", sparsity=0.5, recipe=recipe, threshold=threshold, epochs=4)
        assert ticket.origin.settings["epoch"] == settled + 1
        assert ticket.origin.settings["distance"] == pytest.approx(far[settled - 3], abs=1e-12)
        assert same(ticket, masks[settled], states[settled])
    assert far[4] < far[2] < far[0]  # so that three epochs were met
    rewound = prune(
        "early-bird", sparsity=0.5, recipe=recipe, threshold=far[0] * 1.001, epochs=4, rewind="init"
    )
    assert same(rewound, masks[3], state_of(model))


def test_an_early_bird_says_when_it_cannot_know() -> None:
    with pytest.warns(UserWarning, match="did not settle within the recipe's 3 epochs"):
        ticket = prune("early-bird", sparsity=0.5)
    assert same(ticket, largest(dense_states(network(), digits())[-1], None, TOTAL // 2), started(ticket))
    with pytest.warns(
        UserWarning, match=r"keep 2.03% differ in 4.06% of all positions at most.* below 0.0406"
    ):
        prune("early-bird", sparsity=0.9797, recipe="digits:epochs=6")


def test_the_distance_of_masks_is_the_fraction_that_differs() -> None:
    one = {"a": torch.tensor([True, False]), "b": torch.tensor([[True, True]])}
    other = {"a": torch.tensor([False, False]), "b": torch.tensor([[True, False]])}
    assert distance(one, other) == 0.5
    assert distance(one, one) == 0.0


@pytest.mark.parametrize("method", TRAINED)
@pytest.mark.filterwarnings("ignore:early-bird")
def test_the_count_is_exact_and_the_origin_says_how_it_came_about(method: str) -> None:
    ticket = prune(method, sparsity=0.777, seed=3, exclude="7.*", recipe="digits:epochs=1")
    total = TOTAL - 200
    assert (ticket.kept, ticket.total) == (kept_count(0.777, total), total)
    settings = ticket.origin.settings
    assert settings["recipe"] == "digits:epochs=1,warmup_epochs=0.01"
    assert settings["recipe_revision"] == 1
    assert settings["levels"][-1] == ticket.kept  # type: ignore[index]
    assert settings["rewind"] == CATALOGUE[method].settings["rewind"]
    assert settings["exclude"] == "7.*"
    assert ticket.origin.evidence == {"dataset": "few", "examples": 300, "sha256": digits().fingerprint}
    assert (ticket.origin.method, ticket.origin.sparsity, ticket.origin.seed) == (method, 0.777, 3)
    assert not {"batch_norm", "regrowth"} & settings.keys()
    assert ticket.start is not None


@pytest.mark.parametrize("sparsity", [0.0, 1.0])
@pytest.mark.parametrize("method", ["lottery-ticket", "hybrid"])
def test_the_ends_of_the_range(method: str, sparsity: float) -> None:
    ticket = prune(method, sparsity=sparsity, recipe="digits:epochs=1")
    assert ticket.kept == (0 if sparsity else TOTAL)


def test_without_a_recipe_the_data_sets_own_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    import disbud.pruning.trained as trained

    monkeypatch.setattr(
        trained, "recipe_for", lambda name: disbud.Recipe(epochs=1) if name == "few" else None
    )
    assert prune("magnitude-after-training", recipe=None).origin.settings["recipe"].startswith("epochs=1")  # type: ignore[union-attr]


class Backwards(nn.Module):
    """Its layers are registered in reverse, and no trace can be made of it."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.first = nn.Linear(20, 10), nn.Linear(64, 20)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        out: Tensor = self.last(torch.relu(x) if x.sum() > -1e9 else x)
        return out


def test_layers_come_in_the_order_in_which_the_data_meets_them() -> None:
    ticket = disbud.prune(Backwards(), "hybrid", sparsity=0.5, data=digits(), recipe="digits:epochs=1")
    assert list(ticket.masks) == ["first.weight", "last.weight"]


def test_frozen_parameters_stay_frozen_and_as_they_were() -> None:
    model = network()
    model[1].weight.requires_grad_(False)
    ticket = disbud.prune(model, "magnitude-after-training", sparsity=0.5, data=digits(), recipe=RECIPE)
    assert torch.equal(started(ticket)["1.weight"], model[1].weight)
    assert not model[1].weight.requires_grad
    free = disbud.prune(network(), "magnitude-after-training", sparsity=0.5, data=digits(), recipe=RECIPE)
    assert free.start != ticket.start


def test_neither_wrappers_nor_the_callers_gradient_mode_matter() -> None:
    expected = prune("hybrid")
    for wrapped in (torch.compile(network()), nn.DataParallel(network())):
        found = disbud.prune(wrapped, "hybrid", sparsity=0.8, data=digits(), recipe=RECIPE, checkpoint=None)
        assert found == expected
        assert found.start == expected.start
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            again = prune("hybrid", seed=1)
    assert again == prune("hybrid", seed=1)


def test_a_method_of_ones_own_may_train() -> None:
    from unittest import mock

    from disbud.methods.trained import Found

    def twice(trainer: object, levels: list[object]) -> Found:
        """Train twice as long, prune once."""
        trained = trainer.train(trainer.train(trainer.initial, None), None)  # type: ignore[attr-defined]
        return Found(levels[-1](trained, None), trained)  # type: ignore[operator]

    with mock.patch.dict(CATALOGUE):
        disbud.method("twice", "trained twice", trains=True)(twice)
        ticket = prune("twice")
        model = network()
        for _ in range(2):
            disbud.train(model, digits(), recipe=RECIPE)
        assert same(ticket, largest(model.state_dict(), None, ticket.kept), state_of(model))
        disbud.method("none", "keeps all", trains=True)(
            lambda trainer, levels: Found(
                {n: torch.ones_like(m) > 0 for n, m in ticket.masks.items()}, trainer.initial
            )
        )
        with pytest.raises(
            DisbudError, match=r"none kept 2,216 weights of 1.weight, 5.weight, 7.weight, not 443"
        ):
            prune("none")


@pytest.mark.slow
def test_magnitude_says_more_after_training_than_before() -> None:
    """At 95 % by a wide margin, as Frankle et al. 2021 find on every network."""
    data, recipe = disbud.data.load("digits"), "digits:epochs=5"
    for seed in range(3):
        accuracy = {}
        for method in ("magnitude", "magnitude-after-training", "lottery-ticket"):
            model = build("lenet-300-100", input_shape=data.input_shape, seed=seed)
            more = {} if method == "magnitude" else {"data": data, "recipe": recipe}
            more |= {"rounds": 3} if method == "lottery-ticket" else {}
            ticket = disbud.prune(model, method, sparsity=0.95, seed=seed, **more)  # type: ignore[arg-type]
            accuracy[method] = disbud.train(model, data, ticket=ticket, recipe=recipe, seed=seed).accuracy
        assert accuracy["magnitude-after-training"] > accuracy["magnitude"] + 0.2
        assert accuracy["lottery-ticket"] > accuracy["magnitude"] + 0.2


@pytest.mark.slow
def test_a_lottery_ticket_needs_its_own_weights_more_than_others_do() -> None:
    """Its weights drawn anew cost it accuracy (Frankle & Carbin 2019, section 2)."""
    data, recipe, lost = disbud.data.load("digits"), "digits:epochs=5", 0.0
    for seed in range(2):
        model = build("lenet-300-100", input_shape=data.input_shape, seed=seed)
        asked = {"sparsity": 0.95, "seed": seed, "data": data, "recipe": recipe, "rounds": 4}
        ticket = disbud.prune(model, "lottery-ticket", **asked)  # type: ignore[arg-type]
        own, other = copy.deepcopy(model), build("lenet-300-100", input_shape=data.input_shape, seed=seed)
        state, redrawn = disbud.interventions.on_weights(
            other.state_dict(), ticket, "reinit", seed=seed,
            factory=lambda s: build("lenet-300-100", input_shape=data.input_shape, seed=s),
        )  # fmt: skip
        assert redrawn.start is None
        other.load_state_dict(state)
        lost += disbud.train(own, data, ticket=ticket, recipe=recipe, seed=seed).accuracy
        lost -= disbud.train(other, data, ticket=redrawn, recipe=recipe, seed=seed).accuracy
    assert lost / 2 > 0.05
