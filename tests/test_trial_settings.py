"""The settings of a trial's parts: what is misspelt is an error where the trial is made, and what is right passes."""

from __future__ import annotations

import dataclasses

import pytest

from disbud import DisbudError
from disbud.interventions.catalogue import CATALOGUE as INTERVENTIONS
from disbud.methods.catalogue import CATALOGUE as METHODS
from disbud.models.catalogue import CATALOGUE as MODELS
from disbud.study import Seeds, Trial, run

TRIAL = Trial("lenet-300-100", "digits", "digits:epochs=1", "snip", 0.9)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"model": "lenet-300-100:widht=2"}, "no setting of model 'lenet-300-100' called 'widht'; .*'width'"),
        ({"model": "lenet-300-100:2"}, "'2' should read key=value, as in lenet-300-100:"),
        ({"data": "digits:test_fractoin=0.1"}, "no setting of data set 'digits' called 'test_fractoin'"),
        ({"method": "synflow:round=20"}, "no setting of method 'synflow' called 'round'; .*'rounds'"),
        ({"method": "snip:temperature=20"}, "no setting of method 'snip' called 'temperature'"),
        ({"method": "snip:batches=3"}, "no setting of method 'snip' called 'batches'"),
        ({"method": "snip:20"}, "'20' should read key=value"),
        ({"method": "own_methods:seeded,pwoer=2"}, "own_methods:seeded called 'pwoer'; .*'power'"),
        ({"model": "own_methods:one_class,depth=3"}, "no setting of own_methods:one_class called 'depth'"),
        ({"intervention": "shuffle-degrees:round=3"}, "called 'round'; did you mean 'rounds'"),
        ({"intervention": "shuffle:rounds=3"}, "shuffle has no settings, but rounds was given"),
    ],
)
def test_a_setting_that_nothing_takes_is_refused(wrong: dict[str, str], says: str) -> None:
    with pytest.raises(DisbudError, match=says):
        dataclasses.replace(TRIAL, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "method",
    [
        "snip:rounds=2,schedule=linear,keep=lowest,batch_norm=eval,examples_per_class=2",
        "magnitude:densities=erk,granularity=channel",
        "random:densities=smart-ratio,linear_density=0.2",
        "own_methods:seeded,power=2",
    ],
)
def test_what_pruning_takes_passes_and_prunes(method: str) -> None:
    outcome = run(dataclasses.replace(TRIAL, method=method))
    assert outcome.ticket is not None


def test_every_setting_of_the_catalogues_passes() -> None:
    for catalogue, part in ((MODELS, "model"), (METHODS, "method"), (INTERVENTIONS, "intervention")):
        for name, entry in catalogue.items():
            for key in entry.settings:
                dataclasses.replace(TRIAL, **{part: f"{name}:{key}=1"})  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [2**63, -(2**63), 2**70, 1.5, True, "1"])
def test_what_is_no_seed_is_refused(seed: int) -> None:
    with pytest.raises(DisbudError, match="is no seed; take a whole number below"):
        Seeds.all(seed)
