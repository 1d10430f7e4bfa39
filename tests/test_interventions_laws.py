"""Every mask an intervention can give comes equally often: chi-square over all of them, on fixed seeds."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor, nn

import disbud
from disbud import Ticket
from disbud.interventions import on_mask, on_weights

FALSE_ALARM = 1e-7  # the probability that a right law fails one of these tests
DRAWS = 1500

pytestmark = pytest.mark.filterwarnings("ignore:.* left every mask as it was")

Bits = tuple[int, ...]


def bits(ticket: Ticket) -> Bits:
    return tuple(torch.cat([mask.flatten() for mask in ticket.masks.values()]).int().tolist())


def of_count(size: int, kept: int) -> set[Bits]:
    return {
        tuple(int(i in chosen) for i in range(size)) for chosen in itertools.combinations(range(size), kept)
    }


def assert_uniform(found: Iterable[Bits], possible: set[Bits]) -> None:
    counts = Counter(found)
    assert counts.keys() <= possible
    expected = counts.total() / len(possible)
    assert expected > 40
    statistic = sum((counts[one] - expected) ** 2 / expected for one in possible)
    assert statistic < chi2.isf(FALSE_ALARM, len(possible) - 1)
    assert counts.keys() == possible


def assert_same_law(first: Iterable[Bits], second: Iterable[Bits]) -> None:
    a, b = Counter(first), Counter(second)
    assert a.total() == b.total()
    statistic = sum((a[one] - b[one]) ** 2 / (a[one] + b[one]) for one in a.keys() | b.keys())
    assert statistic < chi2.isf(FALSE_ALARM, len(a.keys() | b.keys()) - 1)


def draws(ticket: Ticket, name: str, count: int = DRAWS) -> list[Bits]:
    return [bits(on_mask(ticket, name, seed=seed)) for seed in range(count)]


def test_the_chi_square_tells_a_law_that_is_a_little_off() -> None:
    # Of fifteen masks one comes twice as often as the others.
    possible = sorted(of_count(6, 2))
    skewed = [possible[0]] * 280 + [one for one in possible[1:] for _ in range(140)]
    with pytest.raises(AssertionError):
        assert_uniform(skewed, set(possible))


def test_shuffle_and_like_draw_from_all_masks_of_the_count_alike() -> None:
    ticket = Ticket({"w": torch.tensor([[1, 1, 0], [0, 0, 0]]).bool()})
    shuffled, fresh = draws(ticket, "shuffle"), draws(ticket, "like")
    assert_uniform(shuffled, of_count(6, 2))
    assert_uniform(fresh, of_count(6, 2))
    assert_same_law(shuffled, fresh)
    assert shuffled != fresh


def test_shuffle_global_has_the_law_of_the_method_random() -> None:
    model = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 2))
    ticket = Ticket.from_masks({"0.weight": torch.ones(1, 2), "1.weight": torch.zeros(2, 1)}, model=model)
    shuffled = draws(ticket, "shuffle-global", 300)
    pruned = [bits(disbud.prune(model, "random", sparsity=0.5, seed=seed)) for seed in range(300)]
    assert_uniform(shuffled, of_count(4, 2))
    assert_uniform(pruned, of_count(4, 2))
    assert_same_law(shuffled, pruned)


def test_shuffle_rows_draws_each_row_by_itself() -> None:
    ticket = Ticket({"w": torch.tensor([[1, 0, 0, 0], [0, 1, 1, 0]]).bool()})
    possible = {a + b for a in of_count(4, 1) for b in of_count(4, 2)}
    assert_uniform(draws(ticket, "shuffle-rows"), possible)


def test_shuffle_columns_draws_each_column_by_itself() -> None:
    ticket = Ticket({"w": torch.tensor([[1, 0], [0, 1], [0, 1], [0, 0]]).bool()})
    possible = {
        tuple(one for pair in zip(a, b, strict=True) for one in pair)
        for a in of_count(4, 1)
        for b in of_count(4, 2)
    }
    assert_uniform(draws(ticket, "shuffle-columns"), possible)


def test_shuffle_kernels_orders_kernels_in_all_ways() -> None:
    kernels = [(1, 0), (1, 1), (0, 1), (0, 0)]
    ticket = Ticket({"w": torch.tensor(kernels).view(2, 2, 2).bool()})
    possible = {tuple(itertools.chain(*order)) for order in itertools.permutations(kernels)}
    assert len(possible) == 24
    assert_uniform(draws(ticket, "shuffle-kernels"), possible)


def same_degrees(mask: Tensor) -> set[Bits]:
    """All masks with the row and column counts of this one, by trying every row that fits."""
    rows, columns = mask.sum(1).tolist(), mask.sum(0).tolist()

    def fill(row: int, left: list[int]) -> Iterable[Bits]:
        if row == len(rows):
            yield ()
            return
        for one in of_count(len(columns), rows[row]):
            after = [a - b for a, b in zip(left, one, strict=True)]
            if min(after) >= 0 and max(after) < len(rows) - row:
                yield from (one + rest for rest in fill(row + 1, after))

    return set(fill(0, columns))


DEGREES = {
    "permutations": ["100", "010", "001"],
    "uneven": ["1110", "1000", "0100", "1001"],
    "dense": ["1110", "0111", "1011", "1101"],
    "wide": ["110100", "001010"],
    "tall": ["10", "10", "01", "01", "11", "00"],
    "idle units": ["0000", "1111", "0110", "1001", "0011"],
}


@pytest.mark.parametrize("rows", DEGREES.values(), ids=DEGREES)
def test_shuffle_degrees_draws_from_all_masks_of_the_degrees_alike(rows: list[str]) -> None:
    # Groups of a convolution are graphs of their own: one ticket holds thousands of independent draws.
    mask = torch.tensor([[int(digit) for digit in row] for row in rows]).bool()
    possible = same_degrees(mask)
    assert len(possible) > 5
    groups, (outputs, inputs) = 120 * len(possible), mask.shape
    layer = nn.Conv2d(groups * inputs, groups * outputs, 1, groups=groups)
    ticket = Ticket.from_masks({"weight": mask.repeat(groups, 1)[..., None, None]}, model=layer)
    shuffled = on_mask(ticket, "shuffle-degrees", seed=0, model=layer).masks["weight"]
    assert_uniform((tuple(one.flatten().int().tolist()) for one in shuffled.view(groups, -1)), possible)


def test_shuffle_degrees_draws_the_taps_by_themselves() -> None:
    taps = 2000
    mask = torch.eye(2).bool()
    layer = nn.Conv1d(2, 2, taps)
    ticket = Ticket.from_masks({"weight": mask[..., None].repeat(1, 1, taps)}, model=layer)
    shuffled = on_mask(ticket, "shuffle-degrees", seed=0, model=layer).masks["weight"]
    upright = shuffled[0, 0].int()
    assert_uniform(
        [tuple(pair) for pair in upright.view(-1, 2).tolist()], set(itertools.product((0, 1), repeat=2))
    )
    assert torch.equal(shuffled.sum(0), torch.ones(2, taps).long())


def test_permute_values_orders_the_kept_values_in_all_ways() -> None:
    state = {"w": torch.arange(8.0)}
    ticket = Ticket({"w": torch.tensor([1, 0, 1, 0, 0, 1, 1, 0]).bool()})
    drawn = [on_weights(state, ticket, "permute-values", seed=seed)[0] for seed in range(DRAWS)]
    possible = {(a, 1, b, 3, 4, c, d, 7) for a, b, c, d in itertools.permutations((0, 2, 5, 6))}
    assert len(possible) == math.factorial(4)
    assert_uniform((tuple(one["w"].int().tolist()) for one in drawn), possible)
