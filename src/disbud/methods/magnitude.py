"""Magnitude: the largest weights stay."""

from __future__ import annotations

from disbud.methods.scoring import Scoring, Tensors


def magnitude(s: Scoring) -> Tensors:
    """abs(w)."""
    return {name: weight if s.signed else weight.abs() for name, weight in s.weights.items()}
