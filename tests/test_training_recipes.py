"""Recipes: what they say of the papers, how they are read, what they refuse."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from disbud import DisbudError
from disbud.data import CATALOGUE, POLICIES
from disbud.training import RECIPES, Recipe, parse_recipe, recipe_for
from disbud.training.recipes import AUGMENTATIONS


def test_the_recipe_of_su_is_the_published_one() -> None:
    published = Recipe(
        epochs=160,
        batch_size=64,
        optimizer="sgd",
        lr=0.1,
        momentum=0.9,
        nesterov=False,
        weight_decay=1e-4,
        schedule="step",
        milestones=(80, 120),
        gamma=0.1,
        augment="crop-flip",
    )
    assert RECIPES["su2020"] == published
    rates = [
        published.learning_rate(step=epoch * 782, steps_per_epoch=782) for epoch in (0, 79, 80, 119, 120, 159)
    ]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rel=1e-12)


def test_every_recipe_says_what_it_is_and_reads_back_from_its_text() -> None:
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert recipe.summary
        assert str(recipe) == name
        assert parse_recipe(name) == recipe


settings = st.fixed_dictionaries(
    {},
    optional={
        "epochs": st.integers(1, 300),
        "batch_size": st.integers(1, 1024),
        "lr": st.floats(1e-6, 10),
        "weight_decay": st.sampled_from([0.0, 1e-4, 5e-05, 0.123456789]),
        "clip_norm": st.none() | st.floats(0.01, 10),
        "channels_last": st.booleans(),
        "precision": st.sampled_from(["fp32", "bf16"]),
        "augment": st.sampled_from(["none", "flip", "crop-flip"]),
    },
)


@given(st.sampled_from(sorted(RECIPES)), settings)
def test_the_text_of_a_changed_recipe_reads_back_as_it(name: str, changes: dict[str, object]) -> None:
    changed = RECIPES[name].changed(**changes)
    assert parse_recipe(str(changed)) == changed
    assert json.loads(json.dumps(changed.to_json(), allow_nan=False)) == changed.to_json()


def test_a_shorter_run_keeps_its_shape() -> None:
    assert parse_recipe("su2020:epochs=10,lr=0.05") == dataclasses.replace(
        RECIPES["su2020"], epochs=10, lr=0.05, milestones=(5.0, 7.5)
    )
    assert parse_recipe("su2020:epochs=200,milestones=100+150").milestones == (100.0, 150.0)
    assert RECIPES["digits"].changed(epochs=50).warmup_epochs == 0.5
    assert parse_recipe("su2020:schedule=cosine").milestones == ()
    assert RECIPES["digits"].nesterov
    assert not parse_recipe("digits:optimizer=adam").nesterov


def test_identity_depends_on_settings_and_on_nothing_else() -> None:
    assert Recipe(lr=1) == Recipe(lr=1.0)
    assert json.dumps(Recipe(lr=1, milestones=(10,), schedule="step").to_json()) == json.dumps(
        Recipe(lr=1.0, milestones=(10.0,), schedule="step", name="mine").to_json()
    )
    for change in ({"lr": 0.2}, {"revision": 2}, {"nesterov": True}, {"channels_last": True}):
        assert dataclasses.replace(Recipe(), **change).to_json() != Recipe().to_json()  # type: ignore[arg-type]


@pytest.mark.parametrize("warmup", [0.0, 2.0])
def test_cosine_and_warm_up_follow_torchs_own_schedulers(warmup: float) -> None:
    recipe, steps = Recipe(epochs=6, lr=0.3, schedule="cosine", warmup_epochs=warmup), 7
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    rising = int(warmup * steps)
    schedulers = [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6 * steps - rising)]
    if rising:
        schedulers.insert(0, torch.optim.lr_scheduler.LinearLR(optimizer, 1 / rising, total_iters=rising - 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR calls step() in a way that torch itself deprecates
        scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, schedulers, [rising] if rising else [])
        for step in range(6 * steps):
            mine = recipe.learning_rate(step=step, steps_per_epoch=steps)
            assert mine == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), step
            optimizer.step()
            scheduler.step()


def test_a_constant_schedule_stays() -> None:
    assert {Recipe(schedule="constant").learning_rate(step=s, steps_per_epoch=3) for s in range(90)} == {0.1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("su202", "there is no recipe 'su202'; did you mean 'su2020'"),
        (
            "su2020:epoch=3",
            "recipe 'su2020:epoch=3': there is no setting of a recipe called 'epoch'; did you mean 'epochs'",
        ),
        ("su2020:revision=3", "no setting of a recipe called 'revision'"),
        ("su2020:fast", "'fast' should read key=value, as in su2020:epochs=10"),
        ("su2020:lr=0", "lr must be a number above 0, not 0"),
        ("su2020:lr=fast", "lr must be a number above 0, not 'fast'"),
        ("su2020:lr=NaN", "lr must be a number above 0, not 'NaN'"),
        ("su2020:epochs=0", "epochs is a whole number of at least 1, not 0"),
        ("su2020:epochs=2.5", "epochs is a whole number of at least 1, not 2.5"),
        ("su2020:batch_size=true", "batch_size is a whole number of at least 1, not True"),
        ("su2020:momentum=1", "momentum must be a number at least 0 and below 1, not 1"),
        ("su2020:weight_decay=-1", "weight_decay must be a number at least 0, not -1"),
        ("su2020:label_smoothing=1", "label_smoothing must be a number at least 0 and below 1"),
        ("su2020:warmup_epochs=160", "warmup_epochs must be a number at least 0 and below 160"),
        ("su2020:clip_norm=0", "clip_norm must be a number above 0, not 0"),
        ("su2020:milestones=80+160", "milestone 160 is never reached: the recipe has 160 epochs"),
        ("su2020:milestones=120+80", "milestones must rise from one to the next, not 120+80"),
        ("su2020:milestones=soon", "a milestone must be a number above 0, not 'soon'"),
        ("digits:milestones=5", "milestones belong to schedule=step, and the schedule is 'cosine'"),
        ("digits:schedule=step", "schedule=step needs milestones, as in milestones=80+120"),
        ("su2020:schedule=cosin", "there is no schedule 'cosin'; did you mean 'cosine'"),
        ("su2020:optimizer=adamW", "there is no optimizer 'adamW'; did you mean 'adam' or 'adamw'"),
        ("su2020:augment=crop", "there is no augment 'crop'; did you mean 'crop-flip'"),
        ("su2020:precision=fp16", "there is no precision 'fp16'; did you mean"),
        ("su2020:nesterov=yes", "nesterov is true or false, not 'yes'"),
        ("su2020:nesterov=true,momentum=0", "nesterov=true needs optimizer=sgd with a momentum above 0"),
        ("digits:optimizer=adam,nesterov=true", "nesterov=true needs optimizer=sgd with a momentum above 0"),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str) -> None:
    with pytest.raises(DisbudError) as error:
        parse_recipe(text)
    assert message in str(error.value)


def test_every_data_set_has_a_recipe() -> None:
    for name in CATALOGUE:
        assert isinstance(recipe_for(name), Recipe)
    assert recipe_for("cifar10").epochs == 160
    assert recipe_for("digits (validation)") is RECIPES["digits"]
    assert recipe_for("shapes:size=16") is recipe_for("my own") is RECIPES["shapes"]


def test_recipes_offer_the_augmentations_that_there_are() -> None:
    assert AUGMENTATIONS == POLICIES


def test_recipes_are_read_without_torch() -> None:
    code = "import sys; from disbud.training import Result, parse_recipe; parse_recipe('su2020'); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "disbud.training.recipes" in loaded
    assert "torch" not in loaded
