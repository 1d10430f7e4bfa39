"""The factor on the branches of residual networks: 1, or in their stable form 1 / sqrt(number of blocks)."""

from __future__ import annotations

import math

from torch import Tensor

from disbud.errors import DisbudError


def branch_scale(stable: object, *, blocks: int) -> float:
    """1 / sqrt(blocks) for a stable net (Hayou et al. 2021): signals and gradients stay of one order at any depth."""
    if not isinstance(stable, bool):
        raise DisbudError(f"stable is true or false, not {stable!r}")
    return 1 / math.sqrt(blocks) if stable else 1.0


def scaled_by(scale: float, branch: Tensor) -> Tensor:
    """The branch, scaled; as it is where there is nothing to scale, so that plain nets compute as they always did."""
    return branch if scale == 1 else branch * scale
