"""Spending a budget of weights on the kernels of one layer: a transportation problem with concave gains, exactly.

Units of budget go from inputs i (rows) to outputs j (columns); m_ij of them make a kernel with as many weights. With a
gain `node` for each row and each column that gets any, `kernel` for each kernel that is not empty and v_ij for each
unit, the sum is to be the largest under sum m <= B and m_ij <= K_ij. The program is that of a flow, whose linear
relaxation has integral optima, and its value is concave in B.

Where the columns of a row are alike (v_ij = v_i, K_ij = K_i) a greedy choice is exact: rows dealt out over the columns
in turn reach min(B, m) columns and min(r_i, m) kernels, both upper bounds, and what is left is one concave function of
r_i a row (`spread`, `deal`). Where they differ, the price of a unit decides (`cover`).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Gains = NDArray[np.float64]

_CLOSE = 1e-10  # prices this close, relative to their size, are one
_BESIDE = 2e-14  # so close beside a price that nothing else is bought there


def spread(
    values: Gains, caps: Counts, columns: int, budget: int, *, node: float, kernel: float, rng: np.random.Generator
) -> Counts:  # fmt: skip
    """How many units each row gets, where its columns are alike; node = inf puts nodes before all else.

    The gains of a row's units fall: node + v_i + kernel once, v_i + kernel for columns - 1 more, v_i for the rest. So
    the B largest of all are the first of their rows, and their sum is the optimum. O(n log n).

    >>> rng = np.random.default_rng(0)
    >>> spread(np.array([5.0, 1.0]), np.array([2, 2]), 3, 4, node=np.inf, kernel=0.0, rng=rng).tolist()
    [3, 1]
    """
    return spread_groups(
        values[None], caps[None], np.array([columns]), budget, node=node, kernel=kernel, rng=rng
    ).reshape(-1)


def spread_groups(
    values: Gains, caps: Counts, columns: Counts, budget: int, *, node: float, kernel: float, rng: np.random.Generator
) -> Counts:  # fmt: skip
    """The same for groups (axis 0) that share the budget and no columns.

    Each group's optimum is concave in what it gets, the sum of its rows' largest gains and of `node` for each of its
    first columns; so the groups are merged by their next gains.
    """
    groups, rows = values.shape
    first_of_all = math.isinf(node)
    m = np.broadcast_to(columns[:, None], values.shape)
    live = (caps > 0) & (m > 0)
    counts = np.stack([live * 1, live * (m - 1), live * (caps - 1) * m]).reshape(3, -1)
    extra = 0.0 if first_of_all else node
    worth = np.stack([values + kernel + extra, values + kernel, values]).reshape(3, -1)
    level = np.zeros_like(counts)
    level[0] = first_of_all
    owner = np.broadcast_to(np.arange(groups * rows), counts.shape)
    there = np.flatnonzero(counts)
    there = rng.permutation(there)  # equal optima are permuted
    level, counts, owner = (part.reshape(-1)[there] for part in (level, counts, owner))
    worth = worth.reshape(-1)[there]
    if groups > 1:
        level, worth, counts, owner = _with_columns(level, worth, counts, owner, rows, columns, node=node)
    order = np.lexsort((-worth, -level))
    before = np.cumsum(counts[order]) - counts[order]
    taken = np.clip(budget - before, 0, counts[order])
    found = np.zeros(groups * rows, np.int64)
    np.add.at(found, owner[order], taken)
    return found.reshape(groups, rows)


def _with_columns(
    level: Counts, worth: Gains, counts: Counts, owner: Counts, rows: int, columns: Counts, *, node: float
) -> tuple[Counts, Gains, Counts, Counts]:
    """The blocks of gains cut where their group's columns are all reached; those before are worth a node more."""
    group = owner // rows
    order = np.lexsort((-worth, -level, group))
    level, counts, owner, group = (part[order] for part in (level, counts, owner, group))
    worth = worth[order]
    total = np.cumsum(counts)
    start = np.concatenate([[0], total[:-1]])
    begins = np.searchsorted(group, group)
    place = start - start[begins]
    new = np.clip(columns[group] - place, 0, counts)
    extra = 0.0 if math.isinf(node) else node
    levels = np.concatenate([level + math.isinf(node), level])
    return (
        levels,
        np.concatenate([worth + extra, worth]),
        np.concatenate([new, counts - new]),
        np.concatenate([owner, owner]),
    )


def deal(units: Counts, columns: int, rng: np.random.Generator) -> Counts:
    """The units of each row dealt out over the columns, so that no column gets two more than another.

    Each row's own units are spread as evenly, so min(r_i, columns) of its kernels are not empty. O(rows * columns).
    """
    found = np.zeros((len(units), columns), np.int64)
    if not columns:
        return found
    load = np.zeros(columns, np.int64)
    for row in rng.permutation(len(units)):
        whole, rest = divmod(int(units[row]), columns)
        found[row] = whole
        load += whole
        if rest:
            least = np.argpartition(load + rng.random(columns), rest)[:rest]
            found[row, least] += 1
            load[least] += 1
    return found


def cover(values: Gains, caps: Counts, budget: int, *, node: float, kernel: float) -> Counts:
    """The units of each kernel where columns differ; node = inf puts nodes before all else.

    At a price p for a unit every unit worth more is bought; of the rows and columns that this leaves without any, each
    may still be reached at a loss, two at once by a unit where they meet: a cheapest edge cover, which is an assignment
    problem. The optimum is concave in the budget, so the price at which exactly B units are bought gives it, by
    Lagrange. O(n m log(n m)) and an assignment of those left out a step; some ten steps.

    >>> values = np.array([[9.0, 1.0], [8.0, 2.0]])
    >>> cover(values, np.ones((2, 2), np.int64), 2, node=np.inf, kernel=0.0).tolist()
    [[1, 0], [0, 1]]
    """
    total = int(caps.sum())
    if budget >= total:
        return caps.copy()
    if budget <= 0:
        return np.zeros_like(caps)
    return _Market(values, caps, node=node, kernel=kernel, budget=budget).cleared()


class _Market:
    """Units for sale at one price."""

    def __init__(self, values: Gains, caps: Counts, *, node: float, kernel: float, budget: int) -> None:
        self.caps, self.budget = caps, budget
        allowed = caps > 0
        peak = float((values + kernel)[allowed].max())
        scale = peak if peak > 0 else 1.0
        self.values = np.where(allowed, values / scale, -np.inf)
        self.first = np.where(allowed, (values + kernel) / scale, -np.inf)
        # Gains add up to no more than the budget, so a node worth one more comes before all of them.
        self.node = budget + 1.0 if math.isinf(node) else node / scale
        gains = np.concatenate([self.first[allowed], self.values[caps > 1]])
        sizes = np.concatenate([np.ones(int(allowed.sum()), np.int64), caps[caps > 1] - 1])
        order = np.argsort(-gains)
        self.gains, self.bought = gains[order], np.cumsum(sizes[order])
        self.best = (self.first.max(1), self.first.max(0))
        self.choice = (self.first.argmax(1), self.first.argmax(0))

    def cleared(self) -> Counts:
        """What is bought at the price where that is the budget."""
        low, high = 0.0, 2 * self.node + 2.0
        spent_on_cover = min(self.budget, max(self.caps.shape))
        for step in range(200):
            price = self._guess(low, high, spent_on_cover) if step < 8 else self._split(low, high)
            units, pairs, singles = self.at(price)
            spent_on_cover = len(pairs[0]) + len(singles[0])
            count = units + spent_on_cover
            if count == self.budget:
                return self._filled(price, pairs, singles)
            low, high = (price, high) if count > self.budget else (low, price)
            if high - low <= _CLOSE * high * 1e-3:
                break
        return self._between_prices(low, high)

    def at(self, price: float) -> tuple[int, tuple[Counts, Counts], tuple[Counts, Counts]]:
        """How many units are worth more, and the kernels that reach rows and columns at a loss: meeting, or not."""
        from scipy.optimize import linear_sum_assignment

        units = int(np.searchsorted(-self.gains, -price, side="left"))
        units = int(self.bought[units - 1]) if units else 0
        loss = [np.minimum(self.node, price - best) for best in self.best]
        rows, columns = (np.flatnonzero(best <= price) for best in self.best)
        pairs = (rows[:0], columns[:0])
        if len(rows) and len(columns):
            saved = loss[0][rows, None] + loss[1][columns] - (price - self.first[np.ix_(rows, columns)])
            saved = np.maximum(saved, 0.0)
            some, few = _enough(saved), _enough(saved.T)
            i, j = linear_sum_assignment(saved[np.ix_(some, few)], maximize=True)
            i, j = some[i], few[j]
            good = saved[i, j] > 0
            pairs = (rows[i[good]], columns[j[good]])
        rows = np.setdiff1d(rows[loss[0][rows] < self.node], pairs[0], assume_unique=True)
        columns = np.setdiff1d(columns[loss[1][columns] < self.node], pairs[1], assume_unique=True)
        at_rows = np.concatenate([rows, self.choice[1][columns]])
        at_columns = np.concatenate([self.choice[0][rows], columns])
        both = np.unique(np.stack([at_rows, at_columns]), axis=1)
        return units, pairs, (both[0], both[1])

    def _guess(self, low: float, high: float, spent_on_cover: int) -> float:
        rank = int(np.searchsorted(self.bought, max(1, self.budget - spent_on_cover)))
        here = self.gains[min(rank, len(self.gains) - 1)]
        after = self.gains[min(rank + 1, len(self.gains) - 1)]
        price = float(here + after) / 2
        return price if low < price < high else self._split(low, high)

    def _split(self, low: float, high: float) -> float:
        """Just beside what the middle one of the units in between is worth; half-way where there is none."""
        # At a price what is worth more is bought, so what is worth just the higher price is in between.
        first, last = np.searchsorted(-self.gains, [-high, -low], "left")
        if first < last:
            middle = float(self.gains[(first + last) // 2])
            for price in (middle * (1 + _BESIDE), middle * (1 - _BESIDE)):
                if low < price < high:
                    return price
        return _between(low, high)

    def _filled(self, price: float, pairs: tuple[Counts, Counts], singles: tuple[Counts, Counts]) -> Counts:
        found = (self.first > price) + np.where(self.values > price, np.maximum(self.caps - 1, 0), 0)
        found[pairs] = 1
        found[singles] = 1
        return found.astype(np.int64)

    def _between_prices(self, low: float, high: float) -> Counts:
        """The last units before the budget are worth just the price: some of those that tie, one way or another."""
        _, pairs, singles = self.at(high)
        found = self._filled(high, pairs, singles)
        missing = self._added(found, low, self.budget - int(found.sum()))
        for _ in range(missing):
            self._augment(found)
        return found

    def _added(self, found: Counts, low: float, missing: int) -> int:
        """Add units worth the price by themselves; how many are missing still."""
        bound = low * (1 - _CLOSE)
        for level, most in ((self.first, np.minimum(self.caps, 1)), (self.values, self.caps)):
            rows, columns = np.nonzero((level >= bound) & (found < most))
            room = most[rows, columns] - found[rows, columns]
            before = np.cumsum(room) - room
            step = np.clip(missing - before, 0, room)
            found[rows, columns] += step
            missing -= int(step.sum())
        return missing

    def _augment(self, found: Counts) -> None:
        """One unit more by the best augmenting path, from a row to a column and back over units that move."""
        put = np.where(found == 0, self.first, np.where(found < self.caps, self.values, -np.inf))
        take = np.where(found == 0, -np.inf, np.where(found == 1, -self.first, -self.values))
        at_row = np.where(found.any(1), 0.0, self.node)
        n, m = found.shape
        came_row, came_column = np.full(n, -1), np.full(m, -1)
        at_column = np.full(m, -np.inf)
        for _ in range(n + m):
            ways = at_row[:, None] + put
            source, best = ways.argmax(0), ways.max(0)
            better = best > np.maximum(at_column, -1e300) + 1e-13 * np.abs(best)
            if not better.any():
                break
            at_column[better], came_column[better] = best[better], source[better]
            ways = at_column + take
            source, best = ways.argmax(1), ways.max(1)
            better = best > np.maximum(at_row, -1e300) + 1e-13 * np.abs(best)
            at_row[better], came_row[better] = best[better], source[better]
        column = int((at_column + np.where(found.any(0), 0.0, self.node)).argmax())
        while True:
            row = int(came_column[column])
            found[row, column] += 1
            if came_row[row] < 0:
                return
            column = int(came_row[row])
            found[row, column] -= 1


def _enough(saved: Gains) -> Counts:
    """Rows among which a best assignment finds all it needs.

    Of m columns each needs but its m best rows: were it given another, one of those would be free, and no worse.
    """
    n, m = saved.shape
    if n <= 2 * m:
        return np.arange(n)
    best = np.argpartition(-saved, m - 1, axis=0)[:m]
    return np.unique(best)


def _between(low: float, high: float) -> float:
    """Half-way by the exponent: prices range over many powers of ten."""
    if low <= 0:
        return high / 1024 if high > 1e-290 else high / 2
    middle = math.sqrt(low) * math.sqrt(high)
    return middle if low < middle < high else (low + high) / 2
