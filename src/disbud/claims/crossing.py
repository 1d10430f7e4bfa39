"""The chance that t statistics, looked at again and again as pairs are added, ever leave their bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.polynomial import chebyshev, legendre
from numpy.typing import NDArray
from scipy import special, stats

from disbud.errors import DisbudError

Array = NDArray[np.float64]
_NEGLIGIBLE = 1e-13  # what is less likely is left out of every integral
_ANGLES, _POINTS = 40, 24  # the looks' default levels are the same to 1e-7 with half as many


def chance_of_leaving(
    looks: Sequence[int], low: Sequence[float], high: Sequence[float], *, finer: int = 1
) -> float:
    """P(t_k <= low_k or t_k >= high_k at any look k), t_k being the t statistic of the first n_k of normal pairs.

    Recursive numerical integration (Armitage, McPherson and Rowe 1969), here for t in place of z. Pairs of mean 0, seen
    backwards, make it one-dimensional: given the sum and the sum of squares of the first n, what the first m < n are
    does not depend on any later pair, and the t statistic of the first m depends on the sums only through that of the
    first n. With u = t / sqrt(t^2 + n - 1), r = sqrt(1 - u^2), the n pairs at length 1 are uniform on a sphere, so

        a = sqrt(m/n) u + r sqrt((n-m)/n) z,      w = r^2 (1 - z^2) b,      t_m = a sqrt((m - 1) / w),

    with z^2 ~ Beta(1/2, (n-2)/2), symmetric, and b ~ Beta((m-1)/2, (n-m-1)/2). Normal pairs are assumed, nothing else.

    >>> round(chance_of_leaving([5], [-2.776], [2.776]), 4)  # one look: Student's t
    0.05
    """
    _check(looks, low, high)
    staying = _Staying.everywhere(looks[0], low[0], high[0])
    for n, below, above in zip(looks[1:], low[1:], high[1:], strict=True):
        staying = staying.followed_by(n, below, above, finer=finer)
    return 1.0 - staying.expected(finer)


def _check(looks: Sequence[int], low: Sequence[float], high: Sequence[float]) -> None:
    if not looks or looks[0] < 3 or any(later <= look for look, later in pairwise(looks)):
        raise DisbudError(
            f"looks are at rising numbers of pairs, 3 at least, as [5, 10, 20], not {list(looks)!r}"
        )
    if not len(looks) == len(low) == len(high):
        raise DisbudError(f"{len(looks)} looks do not go with {len(low)} lower and {len(high)} upper bounds")
    if not all(below < 0 < above for below, above in zip(low, high, strict=True)):
        raise DisbudError("at each look t has a bound below 0 and one above it (-inf and inf: none)")


class _Staying:
    """The chance of having stayed inside up to a look of n pairs, as a function of t there; 0 outside its bounds."""

    def __init__(self, n: int, low: float, high: float, series: Array) -> None:
        far = float(stats.t.isf(_NEGLIGIBLE, n - 1))
        self.n, self.low, self.high, self.series = n, max(low, -far), min(high, far), series
        self.ends = _angle(self.low, n), _angle(self.high, n)

    @classmethod
    def everywhere(cls, n: int, low: float, high: float) -> _Staying:
        return cls(n, low, high, np.ones(1))

    def at(self, angle: Array) -> Array:
        """The chance at u = sin(angle), inside the bounds."""
        first, last = self.ends
        return np.asarray(chebyshev.chebval((2 * angle - first - last) / (last - first), self.series))

    def followed_by(self, n: int, low: float, high: float, *, finer: int) -> _Staying:
        """The same chance with one look more."""
        after = _Staying.everywhere(n, low, high)
        first, last = after.ends
        nodes = chebyshev.chebpts1(_ANGLES * finer)
        values = self._given((first + last + (last - first) * nodes) / 2, n, _POINTS * finer)
        after.series = np.asarray(chebyshev.chebfit(nodes, values, len(nodes) - 1), dtype=np.float64)
        return after

    def _given(self, angle: Array, n: int, points: int) -> Array:
        """E[staying up to here | u = sin(angle) at a later look of n pairs]."""
        m = self.n
        u, r = np.sin(angle)[:, None], np.cos(angle)[:, None]
        along, across = math.sqrt(m / n), math.sqrt((n - m) / n)
        zero = np.clip(-along * u / (r * across), -1, 1)  # where a changes sign
        scale = special.betaln(0.5, (n - 2) / 2)
        edge = math.asin(math.sqrt(special.betainccinv(0.5, (n - 2) / 2, _NEGLIGIBLE)))
        total = np.zeros(len(angle))
        for sign, bound in ((1, self.high), (-1, -self.low)):
            ends = _cuts(u, r, m, n, bound, self._usual_b(n))
            ends = np.maximum(ends, zero) if sign > 0 else np.minimum(ends, zero)
            ends = np.clip(np.arcsin(ends), -edge, edge)
            # z = sin: the density's half powers become whole ones.
            psi, weights = _between(ends[:, :-1, None], ends[:, 1:, None], points)
            psi, weights = psi.reshape(len(u), -1), weights.reshape(len(u), -1)
            z, density = np.sin(psi), np.exp((n - 3) * np.log(np.cos(psi)) - scale)
            a = np.abs(along * u + across * r * z)
            room = r**2 * np.cos(psi) ** 2
            least = (m - 1) * a**2 / np.maximum(bound**2 * room, 1e-300)
            inner = self._over_b(sign, a, room, np.minimum(least, 1.0), n, points)
            total += (weights * density * inner).sum(1)
        return total

    def _usual_b(self, n: int) -> tuple[float, float]:
        """Between which b lies, as good as always."""
        m = self.n
        if n - m == 1:
            return 1.0, 1.0
        shape = (m - 1) / 2, (n - m - 1) / 2
        return float(special.betaincinv(*shape, _NEGLIGIBLE)), float(special.betainccinv(*shape, _NEGLIGIBLE))

    def _over_b(self, sign: int, a: Array, room: Array, least: Array, n: int, points: int) -> Array:
        """The mean over b from `least` up."""
        m = self.n
        if n - m == 1:  # one pair more: the first m hold all the rest, b = 1
            angle = np.arctan2(sign * a, np.sqrt(room))
            return np.where(least < 1, self.at(angle), 0.0)
        if len(self.series) == 1:
            return np.asarray(self.series[0] * special.betaincc((m - 1) / 2, (n - m - 1) / 2, least))
        # b = sin^2: the density's half powers become whole ones.
        shape = (m - 1) / 2, (n - m - 1) / 2
        first, last = (math.asin(math.sqrt(b)) for b in self._usual_b(n))
        start = np.clip(np.arcsin(np.sqrt(least)), first, last)[..., None]
        theta, weights = _between(start, np.full_like(start, last), points)
        logs = (m - 2) * np.log(np.sin(theta)) + (n - m - 2) * np.log(np.cos(theta))
        density = 2 * np.exp(logs - special.betaln(*shape))
        angle = np.arctan2(sign * a[..., None], np.sqrt(room)[..., None] * np.sin(theta))
        return np.asarray((weights * density * self.at(angle)).sum(-1))

    def expected(self, finer: int) -> float:
        """The mean over t with n - 1 degrees of freedom."""
        degrees = self.n - 1
        low, high = stats.t.cdf([self.low, self.high], degrees)
        quantile, weights = _between(np.array([[low]]), np.array([[high]]), 4 * _POINTS * finer)
        angle = np.arctan(stats.t.ppf(quantile, degrees) / math.sqrt(degrees))
        return float((weights * self.at(angle)).sum())


def _angle(t: float, n: int) -> float:
    """asin u = asin(t / sqrt(t^2 + n - 1))."""
    return math.atan(t / math.sqrt(n - 1))


def _cuts(u: Array, r: Array, m: int, n: int, bound: float, usual_b: tuple[float, float]) -> Array:
    """Rising z between which |t_m| is below the bound for some usual b, for all of them, and for some again.

    (m-1) a^2 <= bound^2 r^2 (1 - z^2) b, a quadratic in z, solved for the largest and the least b; with many pairs b
    is all but certain, and the chance as a function of z steep between these.
    """
    found = []
    for b in usual_b:
        square = ((m - 1) * (n - m) / n + bound**2 * b) * r**2
        half = (m - 1) * math.sqrt(m * (n - m)) / n * u * r
        rest = (m - 1) * m / n * u**2 - bound**2 * b * r**2
        root = np.sqrt(np.maximum(half**2 - square * rest, 0.0))
        found.append(((-half - root) / square, (-half + root) / square))
    (near_all, far_all), (near, far) = found
    cuts = np.concatenate([near, np.clip(near_all, near, far), np.clip(far_all, near, far), far], axis=1)
    return np.asarray(np.clip(cuts, -1, 1))


@lru_cache
def _rule(points: int) -> tuple[Array, Array]:
    nodes, weights = legendre.leggauss(points)
    return nodes, weights


def _between(start: Array, end: Array, points: int) -> tuple[Array, Array]:
    """Gauss and Legendre's nodes and weights from start to end, along a last axis; none where the end comes first."""
    nodes, weights = _rule(points)
    half = np.maximum(end - start, 0.0) / 2
    return start + half + half * nodes, half * weights
