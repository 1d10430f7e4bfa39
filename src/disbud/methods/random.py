"""Random tickets: what any score has to beat. Their layer densities come from the density rule, if there is one."""

from __future__ import annotations

from disbud.methods.scoring import Scoring, Tensors
from disbud.seeds import uniform


def random(s: Scoring) -> Tensors:
    """U(0, 1), drawn on the CPU so that every device draws the same ticket."""
    return {
        name: uniform(weight.shape, s.generator(name)).to(weight.device) for name, weight in s.weights.items()
    }
