"""Activations whose Gaussian moments have closed forms: leaky rectifiers (ReLU, linear) and erf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class ClosedForms(Protocol):
    """The moments of phi at u1, u2 of variance q and correlation c = 1 - gap."""

    def second(self, q: Array) -> Array:
        """E[phi(u1)^2]."""

    def slope(self, q: Array) -> Array:
        """E[phi'(u1)^2]."""

    def product(self, q: float, gap: float) -> float:
        """E[phi(u1) phi(u2)]."""

    def slopes(self, q: float, gap: float) -> float:
        """E[phi'(u1) phi'(u2)]."""


@dataclass(frozen=True)
class Rectifier:
    """phi(x) = a x below 0 and b x above: ReLU at a = 0, linear at a = b (Cho & Saul 2009, arc-cosine kernels)."""

    below: float
    above: float = 1.0

    def second(self, q: Array) -> Array:
        """q (a^2 + b^2) / 2."""
        return q * (self.below**2 + self.above**2) / 2

    def slope(self, q: Array) -> Array:
        """(a^2 + b^2) / 2."""
        return np.full_like(q, (self.below**2 + self.above**2) / 2)

    def product(self, q: float, gap: float) -> float:
        """q (a b c + (b - a)^2 (sqrt(1 - c^2) + c (pi - arccos c)) / (2 pi)); phi(x) = a x + (b - a) relu(x)."""
        a, b, c, angle = self.below, self.above, 1 - gap, _angle(gap)
        rectified = (np.sqrt(gap * (2 - gap)) + c * (np.pi - angle)) / (2 * np.pi)
        return float(q * (a * b * c + (b - a) ** 2 * rectified))

    def slopes(self, q: float, gap: float) -> float:
        """a b + (b - a)^2 (pi - arccos c) / (2 pi)."""
        a, b = self.below, self.above
        return float(a * b + (b - a) ** 2 * (np.pi - _angle(gap)) / (2 * np.pi))


@dataclass(frozen=True)
class Erf:
    """phi = erf (Williams 1998, the arcsine kernel)."""

    def second(self, q: Array) -> Array:
        """(2 / pi) arcsin(2 q / (1 + 2 q))."""
        return np.asarray(2 / np.pi * np.arcsin(2 * q / (1 + 2 * q)))

    def slope(self, q: Array) -> Array:
        """(4 / pi) / sqrt(1 + 4 q)."""
        return np.asarray(4 / np.pi / np.sqrt(1 + 4 * q))

    def product(self, q: float, gap: float) -> float:
        """(2 / pi) arcsin(2 q c / (1 + 2 q))."""
        return float(2 / np.pi * np.arcsin(2 * q * (1 - gap) / (1 + 2 * q)))

    def slopes(self, q: float, gap: float) -> float:
        """(4 / pi) / sqrt((1 + 2 q)^2 - (2 q c)^2)."""
        return float(4 / np.pi / np.sqrt((1 + 2 * q * gap) * (1 + 2 * q * (2 - gap))))


def _angle(gap: float) -> float:
    """arccos(1 - gap), which itself would lose half the digits of a small gap."""
    return float(2 * np.arcsin(np.sqrt(gap / 2)))
