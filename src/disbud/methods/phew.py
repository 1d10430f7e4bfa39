"""PHEW: paths with higher edge weights, kept by random walks that prefer large weights (Patil & Dovrolis 2021)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from disbud.errors import DisbudError
from disbud.graph import reach
from disbud.graph.links import links
from disbud.isolation import Example
from disbud.methods.scoring import Scoring, Tensors
from disbud.methods.walks import Walks, positions
from disbud.seeds import whole
from disbud.ticket import Ticket

Flags = NDArray[np.bool_]

_AT_ONCE = 4096
_HARDLY = 200  # where fewer than one step in so many finds a new weight, walking is given up


def phew(s: Scoring, budget: Mapping[str, int] | int) -> Tensors:
    """The weights of walks, forwards from the input and backwards from the output in turn, exactly `budget` of them.

    Walks are taken whole, in the order they were drawn, while they fit; one that would go over is passed over for one
    that fits. Weights that turn out to lie on no path at the example's size are dropped, and the walks go on. Close to
    dense, where walks hardly find a weight that is not kept yet, the rest are the largest of those on any path.
    """
    if not isinstance(budget, int):
        raise DisbudError(
            "PHEW's walks share the budget among the layers themselves: leave densities out; for walks' weights within "
            "given densities, give a PHEW ticket as densities=TICKET to another method"
        )
    if s.example is None:
        raise DisbudError(
            "PHEW walks along the units of the model and must know the shape of its input: give example=..., such as "
            "torch.zeros(1, 3, 32, 32), or a tuple or dict of inputs; its numbers do not matter"
        )
    names = [layer.name for layer in s.layers]
    usable = reach(s.model, None, example=s.example).effective
    walks = Walks(links(s.model, names, example=s.example), s.layers, s.weights, usable)
    sizes = torch.cat([s.weights[name].detach().abs().cpu().double().reshape(-1) for name in names]).numpy()
    on_a_path = positions({name: usable[name] for name in names})
    rng = np.random.default_rng(int(whole(2**62, (), s.generator("walks"))))
    kept = np.zeros(len(sizes), bool)
    for _ in range(5):
        if not walks.connected or not _walk(walks, kept, budget, rng):
            _fill(kept, budget, sizes, on_a_path)
            break
        effective = positions(_effective(s, s.example, kept))
        if bool((effective == kept).all()):
            break
        kept &= effective
    _fill(kept, budget, sizes, on_a_path)
    _warn_if_cut(s, s.example, kept, walked=walks.connected)
    return {name: mask.to(s.weights[name].device) for name, mask in _masks(s, kept).items()}


def _walk(walks: Walks, kept: Flags, budget: int, rng: np.random.Generator) -> bool:
    """Keep the weights of walks until the budget is met; whether it was."""
    left = budget - int(kept.sum())
    passed_over = 0
    while left > 0:
        half = _AT_ONCE // 2
        there, back = walks.forward(half, rng), walks.backward(half, rng)
        taken = np.stack([there, back], 1).reshape(2 * half, -1)  # in turn
        before = left
        left -= _keep(taken, kept, left)
        steps = int((taken >= 0).sum())
        if left and before - left < steps / _HARDLY:
            passed_over += 1
            if before - left == 0 and left < taken.shape[1]:  # no walk fits any more: a part of one
                left -= _keep_some(taken, kept, left)
            elif passed_over > 3:
                return False
    return True


def _keep(taken: NDArray[np.int64], kept: Flags, left: int) -> int:
    """Keep whole walks, in order, as long as they fit; how many weights are new."""
    rows, columns = np.nonzero(taken >= 0)
    ids = taken[rows, columns]
    fresh = ~kept[ids]
    rows, ids = rows[fresh], ids[fresh]
    _, first = np.unique(ids, return_index=True)  # rows ascend, so the first is that of the earliest walk
    new = np.bincount(rows[first], minlength=len(taken)).cumsum()
    fitting = int(np.searchsorted(new, left, side="right"))
    kept[ids[first][rows[first] < fitting]] = True
    found = int(new[fitting - 1]) if fitting else 0
    for walk in taken[fitting:]:
        if found == left:
            break
        own = np.unique(walk[walk >= 0])
        own = own[~kept[own]]
        if len(own) <= left - found:
            kept[own] = True
            found += len(own)
    return found


def _keep_some(taken: NDArray[np.int64], kept: Flags, left: int) -> int:
    for walk in taken:
        own = walk[walk >= 0]
        own = own[~kept[own]][:left]
        if len(own):
            kept[own] = True
            return len(own)
    return 0


def _fill(kept: Flags, budget: int, sizes: NDArray[np.float64], on_a_path: Flags) -> None:
    """The largest weights on any path, then any, up to the budget; ties by position."""
    left = budget - int(kept.sum())
    if left > 0:
        order = np.lexsort((-sizes, ~on_a_path, kept))
        kept[order[:left]] = True


def _masks(s: Scoring, kept: Flags) -> Tensors:
    parts = torch.from_numpy(kept.copy()).split([layer.size for layer in s.layers])
    return {layer.name: part.view(layer.shape) for layer, part in zip(s.layers, parts, strict=True)}


def _effective(s: Scoring, example: Example, kept: Flags) -> Tensors:
    masks = _masks(s, kept)
    found = reach(s.model, Ticket(masks), example=example).effective
    return {name: found[name] for name in masks}


def _warn_if_cut(s: Scoring, example: Example, kept: Flags, *, walked: bool) -> None:
    if any(bool(mask.any()) for mask in _effective(s, example, kept).values()):
        return
    if walked:
        empty = [name for name, mask in _masks(s, kept).items() if not bool(mask.any())]
        why = (
            f"{int(kept.sum()):,} weights are fewer than a path needs, and {_listed(empty)} has none; ask for a lower "
            "sparsity"
        )
    else:
        zeros = [name for name, weight in s.weights.items() if weight.numel() and not bool(weight.any())]
        why = (
            f"walks take no weight of zero, and those of {_listed(zeros)} are all zero, as in a zero-initialised head; "
            "give it weights, or choose another method"
        )
    warnings.warn(f"no path leads from the model's input to its output: {why}", stacklevel=2)


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:3]) or 'no layer'}{', ...' if len(names) > 3 else ''}"
