"""Where one variant stops being better than another: the crossing point of two curves, with an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from scipy import stats

from disbud.claims.holm import ALPHA, holm
from disbud.claims.rules import Verdict
from disbud.claims.student import Array, Values, check_level, p_above, p_below
from disbud.errors import DisbudError

Spacing = Literal["plain", "log-density"]
Direction = Literal["rises", "falls"]


@dataclass(frozen=True)
class Crossover:
    """Where the mean difference changes sign (`points`), the confidence set's ends, and whether it changes sign at all.

    `low` or `high` is None where the set reaches the end of what was tested, and both are where it is empty. `parts` is
    of how many pieces the set consists: more than 1 where it may cross several times.

    >>> from disbud import claims
    >>> gaps = [[0.021, 0.012, -0.011], [0.019, 0.009, -0.008], [0.02, 0.008, -0.012], [0.022, 0.01, -0.01]]
    >>> print(claims.crossover([0.9, 0.95, 0.98], gaps, names=("shuffle", "none")))
    shuffle falls behind none at 0.9646, 95 % interval 0.9617 to 0.9675: supported (4 seeds)
    """

    points: tuple[float, ...]
    low: float | None
    high: float | None
    parts: int
    level: float
    verdict: Verdict
    p_supported: float
    p_contradicted: float
    seeds: int
    names: tuple[str, str]
    rises: bool
    tested: tuple[float, float]
    further: int | None = None

    def __str__(self) -> str:
        left, right = self.names
        beside = f"{self.verdict} ({self.seeds} seeds)"
        if not self.points:
            return (
                f"{left} and {right} do not cross from {self.tested[0]:.4g} to {self.tested[1]:.4g}: {beside}"
            )
        low = f"below {self.tested[0]:.4g}" if self.low is None else f"{self.low:.4g}"
        high = f"above {self.tested[1]:.4g}" if self.high is None else f"{self.high:.4g}"
        verb = "crosses" if len(self.points) > 1 else "overtakes" if self.rises else "falls behind"
        where = " and ".join(f"{point:.4g}" for point in self.points)
        pieces = f" in {self.parts} pieces" if self.parts > 1 else ""
        return f"{left} {verb} {right} at {where}, {100 * self.level:g} % interval {low} to {high}{pieces}: {beside}"


def crossover(
    at: Values,
    differences: Array | Sequence[Sequence[float]],
    *,
    level: float = 0.95,
    spacing: Spacing = "plain",
    names: tuple[str, str] = ("left", "right"),
    direction: Direction | None = None,
) -> Crossover:
    """The crossing of left and right over the positions `at` (as sparsities); a row of `differences` a seed.

    A column is a position. Each seed's differences are joined by straight lines, over the positions or, with
    spacing="log-density", over log(1 - sparsity). The interval is the set of positions at which a t test does not
    reject a mean of 0 (Fieller 1954): exact at the true crossing for normal differences and straight pieces, whatever
    the slope; it is open where the curves are too flat to say.

    That there is a crossing is supported where the mean is shown to be above 0 at one position and below 0 at another
    (Holm over all positions and both signs), contradicted where it is shown to be on one side at all of them. With a
    `direction` the mean has to be below 0 before it is above ("rises", left overtakes right), or the reverse ("falls");
    it is contradicted as well where the mean is shown to cross once the other way.

    >>> from disbud import claims
    >>> claims.crossover([0, 1], [[1.0, 2.0], [1.1, 2.1], [0.9, 2.2]]).verdict
    <Verdict.CONTRADICTED: 'contradicted'>
    """
    check_level(level)
    positions, table = _checked(at, differences, spacing)
    if direction not in (None, "rises", "falls"):
        raise DisbudError(f"direction is 'rises', 'falls' or None, not {direction!r}")
    x = -np.log1p(-positions) if spacing == "log-density" else positions
    mean = table.mean(0)
    crossings, rises = _crossings(x, mean)
    pieces = _accepted(x, table, level)
    # Where the mean is 0 the test accepts, even where all seeds cross at one point and the piece has no length.
    pieces = sorted(pieces + [(c, c) for c in crossings if not any(a <= c <= b for a, b in pieces)])
    back = (lambda v: -math.expm1(-v)) if spacing == "log-density" else float
    low = None if not pieces or pieces[0][0] <= x[0] else back(pieces[0][0])
    high = None if not pieces or pieces[-1][1] >= x[-1] else back(pieces[-1][1])
    p_supported, p_contradicted = _shown(table, direction)
    verdict = Verdict.SUPPORTED if p_supported <= ALPHA else Verdict.UNDECIDED
    if p_contradicted <= ALPHA:
        verdict = Verdict.CONTRADICTED
    tested = float(positions[0]), float(positions[-1])
    return Crossover(
        tuple(back(c) for c in crossings), low, high, len(pieces), level, verdict, p_supported, p_contradicted,
        len(table), names, rises, tested,
    )  # fmt: skip


def _shown(table: Array, direction: Direction | None) -> tuple[float, float]:
    """p-values of "it crosses so" and of "it does not"."""
    above, below = p_above(table.T, 0.0), p_below(table.T, 0.0)
    count = len(above)
    adjusted = holm(np.concatenate([above, below]))
    before, after = adjusted[:count], adjusted[count:]  # a fall: above 0 first, below it later
    if direction == "rises":
        above, below, before, after = below, above, after, before
    later = range(count) if direction is None else None
    p_supported = min(
        (max(before[i], after[j]) for i in range(count) for j in later or range(i + 1, count)), default=1.0
    )
    # What is no fall is below 0 up to some place and above it from there on; with no direction, on one side throughout.
    places = (0, count) if direction is None else range(count + 1)
    wrong = [max([*below[:place], *above[place:]]) for place in places]
    return float(p_supported), min(1.0, len(wrong) * float(min(wrong)))


def _checked(
    at: Values, differences: Array | Sequence[Sequence[float]], spacing: Spacing
) -> tuple[Array, Array]:
    positions, table = np.asarray(at, dtype=np.float64), np.asarray(differences, dtype=np.float64)
    if positions.ndim != 1 or len(positions) < 2 or not (np.diff(positions) > 0).all():
        raise DisbudError(f"`at` is two or more rising positions, as [0.9, 0.95, 0.98], not {at!r}")
    if table.ndim != 2 or table.shape[1] != len(positions) or table.shape[0] < 2:
        raise DisbudError(
            f"differences have a row a seed (2 at least) and a column for each of {len(positions)} positions, "
            f"not the shape {table.shape}"
        )
    if not np.isfinite(table).all():
        raise DisbudError("differences are finite; give a run that diverged the value it counts as")
    if spacing not in ("plain", "log-density"):
        raise DisbudError(f"spacing is 'plain' or 'log-density', not {spacing!r}")
    if spacing == "log-density" and not (positions[0] >= 0 and positions[-1] < 1):
        raise DisbudError(f"spacing='log-density' takes sparsities from 0 to below 1, not {at!r}")
    return positions, table


def _crossings(x: Array, mean: Array) -> tuple[list[float], bool]:
    """Where the broken line through the means changes sign, and whether it rises there; zeros alone are no change."""
    signed = [(float(a), float(m)) for a, m in zip(x, mean, strict=True) if m != 0]
    zeros = {float(a) for a, m in zip(x, mean, strict=True) if m == 0}
    found, rises = [], False
    for (a, m), (b, k) in pairwise(signed):
        if m * k < 0:
            between = [z for z in zeros if a < z < b]
            found.append(math.fsum(between) / len(between) if between else a + (b - a) * m / (m - k))
            rises = k > 0
    return found, rises


def _accepted(x: Array, table: Array, level: float) -> list[tuple[float, float]]:
    """The pieces of {position: mean^2 <= t^2 s^2 / n}; on each straight piece both sides are quadratic."""
    n = len(table)
    factor = float(stats.t.ppf((1 + level) / 2, n - 1)) ** 2 / n
    mean, spread = table.mean(0), np.cov(table, rowvar=False)
    pieces: list[tuple[float, float]] = []
    for i, (start, end) in enumerate(pairwise(x.tolist())):
        m, step = mean[i], mean[i + 1] - mean[i]
        v, both, w = spread[i, i], spread[i, i + 1], spread[i + 1, i + 1]
        square = step**2 - factor * (v - 2 * both + w)
        linear = 2 * (m * step - factor * (both - v))
        constant = m**2 - factor * v
        roots = np.roots([square, linear, constant])
        cuts = sorted({0.0, 1.0, *(float(r.real) for r in roots if abs(r.imag) < 1e-12 and 0 < r.real < 1)})
        for a, b in pairwise(cuts):
            middle = (a + b) / 2
            if square * middle**2 + linear * middle + constant <= 0:
                low, high = start + a * (end - start), start + b * (end - start)
                if pieces and pieces[-1][1] >= low - 1e-12 * (x[-1] - x[0]):
                    low = pieces.pop()[0]
                pieces.append((low, high))
    return pieces
