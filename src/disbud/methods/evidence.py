"""The evidence a data-driven score looks at: batches as the user gave them, read once a round, counted and hashed."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, pairwise

import torch
from torch import Tensor

from disbud.batches import has_class_labels, size_of
from disbud.errors import DisbudError
from disbud.isolation import leaves
from disbud.origin import Json

# Reading stops when nothing new came for so many changes of label a class: another class would have been met by then.
# Data sorted by class hardly changes its label, so it is read on; a stream without an end stops at the second bound.
_PATIENCE = 100
_ENDLESS = 100_000


class TooFewExamples(UserWarning):
    """Some class of the data has fewer examples than a method asks of each."""


@dataclass
class Evidence:
    """Batches for scoring: (x, y) data yields the first `examples_per_class` of each class, other data all of it.

    A loader is iterated anew each round, so one that shuffles shows other batches; of a one-shot iterator, what the
    first round used is kept.
    """

    source: Iterable[object]
    examples_per_class: int | None
    batch_size: int
    rounds: int = 1
    examples: int = 0
    batches: int = 0
    _kept: list[object] | None = None
    _digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def __post_init__(self) -> None:
        if isinstance(self.source, str | Tensor | dict) or not isinstance(self.source, Iterable):
            raise DisbudError(
                f"batches is an iterable of batches (a list, a DataLoader), not a {type(self.source).__name__}; "
                "for one batch write batches=[(x, y)]"
            )
        if has_class_labels(self.source):
            raise DisbudError(
                "batches is one (x, y) pair; it should be an iterable of them: batches=[(x, y)]"
            )
        if self.examples_per_class is not None:
            _check_positive("examples_per_class", self.examples_per_class)
        _check_positive("batch_size", self.batch_size)

    def read(self) -> Iterator[object]:
        """The batches of one round; those without an example are passed over."""
        # An iterator can be read once. To look before the read would draw from the random streams of a loader.
        keep: list[object] | None = [] if isinstance(self.source, Iterator) and self.rounds != 1 else None
        found = False
        try:
            for batch in self._selected() if self._kept is None else self._kept:
                size = size_of(batch)
                if size == 0:
                    continue
                found = True
                self.batches += 1
                self.examples += size or 0
                self._note(batch)
                if keep is not None:
                    keep.append(batch)
                yield batch
        finally:  # also where a method has enough before the end
            self._kept = self._kept or keep
        if not found:
            raise DisbudError("batches is empty: a data-driven score needs at least one batch")

    def summary(self) -> dict[str, Json]:
        """How much was read, and the hash of its content."""
        return {"batches": self.batches, "examples": self.examples, "sha256": self._digest.hexdigest()}

    def _note(self, batch: object) -> None:
        for leaf in leaves(batch):
            if isinstance(leaf, Tensor):
                self._digest.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
                if leaf.device.type != "meta":
                    flat = leaf.detach().cpu().resolve_conj().resolve_neg().contiguous().view(-1)
                    self._digest.update(flat.view(torch.uint8).numpy().data)
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
        every = chain([first], batches)
        chosen = list(_first_of_each_class(every, self.examples_per_class, ends=_has_length(self.source)))
        if not chosen:
            return
        inputs, labels = (list(column) for column in zip(*chosen, strict=True))
        if len({(x.shape[1:], x.dtype) for x in inputs}) > 1:
            raise DisbudError(
                "inputs of several shapes cannot be regrouped into batches; examples_per_class=None takes every batch "
                "as it comes"
            )
        yield from zip(
            torch.cat(inputs).split(self.batch_size), torch.cat(labels).split(self.batch_size), strict=True
        )


def _first_of_each_class(
    batches: Iterator[object], wanted: int, *, ends: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each batch the examples that are among the first so many of their class."""
    counts: dict[int, int] = {}
    idle = changes = 0
    last: list[int] = []
    for batch in batches:
        if not has_class_labels(batch):
            raise DisbudError("some batches are (x, y) pairs with class labels and others are not")
        x, y = batch
        if x.is_meta or y.is_meta:
            raise DisbudError("a batch on the meta device holds no values to score with")
        classes, take = y.tolist(), []
        for i, label in enumerate(classes):
            counts[label] = counts.get(label, 0) + 1
            if counts[label] <= wanted:
                take.append(i)
        since = last + classes
        if take:
            yield x[take], y[take]
            idle, changes, since = 0, 0, classes[take[-1] :]
        idle += len(since)
        changes += sum(a != b for a, b in pairwise(since))
        last = classes[-1:]
        if changes >= _PATIENCE * max(1, len(counts)) or (idle >= _ENDLESS and not ends):
            break
    short = [label for label, count in counts.items() if count < wanted]
    if short:
        warnings.warn(
            f"{len(short)} of {len(counts)} classes have fewer than {wanted} examples "
            f"(class {short[0]} has {counts[short[0]]}); all of theirs are used",
            TooFewExamples,
            stacklevel=2,
        )


def _has_length(source: object) -> bool:
    try:
        len(source)  # type: ignore[arg-type]
    except TypeError:  # also a loader over data without a length
        return False
    return True


def _check_positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        hint = "; None takes every batch as it comes" if name == "examples_per_class" else ""
        raise DisbudError(f"{name} is a whole number of at least 1, not {value!r}{hint}")
