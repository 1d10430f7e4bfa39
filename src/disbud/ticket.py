"""The ticket: which weights of a model stay, and where that choice came from."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch

from disbud.errors import TicketError
from disbud.origin import Origin, Start
from disbud.parameters import canonical, fingerprint, parameters

if TYPE_CHECKING:
    import os

    from torch import Tensor, nn


@dataclass(frozen=True)
class LayerRow:
    """What a ticket keeps of one layer; rows and columns are slices along the weight's first and second axis."""

    name: str
    shape: tuple[int, ...]
    kept: int
    total: int
    empty_rows: int
    empty_columns: int

    @property
    def density(self) -> float:
        """The fraction of the layer's weights that is kept."""
        return self.kept / self.total if self.total else 1.0


@dataclass(frozen=True, eq=False)
class Ticket:
    """Which weights of a named model stay: one bool mask per parameter name, True where the weight is kept.

    Two tickets are equal when names, shapes and bits are; their origins may differ.

    >>> import disbud, torch
    >>> model = torch.nn.Linear(4, 2, bias=False)
    >>> ticket = disbud.Ticket.from_masks({"weight": torch.tensor([[1, 0, 0, 0], [1, 0, 1, 0]])}, model=model)
    >>> ticket.kept, ticket.sparsity
    (3, 0.625)
    >>> (ticket & ~ticket).kept
    0
    """

    masks: Mapping[str, Tensor]
    origin: Origin = field(default_factory=lambda: Origin("given"))
    start: Start | None = None

    def __post_init__(self) -> None:
        masks: dict[str, Tensor] = {}
        for name, mask in self.masks.items():
            if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool:
                got = mask.dtype if isinstance(mask, torch.Tensor) else type(mask).__name__
                raise TicketError(f"the mask of {name!r} must be a tensor of torch.bool, not {got}")
            if canonical(name) in masks:
                raise TicketError(f"two masks are called {canonical(name)!r} once wrappers are taken off")
            masks[canonical(name)] = mask.detach().cpu()
        if not masks:
            raise TicketError("a ticket needs a mask for at least one parameter; none was given")
        object.__setattr__(self, "masks", MappingProxyType(masks))

    @staticmethod
    def from_masks(
        masks: Mapping[str, Tensor], *, model: nn.Module | None = None, origin: Origin | None = None
    ) -> Ticket:
        """A ticket from masks of one's own: bools, or numbers that are 0 (removed) or 1 (kept)."""
        copies = {name: _as_bool(name, mask) for name, mask in masks.items()}
        origin = origin or Origin("given")
        if model is not None:
            origin = replace(origin, fingerprint=fingerprint(model))
        ticket = Ticket(copies, origin)
        if model is not None:
            ticket.check(model)
        return ticket

    def to_masks(self) -> dict[str, Tensor]:
        """Copies of the masks, by parameter name."""
        return {name: mask.clone() for name, mask in self.masks.items()}

    # Counts

    @cached_property
    def kept(self) -> int:
        """How many weights are kept."""
        return sum(row.kept for row in self.layers)

    @cached_property
    def total(self) -> int:
        """How many weights the masks cover."""
        return sum(row.total for row in self.layers)

    @property
    def density(self) -> float:
        """The fraction of the weights that is kept."""
        return self.kept / self.total if self.total else 1.0

    @property
    def sparsity(self) -> float:
        """The fraction of the weights that is removed."""
        return 1 - self.kept / self.total if self.total else 0.0

    def densities(self) -> dict[str, float]:
        """The density of each layer, by parameter name."""
        return {row.name: row.density for row in self.layers}

    @cached_property
    def layers(self) -> tuple[LayerRow, ...]:
        """One row a layer: shape, counts, and slices of the weight that keep nothing."""
        return tuple(_row(name, mask) for name, mask in self.masks.items())

    @property
    def empty_layers(self) -> tuple[str, ...]:
        """The layers that keep no weight at all: nothing passes through them."""
        return tuple(row.name for row in self.layers if row.total and not row.kept)

    # Values

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ticket):
            return NotImplemented
        return self.masks.keys() == other.masks.keys() and all(
            torch.equal(mask, other.masks[name]) for name, mask in self.masks.items()
        )

    def __hash__(self) -> int:
        return hash(frozenset((row.name, row.shape, row.kept) for row in self.layers))

    def __and__(self, other: Ticket) -> Ticket:
        return self._joined(other, "and", torch.logical_and)

    def __or__(self, other: Ticket) -> Ticket:
        return self._joined(other, "or", torch.logical_or)

    def __invert__(self) -> Ticket:
        origin = Origin("not", parents=(self.origin,), fingerprint=self.origin.fingerprint)
        return Ticket({name: ~mask for name, mask in self.masks.items()}, origin, self.start)

    def __reduce__(self) -> tuple[object, ...]:
        # A mapping proxy does not pickle; a plain dict does. Tickets travel between worker processes.
        return Ticket, (dict(self.masks), self.origin, self.start)

    def _joined(self, other: Ticket, operation: str, combine: object) -> Ticket:
        if not isinstance(other, Ticket):
            return NotImplemented
        if self._shapes() != other._shapes():
            differing = sorted(dict(self._shapes().items() ^ other._shapes().items()))
            raise TicketError(f"the tickets are of different models: they differ in {_listed(differing)}")
        if self.start != other.start:
            raise TicketError(
                "the tickets start from different weights; set `start` of one with dataclasses.replace"
            )
        origin = Origin(
            operation,
            parents=(self.origin, other.origin),
            fingerprint=self.origin.fingerprint or other.origin.fingerprint,
        )
        masks = {name: combine(mask, other.masks[name]) for name, mask in self.masks.items()}  # type: ignore[operator]
        return Ticket(masks, origin, self.start)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(mask.shape) for name, mask in self.masks.items()}

    # On a model

    def check(self, model: nn.Module) -> None:
        """Raise TicketError where a mask has no parameter of its name and shape; warn when other parameters differ."""
        found = parameters(model)
        missing = [name for name in self.masks if name not in found]
        if missing:
            raise TicketError(
                f"the ticket does not fit the model: the model has no parameter {_listed(missing)}; "
                f"it has {_listed(list(found))}"
            )
        for name, mask in self.masks.items():
            if mask.shape != found[name].shape:
                raise TicketError(
                    f"the ticket does not fit the model: {name} is {_shape(found[name].shape)} in the model "
                    f"and {_shape(mask.shape)} in the ticket"
                )
        if self.origin.fingerprint and self.origin.fingerprint != fingerprint(model):
            warnings.warn(
                "the masks fit, but the ticket was made for a model whose other parameters differ in name or shape",
                stacklevel=2,
            )

    def apply_(self, model: nn.Module) -> None:
        """Set every weight off the ticket to exactly zero, in place, once.

        To keep them at zero while training use `disbud.sparse`.
        """
        self.check(model)
        found = parameters(model)
        with torch.no_grad():
            for name, mask in self.masks.items():
                found[name].masked_fill_(~mask.to(found[name].device), 0)

    def start_(self, model: nn.Module) -> None:
        """Load the weights this ticket must start from, if it has any; a ticket without leaves the model as it is."""
        if self.start is not None:
            from disbud.ticket_file import load_start

            load_start(self.start, model)

    # On disk

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the ticket as safetensors: one bit a weight, the origin in the metadata; whole or not at all.

        The weights it starts from, if it has any, are written beside it under a name made of their hash, so that
        tickets of one start share one file.
        """
        from disbud.ticket_file import write_ticket

        write_ticket(self, Path(path))

    @staticmethod
    def load(path: str | os.PathLike[str], *, model: nn.Module | None = None) -> Ticket:
        """Read a ticket; any file that is not exactly a saved ticket is a TicketError that names file and field."""
        from disbud.ticket_file import read_ticket

        ticket = read_ticket(Path(path))
        if model is not None:
            try:
                ticket.check(model)
            except TicketError as error:
                raise TicketError(f"{path}: {error}") from None
        return ticket

    # For people

    def __repr__(self) -> str:
        return f"<Ticket {self.origin.method}: {self.kept:,} of {self.total:,} weights, {len(self.masks)} layers>"

    def __str__(self) -> str:
        width = max(5, *(len(row.name) for row in self.layers))
        shapes = [_shape(row.shape) for row in self.layers]
        shape_width = max(5, *(len(shape) for shape in shapes))
        lines = [
            self.summary,
            f"{'layer':<{width}}  {'shape':<{shape_width}}  {'kept':>11}  {'density':>8}  empty rows  empty columns",
        ]
        for row, shape in zip(self.layers, shapes, strict=True):
            flag = "  EMPTY: nothing passes this layer" if row.total and not row.kept else ""
            lines.append(
                f"{row.name:<{width}}  {shape:<{shape_width}}  {row.kept:>11,}  {row.density:>8.2%}"
                f"  {row.empty_rows or '':>10}  {row.empty_columns or '':>13}{flag}".rstrip()
            )
        return "\n".join(lines)

    @property
    def summary(self) -> str:
        """One line: the method, what is kept, and how many layers are empty."""
        empty = f"; {len(self.empty_layers)} of {len(self.masks)} layers EMPTY" if self.empty_layers else ""
        return (
            f"{self.origin.method} ticket: {self.kept:,} of {self.total:,} weights kept, "
            f"sparsity {self.sparsity:.4%}{empty}"
        )


def _as_bool(name: str, mask: Tensor) -> Tensor:
    if not isinstance(mask, torch.Tensor):
        raise TicketError(f"the mask of {name!r} must be a tensor, not {type(mask).__name__}")
    if mask.dtype == torch.bool:
        return mask.detach().cpu().clone()
    as_bool = mask != 0
    if not torch.equal(as_bool.to(mask.dtype), mask):
        raise TicketError(f"the mask of {name!r} has values other than 0 (removed) and 1 (kept)")
    return as_bool.cpu()


def _row(name: str, mask: Tensor) -> LayerRow:
    kept, total = int(mask.sum()), mask.numel()
    empty_rows = empty_columns = 0
    if mask.dim() >= 2 and total:
        by_kernel = mask.flatten(2).any(2) if mask.dim() > 2 else mask
        empty_rows = mask.shape[0] - int(by_kernel.any(1).sum())
        empty_columns = mask.shape[1] - int(by_kernel.any(0).sum())
    return LayerRow(name, tuple(mask.shape), kept, total, empty_rows, empty_columns)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _listed(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
