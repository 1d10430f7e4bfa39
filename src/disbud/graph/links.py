"""Which units feed which: from the outputs of one layer to the inputs of the next, past all that has no weights.

A unit is a channel of a convolution or a feature of a linear layer. Additions, concatenations, pooling, views and
activations lie between layers; an addition makes one input unit follow several output units. What a gate (a sigmoid
that multiplies) makes of a signal steers another and is no link.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from disbud.errors import DisbudError
from disbud.graph.flow.counts import Counts, Rooted
from disbud.graph.flow.passing import all_open, counted
from disbud.isolation import Example

Units = NDArray[np.int64]


@dataclass(frozen=True)
class Place:
    """One reading of a signal by a layer: so many units in, so many out; `first` is the first of the layer's outputs
    that this reading makes, where attention projects with a part of a weight.
    """

    layer: str
    inputs: int
    outputs: int
    first: int = 0


@dataclass(frozen=True)
class Links:
    """The places of a network in forward order, and the links between their units.

    Row k of `links` says: output unit `links[k, 1]` of place `links[k, 0]` feeds input unit `links[k, 3]` of place
    `links[k, 2]`. `entries[p]` are the input units of place p that the model's own input feeds, `exits[p]` the output
    units that a model's output shows.
    """

    places: tuple[Place, ...]
    links: Units
    entries: tuple[Units, ...]
    exits: tuple[Units, ...]


@dataclass
class _Cut:
    name: str
    read: Tensor
    axis: int
    first: int
    made: Tensor


class _Cuts(Rooted):
    """Signals cut at every layer: what a layer makes is a leaf of its own."""

    def __init__(self, state: Mapping[str, Tensor], layers: Iterable[str]) -> None:
        super().__init__(state)
        self.cuts: list[_Cut] = []
        self._name_of = {id(state[name]): name for name in layers}
        self._last: tuple[str, Tensor, int, int] | None = None

    def reads(self, weight: Tensor, input: Tensor) -> Tensor:
        base = weight if weight._base is None else weight._base
        name = self._name_of.get(id(weight), self._name_of.get(id(base)))
        if name is None:
            self._last = None
            return input
        axis = -1 if weight.dim() == 2 else 1 - weight.dim()
        self._last = (name, input, axis, _first_row(name, weight, base))
        return Counts.put(self, torch.ones_like(input))  # nothing is computed from what was before the cut

    def gives(self, output: Tensor) -> Tensor:
        if self._last is None:
            return output
        name, read, axis, first = self._last
        made = torch.ones_like(output).requires_grad_()
        self.cuts.append(_Cut(name, read, axis, first, made))
        self._last = None
        return self.put(made.clone())  # autograd lets nobody write over a leaf


def _first_row(name: str, weight: Tensor, base: Tensor) -> int:
    """The row of a layer's weight at which what is read begins: whole rows, one after the other."""
    whole = weight.shape[1] == base.shape[1] and weight.numel() * len(base) == base.numel() * len(weight)
    if not whole or weight.stride()[:2] != base.stride()[:2]:
        raise DisbudError(
            f"{name} is read transposed or by some of its columns or rows, so which units it links differs from one "
            "reading to the next, and what follows units from layer to layer (npb, phew, precrop, whole channels) is "
            "not defined; rank weights one by one, as synflow, snip and magnitude do"
        )
    return (weight.storage_offset() - base.storage_offset()) // weight.stride(0)


def links(model: nn.Module, names: Iterable[str], *, example: Example) -> Links:
    """The links between the layers of these names, at the size of the example."""
    names = list(names)
    state = all_open(model, torch.float64)
    signals = _Cuts(state, names)
    with counted(model, state, signals, example) as outputs, torch._C.DisableTorchFunction():
        return _read_off(signals.cuts, signals.roots, outputs)


def _read_off(cuts: list[_Cut], sources: list[Tensor], outputs: list[Tensor]) -> Links:
    places = tuple(
        Place(cut.name, cut.read.shape[cut.axis], cut.made.shape[cut.axis], cut.first) for cut in cuts
    )
    rows: list[Units] = []
    entries: list[Units] = []
    for number, cut in enumerate(cuts):
        makers = {i: other.made for i, other in enumerate(cuts[:number])}
        rows += _links_into(cut, number, cuts, makers)
        entries.append(_fed(cut, sources))
    shown = _gradients([output.sum() for output in outputs], [cut.made for cut in cuts])
    exits = tuple(
        np.flatnonzero(_by_unit(gradient, cut.axis).any(1)) if gradient is not None else _none()
        for cut, gradient in zip(cuts, shown, strict=True)
    )
    table = np.concatenate(rows) if rows else np.zeros((0, 4), np.int64)
    return Links(places, table, tuple(entries), exits)


def _links_into(cut: _Cut, number: int, cuts: list[_Cut], makers: dict[int, Tensor]) -> list[Units]:
    """The links into one place.

    The sum of what is read, weighted by 1, v and v^2 over its units v, has derivatives c, c v and c v^2 at an entry
    that feeds unit v alone; where c * c v^2 differs from (c v)^2, the entry feeds several.
    """
    if not cut.read.requires_grad or not makers:
        return []
    size = cut.read.shape[cut.axis]
    numbers = torch.arange(size, dtype=torch.float64)
    weighed = [_weighed(cut, numbers**power, list(makers.values())) for power in range(3)]
    rows: list[Units] = []
    several: list[int] = []
    for which, *moments in zip(makers, *weighed, strict=True):
        found = _single(moments, cuts[which].axis)
        if found is None:
            several.append(which)
        else:
            rows.append(_rows(which, found[0], number, found[1]))
    if several:
        rows += _one_by_one(cut, number, cuts, several)
    return rows


def _single(moments: list[Tensor | None], axis: int) -> tuple[Units, Units] | None:
    """The units of which each entry feeds one unit, and the units fed; None where an entry feeds several."""
    c, cv, cvv = moments
    if c is None or cv is None or cvv is None:
        return _none(), _none()
    others = [i for i in range(c.dim()) if i != axis % c.dim()]
    for summed in (True, False):  # all of a unit together is quicker, and is mostly enough
        parts = [part.sum(others) if summed and others else part.movedim(axis, 0) for part in (c, cv, cvv)]
        one, first, second = (
            part.detach().cpu().flatten(1 if part.dim() > 1 else 0).numpy() for part in parts
        )
        fed = one > 0
        if not (np.abs(one * second - first**2) > 1e-6 * one * one)[fed].any():
            return np.nonzero(fed)[0], np.rint(first[fed] / one[fed]).astype(np.int64)
    return None


def _one_by_one(cut: _Cut, number: int, cuts: list[_Cut], several: list[int]) -> list[Units]:
    """The same where entries feed several units each: one derivative a unit."""
    size = cut.read.shape[cut.axis]
    rows = []
    for target in range(size):
        one = torch.zeros(size, dtype=torch.float64)
        one[target] = 1
        for which, found in zip(several, _weighed(cut, one, [cuts[i].made for i in several]), strict=True):
            if found is not None:
                unit = np.flatnonzero((_by_unit(found, cuts[which].axis) > 0).any(1))
                rows.append(_rows(which, unit, number, np.full_like(unit, target)))
    return rows


def _weighed(cut: _Cut, weights: Tensor, at: list[Tensor]) -> list[Tensor | None]:
    shape = [1] * cut.read.dim()
    shape[cut.axis] = -1
    return _gradients([(cut.read * weights.to(cut.read).view(shape)).sum()], at)


def _gradients(totals: list[Tensor], at: list[Tensor]) -> list[Tensor | None]:
    totals = [total for total in totals if total.requires_grad]
    if not totals or not at:
        return [None] * len(at)
    return list(torch.autograd.grad(totals, at, retain_graph=True, allow_unused=True))


def _fed(cut: _Cut, sources: list[Tensor]) -> Units:
    """The units read that the model's own input feeds with no layer in between."""
    if not cut.read.requires_grad:
        return np.arange(cut.read.shape[cut.axis]) if not sources else _none()
    shape = [1] * cut.read.dim()
    shape[cut.axis] = -1
    size = cut.read.shape[cut.axis]
    probe = torch.ones(size, dtype=torch.float64, device=cut.read.device).requires_grad_()
    total = (cut.read * probe.view(shape)).sum()
    first = torch.autograd.grad(total, sources, retain_graph=True, allow_unused=True, create_graph=True)
    reached = [gradient.sum() for gradient in first if gradient is not None and gradient.requires_grad]
    (found,) = torch.autograd.grad(reached, probe, allow_unused=True) if reached else (None,)
    return _none() if found is None else np.flatnonzero(found.cpu().numpy() > 0)


def _by_unit(gradient: Tensor, axis: int) -> NDArray[np.float64]:
    found: NDArray[np.float64] = gradient.detach().cpu().movedim(axis, 0).flatten(1).numpy()
    return found


def _rows(which: int, unit: Units, number: int, target: Units) -> Units:
    pairs = np.unique(np.stack([unit, target], 1), axis=0)
    made = np.full(len(pairs), which)
    return np.stack([made, pairs[:, 0], np.full(len(pairs), number), pairs[:, 1]], 1)


def _none() -> Units:
    return np.zeros(0, np.int64)
