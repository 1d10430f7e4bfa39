"""Methods that train before they prune: lottery tickets and their kin, which other methods are measured against."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from disbud.catalogue import Value
from disbud.errors import DisbudError
from disbud.origin import Json

Weights = Mapping[str, Tensor]
Masks = dict[str, Tensor]


class Trainer(Protocol):
    """What such a method is handed to train with. Weights are all parameters and buffers of the model, by name."""

    @property
    def initial(self) -> Weights:
        """The weights before any training."""

    def train(self, weights: Weights, masks: Masks | None) -> Weights:
        """What training makes of these weights on the masks, by the whole recipe; with None, dense."""

    def rewound(self, point: Value) -> Weights:
        """The weights of the dense run at a point of it: "init", a number of epochs, or "500 steps"."""

    def epochs(self) -> Iterator[Weights]:
        """The weights of the dense run after each of its epochs; only those that are asked for are computed."""


class Level(Protocol):
    """One pruning on the way to the sparsity asked."""

    def __call__(self, weights: Weights, masks: Masks | None) -> Masks:
        """Of the weights still kept (None: all), masks of the largest, as many as this level keeps."""


@dataclass(frozen=True)
class Found:
    """What such a method comes to: masks, the weights to start from under them, and what to note in the origin."""

    masks: Masks
    start: Weights
    notes: Mapping[str, Json] = field(default_factory=dict)


def iterated(trainer: Trainer, levels: Sequence[Level], *, rewind: Value) -> Found:
    """Train, prune, rewind, until the last level is done (Frankle & Carbin 2019; Frankle et al. 2020).

    With rewind="none" the trained weights are kept, and the schedule of the learning rate alone starts anew (Renda et
    al. 2020). With one level this is pruning after training.
    """
    start = None if rewind == "none" else trainer.rewound(rewind)
    weights, masks = trainer.initial, None
    for level in levels:
        trained = trainer.train(weights, masks)
        masks = level(trained, masks)
        weights = trained if start is None else start
    assert masks is not None
    return Found(masks, weights)


def early_bird(
    trainer: Trainer, levels: Sequence[Level], *, rewind: Value, threshold: float, epochs: int
) -> Found:
    """Train until the mask settles (You et al. 2020, Algorithm 1, here on single weights).

    After each epoch a mask is drawn; the first that differs from each of those of the epochs before it, so many epochs
    counting itself, in less than a fraction `threshold` of its positions is the ticket.
    """
    _check_early_bird(levels, threshold, epochs)
    (level,) = levels
    before: deque[Masks] = deque(maxlen=epochs - 1)
    number, farthest = 0, 1.0
    weights, masks = trainer.initial, Masks()
    for number, weights in enumerate(trainer.epochs(), start=1):
        masks = level(weights, None)
        if number == 1:
            _warn_if_any_would_do(masks, threshold, epochs)
        farthest = max((distance(masks, other) for other in before), default=1.0)
        if len(before) == epochs - 1 and farthest < threshold:
            break
        before.append(masks)
    else:
        warnings.warn(
            f"early-bird: the mask did not settle within the recipe's {number} epochs (masks of {epochs} epochs are "
            f"compared, and the last distance is {farthest:.3g}); the ticket is that of the last epoch",
            stacklevel=4,
        )
    start = weights if rewind == "none" else trainer.rewound(rewind)
    return Found(masks, start, {"epoch": number, "distance": farthest})


def distance(one: Masks, other: Masks) -> float:
    """The fraction of positions in which two masks differ: their Hamming distance, from 0 to 1.

    >>> import torch
    >>> distance({"w": torch.tensor([True, False])}, {"w": torch.tensor([True, True])})
    0.5
    """
    differing = sum(int(torch.count_nonzero(mask != other[name])) for name, mask in one.items())
    return differing / max(1, sum(mask.numel() for mask in one.values()))


def _check_early_bird(levels: Sequence[Level], threshold: object, epochs: object) -> None:
    if len(levels) != 1:
        raise DisbudError(f"early-bird prunes once, so it has no {len(levels)} rounds; leave them out")
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 < threshold <= 1:
        raise DisbudError(
            f"early-bird: threshold is a fraction of positions above 0 and up to 1, not {threshold!r}"
        )
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 2:
        raise DisbudError(f"early-bird: epochs is how many masks are compared, at least 2, not {epochs!r}")


def _warn_if_any_would_do(masks: Masks, threshold: float, epochs: int) -> None:
    kept = sum(int(mask.sum()) for mask in masks.values())
    total = sum(mask.numel() for mask in masks.values())
    most = 2 * min(kept, total - kept) / max(1, total)
    if most < threshold:
        warnings.warn(
            f"early-bird: masks that keep {kept / total:.2%} differ in {most:.2%} of all positions at most, so any are "
            f"nearer than threshold={threshold:g} and the ticket is that of epoch {epochs}; give a threshold below "
            f"{most:.3g}",
            stacklevel=5,
        )
