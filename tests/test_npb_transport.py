"""The layer's problem against an integer solver and against enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import lil_matrix

from disbud.methods.transport import cover, deal, spread, spread_groups

Matrix = NDArray[np.float64]
Counts = NDArray[np.int64]
NODES = [0.0, 0.3, 2.0, 1000.0, math.inf]


def worth(values: Matrix, counts: Counts, node: float, kernel: float) -> float:
    nodes = int(counts.any(1).sum() + counts.any(0).sum())
    return node * nodes + kernel * int((counts > 0).sum()) + float((values * counts).sum())


def best(values: Matrix, caps: Counts, budget: int, node: float, kernel: float) -> float:
    """The optimum by an integer program: units x, kernels y <= x <= K y, rows u <= sum y, columns w <= sum y."""
    n, m = values.shape
    size = n * m
    gains = np.concatenate([values.ravel(), np.full(size, kernel), np.full(n + m, node)])
    table = lil_matrix((2 * size + n + m + 1, 2 * size + n + m))
    bounds = np.zeros(table.shape[0])
    for i, j in itertools.product(range(n), range(m)):
        e = i * m + j
        table[2 * e, e], table[2 * e, size + e] = 1, -caps[i, j]
        table[2 * e + 1, size + e], table[2 * e + 1, e] = 1, -1
        table[2 * size + i, size + e] = -1
        table[2 * size + n + j, size + e] = -1
    for k in range(n + m):
        table[2 * size + k, 2 * size + k] = 1
    table[-1, :size] = 1
    bounds[-1] = budget
    most = np.concatenate([caps.ravel(), np.ones(size + n + m)])
    found = milp(
        -gains,
        constraints=LinearConstraint(table.tocsr(), ub=bounds),
        integrality=np.ones(len(gains)),
        bounds=Bounds(0, most),
        options={"mip_rel_gap": 0},
    )
    return float(-found.fun)


def finite(node: float, values: Matrix, budget: int, kernel: float) -> float:
    """A node worth more than all paths and kernels that a budget can buy, where nodes come first."""
    return node if math.isfinite(node) else float((budget + 1) * (values.max() + kernel))


def gap(values: Matrix, caps: Counts, counts: Counts, budget: int, node: float, kernel: float) -> float:
    assert (counts >= 0).all()
    assert (counts <= caps).all()
    assert counts.sum() == min(budget, caps.sum())
    price = finite(node, values, budget, kernel)
    optimum = best(values, caps, budget, price, kernel)
    return (optimum - worth(values, counts, price, kernel)) / max(1.0, abs(optimum))


def drawn(rng: np.random.Generator) -> tuple[Matrix, Counts, int, float, float]:
    n, m, most = (int(x) for x in rng.integers(1, [7, 7, 5]))
    values = [
        rng.random((n, m)),
        rng.integers(1, 4, (n, m)) * 1.0,  # full of ties
        np.exp(2 * rng.normal(size=(n, 1))) * np.exp(2 * rng.normal(size=(1, m))),  # paths in times paths out
        10.0 ** rng.integers(-12, 12, (n, m)),
        np.ones((n, m)),
    ][rng.integers(5)]
    caps = rng.integers(0, most + 1, (n, m)) if rng.random() < 0.6 else np.full((n, m), most)
    budget = int(rng.integers(0, caps.sum() + 2))
    return values, caps, budget, NODES[rng.integers(5)], [0.0, 0.1, 1.0][rng.integers(3)]


@pytest.mark.parametrize("seed", range(4))
def test_differing_columns_against_an_integer_solver(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(100):
        values, caps, budget, node, kernel = drawn(rng)
        found = cover(values, caps, budget, node=node, kernel=kernel)
        assert gap(values, caps, found, budget, node, kernel) <= 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_like_columns_against_an_integer_solver(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(100):
        values, caps, _, node, kernel = drawn(rng)
        n, m = values.shape
        by_row, room = values[:, 0], caps[:, 0]
        budget = int(rng.integers(0, room.sum() * m + 2))
        units = spread(by_row, room, m, budget, node=node, kernel=kernel, rng=rng)
        counts = deal(units, m, rng)
        full = np.repeat(by_row[:, None], m, 1), np.repeat(room[:, None], m, 1)
        assert gap(*full, counts, budget, node, kernel) <= 1e-9
        assert counts.shape == (n, m)


@pytest.mark.parametrize("seed", range(2))
def test_groups_against_an_integer_solver(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(60):
        groups, n, m, most = (int(x) for x in rng.integers(1, [4, 4, 4, 4]))
        values = rng.random((groups, n)) if rng.random() < 0.5 else rng.integers(1, 3, (groups, n)) * 1.0
        caps = rng.integers(0, most + 1, (groups, n))
        node, kernel = NODES[rng.integers(5)], [0.0, 0.2][rng.integers(2)]
        budget = int(rng.integers(0, caps.sum() * m + 2))
        units = spread_groups(values, caps, np.full(groups, m), budget, node=node, kernel=kernel, rng=rng)
        big, room, found = (np.zeros((groups * n, groups * m), kind) for kind in (float, int, int))
        for g in range(groups):
            at = np.s_[g * n : (g + 1) * n, g * m : (g + 1) * m]
            big[at], room[at] = values[g][:, None], caps[g][:, None]
            found[at] = deal(units[g], m, rng)
        assert gap(big, room, found, budget, node, kernel) <= 1e-9


@pytest.mark.parametrize("node", [0.4, math.inf])
def test_tiny_layers_by_enumeration(node: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(25):
        values, caps = rng.random((2, 3)), rng.integers(0, 3, (2, 3))
        every = np.array(list(itertools.product(*(range(cap + 1) for cap in caps.ravel()))))
        for budget in range(int(caps.sum()) + 1):
            found = cover(values, caps, budget, node=node, kernel=0.1)
            price = finite(node, values, budget, 0.1)
            reachable = [worth(values, one.reshape(2, 3), price, 0.1) for one in every if one.sum() <= budget]
            assert worth(values, found, price, 0.1) == pytest.approx(max(reachable), rel=1e-9)


def test_values_over_forty_powers_of_ten_lose_no_node() -> None:
    rng = np.random.default_rng(0)
    values = 10.0 ** rng.uniform(-20, 20, (30, 40))
    caps = np.full((30, 40), 9)
    found = cover(values, caps, 100, node=math.inf, kernel=0.0)
    assert found.any(1).all()
    assert found.any(0).all()
    units = spread(values[:, 0], caps[:, 0], 40, 100, node=math.inf, kernel=0.0, rng=rng)
    assert (units > 0).all()


def test_dealing_out_is_even() -> None:
    rng = np.random.default_rng(0)
    units = rng.integers(0, 30, 50)
    found = deal(units, 11, rng)
    assert (found.sum(1) == units).all()
    assert np.ptp(found.sum(0)) <= 1
    assert ((found > 0).sum(1) == np.minimum(units, 11)).all()
    assert (np.ptp(found, axis=1) <= 1).all()


def test_the_seed_permutes_equal_optima() -> None:
    alike, caps = np.ones(20), np.full(20, 3)
    found = [
        spread(alike, caps, 4, 10, node=math.inf, kernel=0.0, rng=np.random.default_rng(seed)).tolist()
        for seed in (0, 0, 1)
    ]
    assert found[0] == found[1] != found[2]
    assert all(sorted(one) == [0] * 10 + [1] * 10 for one in found)
