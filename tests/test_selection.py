"""Exact selection against a full stable sort, exact counts against decimal arithmetic, and the schedules' values."""

from __future__ import annotations

import decimal
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from disbud.errors import DisbudError
from disbud.selection import check_sparsity, keep_highest, keep_lowest, kept_count, schedule, top

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SIZES = [
    (1 << 20, 1 << 18, 1 << 14),
    (3, 1, 2),
    (5, 4, 3),
    (64, 16, 8),
]  # scores in a chunk, ranked outright, sampled
REAL = SIZES[0]


@contextmanager
def internal_sizes(chunk: int, ranked: int, sample: int) -> Iterator[None]:
    """With small ones the narrowing loop runs on small inputs."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("_CHUNK", chunk), ("_RANKED", ranked), ("_SAMPLE", sample)):
            patch.setattr(top, name, value)
        yield


def flat(parts: dict[str, Tensor]) -> numpy.ndarray:
    return torch.cat([part.double().reshape(-1) for part in parts.values()]).numpy()


def split_like(kept: numpy.ndarray, parts: dict[str, Tensor]) -> dict[str, Tensor]:
    pieces = torch.from_numpy(kept).split([part.numel() for part in parts.values()])
    return {name: piece.view(part.shape) for (name, part), piece in zip(parts.items(), pieces, strict=True)}


def highest_by_sort(parts: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    values = flat(parts)
    kept = numpy.zeros(len(values), bool)
    kept[numpy.argsort(-values, kind="stable")[:count]] = True
    return split_like(kept, parts)


def lowest_by_sort(parts: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    values = flat(parts)
    values[values == 0] = math.inf  # kept last
    kept = numpy.zeros(len(values), bool)
    kept[numpy.argsort(values, kind="stable")[:count]] = True
    return split_like(kept, parts)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, mask in expected.items():
        assert found[name].dtype == torch.bool
        assert torch.equal(found[name], mask), name


TIED = st.sampled_from([0.0, -0.0, 1.0, 1.0, 2.0, -1.0, 0.5])
TINY = st.sampled_from([5e-324, 1e-310, 1e-45, 6e-8, 1e-40, 0.0, -1e-45, 1e-38, 1e-7])
WIDE = st.integers(-38, 38).map(lambda e: 10.0**e)
ANY = st.floats(-6e4, 6e4, allow_nan=False)


@st.composite
def scores_and_count(draw: st.DrawFn) -> tuple[dict[str, Tensor], int]:
    dtype = draw(st.sampled_from(DTYPES))
    kind = draw(st.sampled_from([TIED, TINY, ANY] if dtype == torch.float16 else [TIED, TINY, WIDE, ANY]))
    lengths = draw(st.lists(st.sampled_from([0, 1, 2, 3, 6, 15, 16, 17, 40, 64]), min_size=1, max_size=6))
    parts = {}
    for i, length in enumerate(lengths):
        values = torch.tensor(draw(st.lists(kind, min_size=length, max_size=length)), dtype=torch.float64)
        shape = (2, length // 2) if length % 2 == 0 else (length,)
        parts[f"layer{i}"] = values.to(dtype).view(shape)
    total = sum(lengths)
    count = draw(
        st.sampled_from(sorted({0, 1, total // 3, total // 2, total - 1, total} & set(range(total + 1))))
    )
    return parts, count


@settings(max_examples=150, deadline=None, derandomize=True)
@given(drawn=scores_and_count(), sizes=st.sampled_from(SIZES))
def test_selection_is_a_full_stable_sort(
    drawn: tuple[dict[str, Tensor], int], sizes: tuple[int, int, int]
) -> None:
    parts, count = drawn
    with internal_sizes(*sizes):
        assert_same(keep_highest(parts, count), highest_by_sort(parts, count))
        assert_same(keep_lowest(parts, count), lowest_by_sort(parts, count))


def sawtooth(n: int, period: int) -> Tensor:
    return (torch.arange(n) % period).float()


def distributions(n: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(n)
    u = torch.rand(n, generator=g)
    few = torch.ones(n)
    few[torch.randint(0, n, (5,), generator=g)] = 2.0
    stride = max(1, n // (1 << 14)) | 1
    return {
        "normal": torch.randn(n, generator=g).abs(),
        "constant": torch.full((n,), 0.25),
        "all equal but few": few,
        "two values": (u < 0.3).float(),
        "38 decades either way": (10 ** (76 * u.double() - 38)).float(),
        "sorted": torch.arange(n).float(),
        "reversed": torch.arange(n, 0, -1).float(),
        "sawtooth in step with the sample": sawtooth(n, stride),
        "sawtooth one longer": sawtooth(n, stride + 1),
        "one in a thousand not zero": torch.where(u < 1e-3, u, 0.0),
        "subnormal": (torch.randint(0, 5, (n,), generator=g) * 1e-45).float(),
    }


@pytest.mark.parametrize("name", distributions(8))
@pytest.mark.parametrize(
    ("n", "sizes"), [(300, (7, 4, 3)), (1000, (64, 16, 8)), (1000, (100, 100, 10)), (400_001, REAL)]
)
def test_hard_distributions(name: str, n: int, sizes: tuple[int, int, int]) -> None:
    values = distributions(n)[name]
    parts = {"a": values[: n // 3].view(-1, 1), "none": values[:0], "b": values[n // 3 :]}
    with internal_sizes(*sizes):
        for count in (1, n // 50, n // 2, n - 1):
            assert_same(keep_highest(parts, count), highest_by_sort(parts, count))


@pytest.mark.parametrize("n", [REAL[1] - 1, REAL[1], REAL[1] + 1, REAL[0] - 1, REAL[0] + 1])
def test_around_the_sizes_at_which_the_way_changes(n: int) -> None:
    values = torch.randint(0, 1000, (n,), generator=torch.Generator().manual_seed(0)).float()
    assert_same(keep_highest({"a": values}, n // 10), highest_by_sort({"a": values}, n // 10))


def test_the_narrowing_loop_runs_on_small_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    real = top._sample

    def noting(parts: list[Tensor], low: float, high: float, inside: int) -> Tensor:
        passes.append(inside)
        return real(parts, low, high, inside)

    monkeypatch.setattr(top, "_sample", noting)
    with internal_sizes(3, 1, 2):
        keep_highest({"a": torch.randn(200, generator=torch.Generator().manual_seed(0))}, 50)
    assert len(passes) > 2
    passes.clear()
    keep_highest({"a": torch.arange(200.0)}, 50)
    assert not passes


def test_many_small_tensors() -> None:
    g = torch.Generator().manual_seed(1)
    parts = {f"layer{i}": torch.randint(0, 9, (i % 7, 3), generator=g).float() for i in range(500)}
    total = sum(part.numel() for part in parts.values())
    for sizes in SIZES:
        with internal_sizes(*sizes):
            assert_same(keep_highest(parts, total // 5), highest_by_sort(parts, total // 5))
            assert_same(keep_lowest(parts, total - 3), lowest_by_sort(parts, total - 3))


def test_position_is_the_logical_one_whatever_the_memory_layout() -> None:
    scores = torch.ones(3, 4).t()
    assert not scores.is_contiguous()
    kept = keep_highest({"a": scores}, 5)["a"]
    assert kept.reshape(-1).nonzero().view(-1).tolist() == [0, 1, 2, 3, 4]


def test_layers_of_several_precisions_rank_together() -> None:
    parts = {
        "a": torch.tensor([1.0, 3.0], dtype=torch.bfloat16),
        "b": torch.tensor([2.0, 1.0 + 1e-12], dtype=torch.float64),
    }
    assert keep_highest(parts, 3)["a"].tolist() == [False, True]
    assert keep_highest(parts, 3)["b"].tolist() == [True, True]


def test_zeros_are_no_low_scores() -> None:
    parts = {"dead": torch.zeros(4), "alive": torch.tensor([3.0, -1.0, 0.0, 2.0])}
    assert keep_lowest(parts, 2)["alive"].tolist() == [False, True, False, True]
    assert not keep_lowest(parts, 3)["dead"].any()
    assert keep_lowest(parts, 5)["dead"].tolist() == [True, True, False, False]


@pytest.mark.parametrize("keep", [keep_highest, keep_lowest])
def test_what_cannot_be_ranked_names_the_layer(keep: object) -> None:
    fine = torch.ones(3)
    for odd, what in ((math.nan, "NaN"), (math.inf, "infinite"), (-math.inf, "infinite")):
        with pytest.raises(DisbudError, match=f"scores of second hold {what}"):
            keep({"first": fine, "second": torch.tensor([1.0, odd])}, 2)  # type: ignore[operator]
    with pytest.raises(DisbudError, match=r"floating-point"):
        keep({"first": torch.ones(3, dtype=torch.int64)}, 2)  # type: ignore[operator]
    for count in (-1, 4):
        with pytest.raises(DisbudError, match=f"cannot keep {count} of 3"):
            keep({"first": fine}, count)  # type: ignore[operator]


def half_up(sparsity: float, total: int) -> int:
    with decimal.localcontext(prec=400):
        return int(((1 - Decimal(str(sparsity))) * total).quantize(Decimal(1), decimal.ROUND_HALF_UP))


@settings(max_examples=500, deadline=None, derandomize=True)
@given(
    sparsity=st.one_of(
        st.floats(0, 1),
        st.integers(0, 10**6).map(lambda k: k / 10**6),
        st.integers(0, 200).map(lambda k: k / 200),
    ),
    total=st.one_of(st.integers(0, 1000), st.integers(0, 10**12)),
)
def test_the_kept_count_rounds_half_up_in_decimal(sparsity: float, total: int) -> None:
    assert kept_count(sparsity, total) == half_up(sparsity, total)


def test_known_counts() -> None:
    for sparsity, total, kept in [(0.55, 10, 5), (0.95, 10, 1), (0.05, 10, 10), (0.9, 5, 1), (0.999999, 10**6, 1),
                                  (0, 7, 7), (1, 7, 0), (0.7, 5, 2), (0.3, 10**15 + 5, 700000000000004)]:  # fmt: skip
        assert kept_count(sparsity, total) == kept
    with decimal.localcontext(prec=3):  # the caller's decimal precision is not ours
        assert kept_count(0.98, 270_896) == 5418


def test_a_sparsity_is_a_fraction_removed() -> None:
    for odd in (-0.1, -1e-9, math.nan, math.inf, True, "0.9", None, 150.0, 101):
        with pytest.raises(DisbudError, match=r"sparsity is the fraction of weights to remove"):
            check_sparsity(odd)  # type: ignore[arg-type]
    for per_cent, meant in ((98, "0.98"), (99.5, "0.995"), (2, "0.02")):
        with pytest.raises(DisbudError, match=f"for {per_cent} per cent give sparsity={meant}$"):
            check_sparsity(per_cent)
    assert check_sparsity(numpy.float64(0.5)) == 0.5
    assert check_sparsity(1) == 1.0


@pytest.mark.parametrize("rounds", [1, 2, 10, 100])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.98, 0.999999, 1.0])
def test_schedules(sparsity: float, rounds: int) -> None:
    exponential = schedule("exponential", sparsity, rounds)
    linear = schedule("linear", sparsity, rounds)
    for k in range(1, rounds + 1):
        assert exponential[k - 1] == pytest.approx(1 - (1 - sparsity) ** (k / rounds), abs=1e-12)
        assert linear[k - 1] == pytest.approx(sparsity * k / rounds, abs=1e-12)
    for steps in (exponential, linear):
        assert len(steps) == rounds
        assert steps == sorted(steps)
        assert steps[-1] == sparsity  # to the last bit
    assert schedule("one-shot", sparsity, 1) == [sparsity]


@pytest.mark.parametrize("rounds", [0, -1, 1.5, True, "3", None])
def test_rounds_are_counted(rounds: object) -> None:
    with pytest.raises(DisbudError, match=r"rounds is a whole number of at least 1"):
        schedule("linear", 0.5, rounds)  # type: ignore[arg-type]


def test_odd_schedules() -> None:
    with pytest.raises(DisbudError, match=r"did you mean 'linear'"):
        schedule("linea", 0.5, 2)
    with pytest.raises(DisbudError, match=r"a one-shot schedule has 1 round, not 2"):
        schedule("one-shot", 0.5, 2)


def test_numbers_of_rounds_keep_their_order() -> None:
    def counts(steps: Sequence[float]) -> list[int]:
        return [kept_count(step, 270_896) for step in steps]

    for name in ("linear", "exponential"):
        kept = counts(schedule(name, 0.98, 100))
        assert kept == sorted(kept, reverse=True)
        assert kept[-1] == 5418
