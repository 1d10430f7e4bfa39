"""Activations whose Gaussian moments have closed forms, or one short integral: leaky rectifiers, erf and hard tanh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_NODES, _WEIGHTS = (_NODES + 1) / 2, _WEIGHTS / 2


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

    def half_difference(self, q: float, gap: float) -> float:
        """E[(phi(u1) - phi(u2))^2] / 2, without the cancellation of its two parts as gap nears 0."""


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

    def half_difference(self, q: float, gap: float) -> float:
        """q (a b (1 - c) + (b - a)^2 (pi (1 - c) - (sin t - t cos t)) / (2 pi)), t = arccos c."""
        a, b, angle = self.below, self.above, _angle(gap)
        bent = np.pi * gap - (np.sqrt(gap * (2 - gap)) - angle * (1 - gap))
        return float(q * (a * b * gap + (b - a) ** 2 * bent / (2 * np.pi)))


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

    def half_difference(self, q: float, gap: float) -> float:
        """(2 / pi) (arcsin x - arcsin c x), x = 2 q / (1 + 2 q), by the sine of the difference where that is small."""
        x = 2 * q / (1 + 2 * q)
        y = x * (1 - gap)
        if gap > 0.5:
            return float(2 / np.pi * (np.arcsin(x) - np.arcsin(y)))
        cosines = np.sqrt(1 + 4 * q) / (1 + 2 * q), np.sqrt((1 - y) * (1 + y))
        sine = x * gap * (x + y) / (x * cosines[1] + y * cosines[0])
        return float(2 / np.pi * np.arcsin(sine))


@dataclass(frozen=True)
class HardTanh:
    """phi(x) = x between -1 and 1, and -1 or 1 beyond.

    phi' is 1 in the square of |u1|, |u2| < 1, whose probability P(c) has the derivative 2 (f(h, h) - f(h, -h)), f the
    bivariate normal density and h = 1 / sqrt(q) (Plackett 1954); and d/dc E[phi(u1) phi(u2)] = q P(c) (Price 1958).
    With c = cos t what is left is one smooth integral over t.
    """

    def second(self, q: Array) -> Array:
        """q P(chi^2_3 < h^2) + P(|Z| > h)."""
        half = 1 / (2 * q)
        return np.asarray(q * special.gammainc(1.5, half) + special.erfc(np.sqrt(half)))

    def slope(self, q: Array) -> Array:
        """P(|Z| < h)."""
        return np.asarray(special.erf(np.sqrt(1 / (2 * q))))

    def product(self, q: float, gap: float) -> float:
        """E[phi^2] less half the mean square of the difference."""
        return float(self.second(np.array([q]))[0]) - self.half_difference(q, gap)

    def slopes(self, q: float, gap: float) -> float:
        """P(1) - (1 / pi) int_0^t (exp(-h^2 / (1 + cos s)) - exp(-h^2 / (1 - cos s))) ds."""
        return float(self.slope(np.array([q]))[0]) - self._integral(q, _angle(gap), lambda s: np.ones_like(s))

    def half_difference(self, q: float, gap: float) -> float:
        """q ((1 - c) P(1) - (1 / pi) int_0^t (cos s - cos t) (the same) ds)."""
        angle = _angle(gap)
        bent = self._integral(q, angle, lambda s: 2 * np.sin((angle + s) / 2) * np.sin((angle - s) / 2))
        return float(q * (gap * float(self.slope(np.array([q]))[0]) - bent))

    def _integral(self, q: float, angle: float, weight: Callable[[Array], Array]) -> float:
        # The two exponentials bend within h of 0 and of pi.
        steps = np.minimum(1 / np.sqrt(q), np.pi) * 2.0 ** np.arange(-3, 48)
        steps = steps[steps < np.pi]
        cuts = np.concatenate([np.linspace(0, np.pi, 9), steps, np.pi - steps])
        cuts = np.unique(np.minimum(cuts, angle))
        widths = np.diff(cuts)
        s = cuts[:-1, None] + widths[:, None] * _NODES
        # 1 + cos s and 1 - cos s, by half angles.
        with np.errstate(under="ignore", divide="ignore", over="ignore"):
            edges = np.exp(-1 / (2 * q * np.cos(s / 2) ** 2)) - np.exp(-1 / (2 * q * np.sin(s / 2) ** 2))
        return float(widths @ ((weight(s) * edges) @ _WEIGHTS)) / np.pi


def _angle(gap: float) -> float:
    """arccos(1 - gap), which itself would lose half the digits of a small gap."""
    return float(2 * np.arcsin(np.sqrt(gap / 2)))
