"""The evidence a data-driven score looks at: batches as the user gave them, read once a round, counted and hashed."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from disbud.errors import DisbudError
from disbud.origin import Json

Loss = Callable[[nn.Module, object], Tensor]
Forward = Callable[..., object]

_PATIENCE = 50  # classes met late: reading stops when so many times the examples wanted went by with nothing new


@dataclass
class Evidence:
    """Batches for scoring: (x, y) data yields the first `examples_per_class` of each class, other data all of it.

    A loader is iterated anew each round, so one that shuffles shows other batches; a one-shot iterator is kept.
    """

    source: Iterable[object]
    examples_per_class: int | None
    batch_size: int
    rounds: int = 1
    examples: int = 0
    batches: int = 0
    _digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def __post_init__(self) -> None:
        if not isinstance(self.source, Iterable) or isinstance(self.source, str | Tensor | dict):
            raise DisbudError(
                f"batches is an iterable of batches (a list, a DataLoader), not a {type(self.source).__name__}; "
                "for one batch write batches=[(x, y)]"
            )
        if iter(self.source) is self.source and self.rounds > 1:
            self.source = list(self.source)

    def read(self) -> Iterator[object]:
        """The batches of one round."""
        found = False
        for batch in self._selected():
            found = True
            self.batches += 1
            self.examples += size_of(batch) or 0
            self._note(batch)
            yield batch
        if not found:
            raise DisbudError("batches is empty: a data-driven score needs at least one batch")

    def summary(self) -> dict[str, Json]:
        """How much was read, and the hash of its content."""
        return {"batches": self.batches, "examples": self.examples, "sha256": self._digest.hexdigest()}

    def _note(self, batch: object) -> None:
        for leaf in tree_leaves(batch):
            if isinstance(leaf, Tensor):
                self._digest.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
                if leaf.device.type != "meta":
                    self._digest.update(leaf.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
            else:
                self._digest.update(repr(leaf).encode())

    def _selected(self) -> Iterator[object]:
        batches = iter(self.source)
        first = next(batches, None)
        if first is None:
            return
        if self.examples_per_class is None or not has_class_labels(first):
            yield first
            yield from batches
            return
        yield from self._first_of_each_class(first, batches)

    def _first_of_each_class(self, first: object, rest: Iterator[object]) -> Iterator[object]:
        assert self.examples_per_class is not None
        counts: dict[int, int] = {}
        inputs: list[Tensor] = []
        labels: list[Tensor] = []
        idle = 0
        for batch in chain([first], rest):
            if not has_class_labels(batch):
                raise DisbudError("some batches are (x, y) pairs with class labels and others are not")
            x, y = batch
            take = []
            for i, label in enumerate(y.tolist()):
                if counts.get(label, 0) < self.examples_per_class:
                    counts[label] = counts.get(label, 0) + 1
                    take.append(i)
            if take:
                inputs.append(x[take])
                labels.append(y[take])
            idle = 0 if take else idle + len(y)
            if idle >= _PATIENCE * self.examples_per_class * len(counts):
                break
        short = [label for label, count in counts.items() if count < self.examples_per_class]
        if short:
            warnings.warn(
                f"{len(short)} of {len(counts)} classes have fewer than {self.examples_per_class} examples "
                f"(class {short[0]} has {counts[short[0]]}); all of theirs are used",
                stacklevel=2,
            )
        yield from zip(
            torch.cat(inputs).split(self.batch_size), torch.cat(labels).split(self.batch_size), strict=True
        )


def has_class_labels(batch: object) -> bool:
    """Whether a batch is a pair of an input tensor and one whole-number label for each example."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        return False
    x, y = batch
    return (
        isinstance(x, Tensor)
        and isinstance(y, Tensor)
        and y.dim() == 1
        and not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)
        and len(x) == len(y)
    )


def size_of(batch: object) -> int | None:
    """The number of examples in a batch, where its tensors agree on one."""
    sizes = {leaf.shape[0] for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()}
    return sizes.pop() if len(sizes) == 1 else None


def cross_entropy(model: Forward, batch: object) -> Tensor:
    """The loss of (x, y) batches when none is given: mean cross-entropy."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise DisbudError(
            f"batches of type {type(batch).__name__} need a loss: "
            "loss=lambda model, batch: ..., which returns the mean loss of the batch"
        )
    x, y = batch
    if not isinstance(y, Tensor) or y.is_floating_point():
        raise DisbudError("targets that are not class labels need a loss: loss=lambda model, batch: ...")
    output = model(x)
    if not isinstance(output, Tensor):
        raise DisbudError(f"the model returns a {type(output).__name__}; give loss=lambda model, batch: ...")
    classes = output.shape[1] if output.dim() > 1 else 0
    if output.dim() < 2 or not (0 <= int(y.min()) and int(y.max()) < classes):
        raise DisbudError(
            f"labels from {int(y.min())} to {int(y.max())} do not fit an output of shape {tuple(output.shape)}"
        )
    return functional.cross_entropy(output, y)
