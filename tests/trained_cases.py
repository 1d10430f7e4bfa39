"""A small network and a small data set to train on, and pruning after training written plainly, as an oracle."""

from __future__ import annotations

import copy
import math
from fractions import Fraction

import torch
from torch import Tensor, nn

import disbud
from disbud.data import Dataset, load
from disbud.seeds import global_streams

State = dict[str, Tensor]
RECIPE = "digits:epochs=3,lr=0.05"
STEPS = 5  # of 64 images each, in an epoch of 300


def digits(count: int = 300) -> Dataset:
    """The first of the digits."""
    whole = load("digits")
    some = torch.arange(count)
    return Dataset.of("few", train=whole.train.select(some), test=whole.test, class_names=whole.class_names)


def network(seed: int = 0, *, activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    """Buffers and dropout included, since both can go wrong."""
    with global_streams(seed, "init"):
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), activation(), nn.Dropout(0.1),
            nn.Linear(24, 20), activation(), nn.Linear(20, 10),
        )  # fmt: skip


NAMES = ("1.weight", "5.weight", "7.weight")
TOTAL = 64 * 24 + 24 * 20 + 20 * 10


def state_of(model: nn.Module) -> State:
    return copy.deepcopy(model.state_dict())


def bits(state: State) -> dict[str, bytes]:
    return {name: state[name].numpy().tobytes() for name in sorted(state)}


def started(ticket: disbud.Ticket) -> State:
    """The weights that a ticket starts from, on a network that had others."""
    model = network(seed=99)
    ticket.start_(model)
    return state_of(model)


def half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def counts(target: int, total: int, *, per_level: str = "0.2") -> list[int]:
    """How many weights are left after each level, a fraction of those left falling away."""
    found: list[int] = []
    while not found or found[-1] > target:
        found.append(max(target, half_up((1 - Fraction(per_level)) ** (len(found) + 1) * total)))
    return found


def largest(state: State, masks: State | None, count: int, names: tuple[str, ...] = NAMES) -> State:
    """Masks of the largest abs(w) over these layers among those in the masks; of equal ones the first."""
    flat = torch.cat([state[name].abs().flatten() for name in names])
    if masks is not None:
        flat = flat.where(torch.cat([masks[name].flatten() for name in names]), torch.tensor(-1.0))
    order = flat.argsort(descending=True, stable=True)[:count]
    chosen = torch.zeros(len(flat), dtype=torch.bool)
    chosen[order] = True
    sizes = [state[name].numel() for name in names]
    return {name: part.view(state[name].shape) for name, part in zip(names, chosen.split(sizes), strict=True)}


def iterated(
    model: nn.Module,
    data: Dataset,
    kept: list[int],
    *,
    rewound: State | None,
    recipe: str = RECIPE,
    seed: int = 0,
) -> tuple[State, State]:
    """Iterative magnitude pruning in ten lines: masks, and the weights to start from."""
    model, masks = copy.deepcopy(model), None
    weights = state_of(model)
    for count in kept:
        model.load_state_dict(weights)
        ticket = None if masks is None else disbud.Ticket.from_masks(masks)
        disbud.train(model, data, ticket=ticket, recipe=recipe, seed=seed)
        masks = largest(model.state_dict(), masks, count)
        weights = state_of(model) if rewound is None else rewound
    assert masks is not None
    return masks, weights


def dense_states(model: nn.Module, data: Dataset, *, recipe: str = RECIPE, seed: int = 0) -> list[State]:
    """The weights of the dense run before each of its steps, and those at its end."""
    model, seen = copy.deepcopy(model), list[State]()

    def note(module: nn.Module, inputs: object) -> None:
        if module.training:
            seen.append(state_of(module))

    handle = model.register_forward_pre_hook(note)
    disbud.train(model, data, recipe=recipe, seed=seed)
    handle.remove()
    return [*seen, state_of(model)]
