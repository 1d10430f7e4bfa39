"""Node-path balancing in one layer: which of its weights stay, given the paths that arrive and those that lead on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from disbud.graph.kernels import Kernels
from disbud.graph.sweeps import Visit
from disbud.methods.transport import Counts, Gains, cover, deal, spread_groups

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Balance:
    """What nodes, paths and kernels are worth: node = inf puts nodes before all else."""

    node: float
    path: float
    kernel: float

    def within(self, units: int, most_paths: float, budget: int) -> tuple[float, float, float]:
        """The same for one layer: a node, a path and a kernel, as fractions of all there can be."""
        return self.node / max(1, units), self.path / (most_paths or 1.0), self.kernel / max(1, budget)


@dataclass
class LayerChoice:
    """One layer under construction: its layout, budget, live units, and the order in which taps are taken."""

    kernels: Kernels
    budget: int
    balance: Balance
    order: Tensor  # by tap, in the kernels' layout: the lowest are taken first
    inputs: Flags
    outputs: Flags
    rng: np.random.Generator

    def first(self, visit: Visit) -> Tensor:
        """The mask when the pass first gets here: what arrives differs, what leads on does not yet."""
        if not self.order.numel():  # a layer without weights
            return torch.zeros(self.kernels.shape, dtype=torch.bool, device="cpu")
        live = self._live(visit)
        groups, rows, _, taps = self.kernels.sizes
        arriving = visit.arriving.cpu().numpy().reshape(groups, rows)
        arriving = arriving / (arriving.max() or 1.0)
        chosen = live & self.inputs.reshape(groups, rows, 1, 1) & self.outputs.reshape(groups, 1, -1, 1)
        caps = chosen.sum(3)
        values = np.broadcast_to(arriving[:, :, None], caps.shape)
        return self._mask(self._solved(values, caps, taps), chosen)

    def better(self, visit: Visit, mask: Tensor) -> Tensor | None:
        """The optimal mask where both sides are known; None where the present one is as good."""
        if visit.gains is None:
            return None
        gains = self.kernels.split(visit.gains).cpu().numpy()
        peak = gains.max(initial=0.0)
        if not 0 < peak < math.inf:
            return None
        gains = gains / peak
        live = gains > 0
        caps = live.sum(3)
        values = gains.sum(3) / np.maximum(caps, 1)
        now = (self.kernels.split(mask).cpu().numpy() & live).sum(3)
        new = self._solved(values, caps, live.shape[3])
        if self._worth(values, caps, new) <= _slightly_more(self._worth(values, caps, now)):
            return None
        return self._mask(new, live)

    def settled(self, visit: Visit, mask: Tensor) -> Tensor | None:
        """The same number in each kernel as far as its live taps go; what is over goes to other live weights."""
        if visit.gains is None or not bool((visit.gains > 0).any()):
            return None
        live = visit.gains.cpu() > 0
        kept = mask & live
        if torch.equal(kept, mask):
            return None
        wanted = self.kernels.split(mask).sum(3).numpy()
        alive, before = (self.kernels.split(flags).numpy() for flags in (live, kept))
        blocks = self._taps(np.minimum(wanted, alive.sum(3)), alive, before)
        return self.filled(self.kernels.join(torch.from_numpy(blocks)), live, mask)

    def filled(self, kept: Tensor, preferred: Tensor, others: Tensor) -> Tensor:
        """The mask kept, filled up to the budget from the preferred weights, then others, then any."""
        order = self.kernels.join(self.order)
        rank = order + 4.0 - 2.0 * preferred - 1.0 * others  # the order itself is from 0 to 1
        rank = rank.masked_fill(kept, -1.0).reshape(-1)
        found = torch.zeros(kept.numel(), dtype=torch.bool, device="cpu")
        if self.budget:
            found[torch.topk(rank, self.budget, largest=False, sorted=False).indices] = True
        return found.view(kept.shape)

    def _live(self, visit: Visit) -> Flags:
        """The weights that can be on a path; where no path is counted through a layer, those that anything reaches."""
        if visit.gains is not None and bool((visit.gains > 0).any()):
            live: Flags = self.kernels.split(visit.gains).cpu().numpy() > 0
            return live
        groups, rows, columns, taps = self.kernels.sizes
        arrived = visit.arriving.cpu().numpy().reshape(groups, rows, 1, 1) > 0
        return np.broadcast_to(arrived, (groups, rows, columns, taps))

    def _solved(self, values: Gains, caps: Counts, taps: int) -> Counts:
        groups, rows, columns, _ = self.kernels.sizes
        node, path, kernel = self._prices(values, caps)
        used: Flags = caps.sum(1) > 0
        by_group = [(caps[g][:, used[g]], values[g][:, used[g]]) for g in range(groups)]
        alike = all(_alike(cap) and _alike(value) for cap, value in by_group)
        if not alike:
            worth, room = _diagonal(values * path), _diagonal(caps.astype(np.float64)).astype(np.int64)
            flat = cover(worth, room, self.budget, node=node, kernel=kernel)
            return np.stack(
                [flat[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] for g in range(groups)]
            )
        by_row = spread_groups(
            values.max(2) * path,
            caps.max(2),
            used.sum(1),
            self.budget,
            node=node,
            kernel=kernel,
            rng=self.rng,
        )
        found = np.zeros_like(caps)
        for g in range(groups):
            found[g][:, used[g]] = deal(by_row[g], int(used[g].sum()), self.rng)
        return found

    def _prices(self, values: Gains, caps: Counts) -> tuple[float, float, float]:
        """The gains of one node, one path and one kernel; paths are counted against the most there can be."""
        groups, rows, columns, _ = self.kernels.sizes
        order = np.argsort(-values, axis=None)
        sizes = caps.reshape(-1)[order]
        taken = np.clip(self.budget - (np.cumsum(sizes) - sizes), 0, sizes)
        most = float((taken * values.reshape(-1)[order]).sum())
        return self.balance.within(groups * (rows + columns), most, self.budget)

    def _worth(self, values: Gains, caps: Counts, counts: Counts) -> tuple[float, float]:
        node, path, kernel = self._prices(values, caps)
        nodes = sum(int(np.count_nonzero(counts.sum(axis))) for axis in (1, 2))
        rest = path * float((values * counts).sum()) + kernel * int((counts > 0).sum())
        return (nodes, rest) if math.isinf(node) else (0, node * nodes + rest)

    def _mask(self, counts: Counts, live: Flags) -> Tensor:
        """So many taps of each kernel, live ones, in their order; what no live kernel has room for goes elsewhere."""
        mask = self.kernels.join(torch.from_numpy(self._taps(counts, live, None)))
        missing = self.budget - int(counts.sum())
        if not missing:
            return mask
        beside = live.any(axis=(2, 3), keepdims=True) | live.any(axis=(1, 3), keepdims=True)
        near = self.kernels.join(torch.from_numpy(np.broadcast_to(beside, live.shape).copy()))
        return self.filled(mask, near, torch.zeros_like(mask))

    def _taps(self, counts: Counts, live: Flags, before: Flags | None) -> Flags:
        """So many live taps of each kernel: those there were before, then in their order."""
        at = np.nonzero(counts)
        order = np.where(live[at], self.order[at].numpy(), np.inf)
        if before is not None:
            order = order - 2.0 * before[at]
        wanted = counts[at]
        last = np.take_along_axis(np.sort(order, axis=1), wanted[:, None] - 1, axis=1)
        chosen = order <= last
        tied = np.flatnonzero(chosen.sum(1) != wanted)
        chosen[tied] = order[tied].argsort(1).argsort(1) < wanted[tied, None]
        blocks = np.zeros(live.shape, bool)
        blocks[at] = chosen
        return blocks


def _alike(matrix: NDArray[np.generic]) -> bool:
    return matrix.shape[1] == 0 or bool((matrix == matrix[:, :1]).all())


def _slightly_more(worth: tuple[float, float]) -> tuple[float, float]:
    return worth[0], worth[1] * (1 + 1e-9)


def _diagonal(blocks: Gains) -> Gains:
    """The blocks of groups in one matrix; what links different groups is zero."""
    groups, rows, columns = blocks.shape
    matrix = np.zeros((groups * rows, groups * columns))
    for g in range(groups):
        matrix[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] = blocks[g]
    return matrix
