"""What a ticket does to each layer, as far as masks, model and example let it be known: the numbers behind its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from disbud import measures
from disbud.errors import DisbudError
from disbud.graph import Layer, prunable
from disbud.selection import allocate
from disbud.ticket import LayerRow, Ticket

if TYPE_CHECKING:
    from torch import Tensor, nn

    from disbud.isolation import Example
    from disbud.measures.table import Value

_SUFFIX = ".weight"


@dataclass(frozen=True)
class LayerFacts:
    """One layer: its name and the name without what all share, counts, and its units that are dead.

    Where paths are known a unit is dead when it lies on none from input to output, elsewhere when none of this layer's
    kept weights touches it. `effective` counts kept weights on a path, and is None where that is not known. Of a
    `transposed` convolution the weight's first axis is that of the inputs.
    """

    name: str
    label: str
    shape: tuple[int, ...]
    kept: int
    total: int
    inputs: int
    dead_inputs: int
    outputs: int
    dead_outputs: int
    effective: int | None = None
    transposed: bool = False

    @property
    def density(self) -> float:
        """The fraction of the layer's weights that is kept."""
        return self.kept / self.total if self.total else 1.0

    @property
    def is_empty(self) -> bool:
        """Whether nothing is kept of a layer that has weights."""
        return bool(self.total) and not self.kept


@dataclass(frozen=True)
class Anatomy:
    """All layers of a ticket; `basis` is "paths", "model" or "masks", whatever its dead units were read off."""

    ticket: Ticket
    layers: Sequence[LayerFacts]
    basis: str
    trouble: str | None = None

    @property
    def with_units(self) -> list[LayerFacts]:
        """The layers that link input units to output units."""
        return [layer for layer in self.layers if len(layer.shape) >= 2 and layer.total]


def anatomy(ticket: Ticket, model: nn.Module | None, example: Example | None) -> Anatomy:
    """Read the ticket: by its paths where model and example are given, else by the model's layers or the masks."""
    if model is None:
        return Anatomy(ticket, _rows(ticket, {}, frozenset()), "masks")
    ticket.check(model)
    trouble = None
    turned = frozenset(layer.name for layer in prunable(model) if layer.kind == "transposed-conv")
    if example is not None:
        try:
            table = measures.paths(model, ticket, example=example)
        except DisbudError as error:
            trouble = str(error)
        else:
            return Anatomy(ticket, _rows(ticket, {str(row["layer"]): row for row in table}, turned), "paths")
    return Anatomy(ticket, _rows(ticket, _touched(model, units_only(ticket)), turned), "model", trouble)


def units_only(ticket: Ticket) -> Ticket:
    """The ticket without masks of one axis, which link no units; all of it where there are only such."""
    masks = {name: mask for name, mask in ticket.masks.items() if mask.dim() >= 2}
    return Ticket(masks, ticket.origin, ticket.start) if masks else ticket


def densities_of(against: Ticket | str, ticket: Ticket, model: nn.Module | None) -> dict[str, float]:
    """The density of each layer in another ticket, or by a density rule at the sparsity of this ticket."""
    if isinstance(against, Ticket):
        if {row.name: row.shape for row in against.layers} != {row.name: row.shape for row in ticket.layers}:
            raise DisbudError(
                f"against: {against!r} is of another model than {ticket!r}; give a ticket with the same layers"
            )
        return against.densities()
    counts = allocate(against, _as_layers(ticket, model), ticket.sparsity)
    return {row.name: counts[row.name] / row.total if row.total else 1.0 for row in ticket.layers}


def degree_counts(ticket: Ticket, model: nn.Module | None) -> dict[str, dict[str, dict[int, int]]]:
    """By layer and side ("in": output units, "out": input units), how many units have which degree."""
    found: dict[str, dict[str, dict[int, int]]] = {}
    units = units_only(ticket)
    if model is None:
        for name, mask in units.masks.items():
            if mask.dim() >= 2:
                found[name] = {side: _tally(mask, axis) for side, axis in (("in", 0), ("out", 1))}
    elif any(mask.dim() >= 2 for mask in units.masks.values()):
        for row in measures.degree_distribution(model, units):
            side = found.setdefault(str(row["layer"]), {"in": {}, "out": {}})[str(row["side"])]
            side[_whole(row["degree"])] = _whole(row["units"])
    return found


def _tally(mask: Tensor, axis: int) -> dict[int, int]:
    degrees = mask.transpose(0, axis).flatten(1).sum(1)
    values, counts = degrees.unique(return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _touched(model: nn.Module, ticket: Ticket) -> dict[str, Mapping[str, Value]]:
    """Units that a kept weight of the layer touches, with groups and transposition as the model says."""
    if any(mask.dim() < 2 for mask in ticket.masks.values()):
        return {}
    return {
        str(row["layer"]): {
            "inputs": row["inputs"],
            "dead_inputs": row["unread_inputs"],
            "outputs": row["outputs"],
            "dead_outputs": row["unfed_outputs"],
        }
        for row in measures.degrees(model, ticket)
    }


def _rows(
    ticket: Ticket, units: Mapping[str, Mapping[str, Value]], turned: frozenset[str]
) -> list[LayerFacts]:
    labels = short_names([row.name for row in ticket.layers])
    return [
        _facts(row, label, units.get(row.name), transposed=row.name in turned)
        for row, label in zip(ticket.layers, labels, strict=True)
    ]


def _facts(row: LayerRow, label: str, units: Mapping[str, Value] | None, *, transposed: bool) -> LayerFacts:
    if units is None:
        outputs, inputs = row.shape[:2] if len(row.shape) >= 2 else (0, 0)
        units = {
            "inputs": inputs, "dead_inputs": row.empty_columns,
            "outputs": outputs, "dead_outputs": row.empty_rows,
        }  # fmt: skip
    return LayerFacts(
        name=row.name,
        label=label,
        shape=row.shape,
        kept=row.kept,
        total=row.total,
        inputs=_whole(units["inputs"]),
        dead_inputs=_whole(units["dead_inputs"]),
        outputs=_whole(units["outputs"]),
        dead_outputs=_whole(units["dead_outputs"]),
        effective=_whole(units["effective"]) if "effective" in units else None,
        transposed=transposed,
    )


def short_names(names: Sequence[str]) -> list[str]:
    """The names without ".weight" where all end in it, so that it tells nothing.

    >>> short_names(["fc1.weight", "fc2.weight"]), short_names(["fc1.weight", "fc1.bias"])
    (['fc1', 'fc2'], ['fc1.weight', 'fc1.bias'])
    """
    shared = all(name.endswith(_SUFFIX) and name != _SUFFIX for name in names)
    return [name.removesuffix(_SUFFIX) if shared else name for name in names]


def _as_layers(ticket: Ticket, model: nn.Module | None) -> list[Layer]:
    kinds = {} if model is None else {layer.name: layer.kind for layer in prunable(model)}
    for row in ticket.layers:
        if len(row.shape) < 2:
            raise DisbudError(
                f"against: a density rule is for weights between units, and {row.name} has {len(row.shape)} axes"
            )
    return [
        Layer(row.name, row.shape, kinds.get(row.name, "conv" if len(row.shape) > 2 else "linear"))
        for row in ticket.layers
    ]


def _whole(value: Value) -> int:
    if not isinstance(value, int):
        raise DisbudError(f"a count should be a whole number, not {value!r}")
    return value


def dead(layers: Sequence[LayerFacts]) -> tuple[int, int]:
    """How many output units of these layers are dead, and how many there are."""
    return sum(layer.dead_outputs for layer in layers), sum(layer.outputs for layer in layers)
