"""The ticket of a trial: pruning, made once for all trials that need it, and the intervention on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from disbud.artifacts import Json, get_or_make
from disbud.catalogue import find, parse, resolve
from disbud.data import Dataset
from disbud.data.dataset import Split
from disbud.errors import DisbudError
from disbud.interventions import on_mask, on_weights
from disbud.interventions.catalogue import CATALOGUE as INTERVENTIONS
from disbud.methods.catalogue import CATALOGUE as METHODS
from disbud.methods.catalogue import Method
from disbud.models import build, narrowed
from disbud.pruning import own_ticket, prune
from disbud.study.environments import environment
from disbud.study.trial import SMALL_DENSE, Trial
from disbud.ticket import Ticket

if TYPE_CHECKING:
    from torch import nn

REVISION = 1  # of what is kept here: another one prunes anew
_WORTH_KEEPING = 1_000_000  # weights times rounds: what takes less is made as fast as it is read


def network(trial: Trial, dataset: Dataset, *, seed: int | None = None) -> nn.Module:
    """The trial's network with its first weights, or with those of another seed."""
    model = trial.model
    if trial.method == SMALL_DENSE:
        assert trial.sparsity is not None
        model = _narrowed(model, 1 - trial.sparsity, dataset.classes, dataset.input_shape)
    return build(
        model,
        classes=dataset.classes,
        input_shape=dataset.input_shape,
        seed=trial.seeds.init if seed is None else seed,
    )


@lru_cache(maxsize=128)
def _narrowed(model: str, density: float, classes: int, input_shape: tuple[int, ...]) -> str:
    return narrowed(model, density, classes=classes, input_shape=input_shape)


def ticket_of(trial: Trial, model: nn.Module, dataset: Dataset) -> Ticket:
    """Prune, and intervene: on the data before, on the mask or on the model's weights after."""
    seed = trial.seeds.mask
    altered = None if trial.intervention is None else parse(trial.intervention)
    acts_on = None if altered is None else find("intervention", altered.name, INTERVENTIONS).acts_on
    looked_at = corrupted(dataset, str(trial.intervention), seed=seed) if acts_on == "data" else dataset
    ticket = _pruned(trial, model, looked_at)
    if acts_on == "mask":
        return on_mask(ticket, str(trial.intervention), seed=seed, model=model, example=dataset.example())
    if acts_on == "weights":
        ticket.start_(model)
        state, ticket = on_weights(
            model.state_dict(), ticket, str(trial.intervention), seed=seed, model=model,
            factory=lambda other: network(trial, dataset, seed=other),
        )  # fmt: skip
        model.load_state_dict(state)
    return ticket


def alters_weights(trial: Trial) -> bool:
    """Whether the trial's intervention gives the network other weights to train from."""
    if trial.intervention is None:
        return False
    return find("intervention", parse(trial.intervention).name, INTERVENTIONS).acts_on == "weights"


def _pruned(trial: Trial, model: nn.Module, dataset: Dataset) -> Ticket:
    """The ticket before an intervention on it; one that takes long is kept for the other trials that start from it."""
    spec, seed = parse(trial.method), trial.seeds.mask
    assert trial.sparsity is not None
    if spec.name not in METHODS:  # what a function of one's own calls may change: its tickets are not kept
        function = resolve(f"{spec.name}:{spec.argument}")
        batches = dataset.batches(seed=seed)
        return own_ticket(function, model, batches, sparsity=trial.sparsity, seed=seed, **spec.settings)
    method = METHODS[spec.name]
    if not _takes_long(method, spec.settings.get("rounds"), model):
        return _made(trial, method, model, dataset)
    key = _key(trial, method, dataset)
    folder = get_or_make(key, lambda folder: _made(trial, method, model, dataset).save(_file(folder)))
    return _self_contained(Ticket.load(_file(folder)))


def _takes_long(method: Method, rounds: object, model: nn.Module) -> bool:
    if method.trains or method.construction:
        return True
    weights = sum(parameter.numel() for parameter in model.parameters())
    return weights * (rounds if isinstance(rounds, int) else method.rounds) >= _WORTH_KEEPING


def _made(trial: Trial, method: Method, model: nn.Module, dataset: Dataset) -> Ticket:
    seed = trial.seeds.mask
    evidence: dict[str, object] = {}
    if method.trains:
        evidence = {"data": dataset, "recipe": trial.recipe}
    elif method.needs == "batches":
        evidence = {"batches": dataset.batches(seed=seed)}
    evidence |= parse(trial.method).settings
    return prune(
        model, method.name, sparsity=trial.sparsity, example=dataset.example(), seed=seed, **evidence,  # type: ignore[arg-type]
    )  # fmt: skip


def _key(trial: Trial, method: Method, dataset: Dataset) -> Mapping[str, Json]:
    """All that the ticket depends on; `dataset` is what pruning looks at, which an intervention may have altered."""
    described = trial.described()
    return {
        "made": "a ticket",
        "revision": REVISION,
        "model": described["model"],
        "init": trial.seeds.init,
        "method": described["method"],
        "sparsity": trial.sparsity,
        "mask": trial.seeds.mask,
        "data": [dataset.name, dataset.fingerprint],
        "recipe": described["recipe"] if method.trains else None,
        "environment": {name: value for name, value in environment().items() if name != "host"},
    }


def _file(folder: Path) -> Path:
    return folder / "ticket.safetensors"


def _self_contained(ticket: Ticket) -> Ticket:
    """With the weights it starts from in memory, so that it can go to another machine."""
    start = ticket.start
    if start is None:
        return ticket
    content = Path(start.folder, start.file).read_bytes()
    return replace(ticket, start=replace(start, content=content))


def corrupted(dataset: Dataset, intervention: str, *, seed: int) -> Dataset:
    """The data set with its training images and labels altered, to prune with; the test set stays.

    >>> import disbud, torch
    >>> from disbud.study.tickets import corrupted
    >>> digits = disbud.data.load("digits")
    >>> other = corrupted(digits, "random-labels", seed=1)
    >>> torch.equal(other.train.images, digits.train.images), torch.equal(other.train.labels, digits.train.labels)
    (True, False)
    """
    spec = parse(intervention)
    entry = find("intervention", spec.name, INTERVENTIONS)
    if entry.acts_on != "data":
        raise DisbudError(f"{entry.name} changes the {entry.acts_on}, not the data")
    function = entry.load()
    settings = {**entry.settings, **spec.settings}
    images, labels = dataset.train.images, dataset.train.labels
    if entry.name == "noise":  # is of real numbers; a data set holds bytes
        images, labels = function(images.float(), labels, seed, **settings)  # type: ignore[misc]
        images = images.round().clamp(0, 255).to(torch.uint8)
    else:
        images, labels = function(images, labels, seed, **settings)  # type: ignore[misc]
    return replace(dataset, name=f"{dataset.name} ({intervention})", train=Split(images, labels))
