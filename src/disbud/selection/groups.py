"""Weights kept or pruned in groups: whole kernels, and n of every m inputs; groups of all sizes within one budget."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from disbud.errors import DisbudError, unknown_name
from disbud.graph.layers import Layer

KINDS = ("weight", "kernel", "channel", "n:m")
AGGREGATES = ("sum-of-abs", "abs-of-sum")
Numbers = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Granularity:
    """What is kept or pruned as one; n and m where that is n of every m weights along a layer's inputs."""

    kind: str
    n: int = 0
    m: int = 0

    @classmethod
    def of(cls, text: object) -> Granularity:
        """Read "weight", "kernel", "channel" or "2:4".

        >>> Granularity.of("2:4")
        Granularity(kind='n:m', n=2, m=4)
        """
        if text in KINDS[:3]:
            return cls(str(text))
        found = re.fullmatch(r"(\d+):(\d+)", text) if isinstance(text, str) else None
        if found is None:
            raise unknown_name("granularity", str(text), (*KINDS[:3], "2:4", "1:4"))
        n, m = int(found[1]), int(found[2])
        if not 0 < n < m:
            raise DisbudError(
                f"granularity={text!r} keeps {n} of every {m} weights; it should keep from 1 to {m - 1}"
            )
        return cls("n:m", n, m)

    def __str__(self) -> str:
        return f"{self.n}:{self.m}" if self.kind == "n:m" else self.kind

    def check(self, layers: Sequence[Layer], count: int) -> None:
        """Raise where n of every m is not what the budget keeps, or where a layer's inputs cannot be told off by m."""
        if self.kind != "n:m":
            return
        odd = [layer for layer in layers if layer.n_in % self.m]
        if odd:
            names = ", ".join(f"{layer.name} ({layer.n_in})" for layer in odd[:3])
            raise DisbudError(
                f"granularity={self.n}:{self.m} tells inputs off by {self.m}, which does not divide those of {names}; "
                f"leave such layers whole, as in exclude={[layer.name for layer in odd]}"
            )
        total = sum(layer.size for layer in layers)
        if count != total // self.m * self.n:
            sparsity = f"{1 - self.n / self.m:.10g}"
            raise DisbudError(
                f"granularity={self.n}:{self.m} has a sparsity of {sparsity} and no other, which keeps "
                f"{total // self.m * self.n:,} of {total:,} weights, not {count:,}; give sparsity={sparsity}"
            )


def order(values: Numbers, keep: str) -> Places:
    """The places of the values, those to be kept first in front; of equal ones the first by position.

    With keep="lowest" zeros are set apart and come last, as for single weights.
    """
    if not np.isfinite(values).all():
        raise DisbudError("the scores of some groups are not finite, so they cannot be ranked")
    if keep == "highest":
        return np.argsort(-values, kind="stable")
    return np.lexsort((values, values == 0))


def fill(sizes: Places, budget: int) -> NDArray[np.bool_]:
    """Which of the groups, in this order, are taken: each that fits into what those before it have left of the budget.

    >>> import numpy as np
    >>> fill(np.array([9, 9, 1, 9]), 20).tolist()
    [True, True, True, False]
    """
    taken = np.zeros(len(sizes), bool)
    start, left = 0, budget
    while len(fitting := start + np.flatnonzero(sizes[start:] <= left)):
        spent = np.cumsum(sizes[fitting])
        several = int(np.searchsorted(spent, left, side="right"))
        taken[fitting[:several]] = True
        left -= int(spent[several - 1])
        if several == len(fitting):
            break
        start = int(fitting[several])
    return taken


def summed(blocks: Tensor, aggregate: str) -> Numbers:
    """The score of each group, a row of the blocks: the sum of its weights' scores, or the absolute value of that."""
    sums: Numbers = blocks.detach().to("cpu", torch.float64).sum(1).numpy()
    return np.abs(sums) if aggregate == "abs-of-sum" else sums


def keep_kernels(
    scores: Mapping[str, Tensor],
    budget: int,
    *,
    keep: str,
    aggregate: str,
    among: Mapping[str, Tensor] | None,
) -> dict[str, Tensor]:
    """Masks of whole kernels, those of an input and an output unit (in a linear layer: weights), within the budget.

    `among` are the masks they may be chosen from; None: all.
    """
    blocks = {
        name: score.reshape(math.prod(score.shape[:2]), -1) for name, score in scores.items() if score.numel()
    }
    values = np.concatenate([np.zeros(0), *(summed(block, aggregate) for block in blocks.values())])
    sizes = np.concatenate([np.zeros(0, np.int64), *(np.full(len(b), b.shape[1]) for b in blocks.values())])
    if among is not None:
        alive = [among[name].reshape(len(block), -1).any(1).cpu().numpy() for name, block in blocks.items()]
        sizes = np.where(np.concatenate([np.zeros(0, bool), *alive]), sizes, budget + 1)
    first = order(values, keep)
    taken = np.zeros(len(values), bool)
    taken[first] = fill(sizes[first], budget)
    ends = np.cumsum([len(block) for block in blocks.values()])[:-1]
    parts = dict(zip(blocks, np.split(taken, ends), strict=True)) if blocks else {}
    return {
        name: torch.from_numpy(parts[name])
        .to(score.device)[:, None]
        .expand(blocks[name].shape)
        .reshape(score.shape)
        if name in parts
        else torch.zeros(score.shape, dtype=torch.bool, device=score.device)
        for name, score in scores.items()
    }


def keep_some_of_each(
    score: Tensor, layer: Layer, wanted: int, size: int, *, keep: str, among: Tensor | None
) -> Tensor:
    """A mask with so many of every `size` weights that are next to each other along the layer's inputs."""
    axis = 0 if layer.kind == "transposed-conv" else 1
    moved = score.detach().movedim(axis, -1)
    blocks = moved.reshape(-1, size)
    if not torch.isfinite(blocks).all():
        raise DisbudError(f"the scores of {layer.name} are not finite, so they cannot be ranked")
    ranked = (-blocks if keep == "highest" else blocks).argsort(dim=1, stable=True)
    last = torch.zeros_like(blocks, dtype=torch.uint8) if keep == "highest" else (blocks == 0).to(torch.uint8)
    if among is not None:
        last += 2 * ~among.movedim(axis, -1).reshape(-1, size)
    ranked = ranked.gather(1, last.gather(1, ranked).argsort(dim=1, stable=True))
    chosen = torch.zeros_like(blocks, dtype=torch.bool).scatter_(1, ranked[:, :wanted], value=True)
    return chosen.reshape(moved.shape).movedim(-1, axis).contiguous()
