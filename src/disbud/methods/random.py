"""Random tickets: what any score has to beat. Their layer densities come from the density rule, if there is one."""

from __future__ import annotations

import torch

from disbud.methods.scoring import Scoring, Tensors


def random(s: Scoring) -> Tensors:
    """U(0, 1), drawn on the CPU so that every device draws the same ticket."""
    return {
        name: torch.rand(weight.shape, generator=s.generator(name)).to(weight.device)
        for name, weight in s.weights.items()
    }
