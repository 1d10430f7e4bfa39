"""A set of numbers to describe: sorted values, and a count of zeros beside them that are never laid out in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from disbud.errors import DisbudError


@dataclass(frozen=True)
class Sample:
    """So many zeros more than the sorted values. At density .05 they would be nineteen in twenty numbers."""

    values: Tensor
    zeros: int = 0

    @staticmethod
    def of(values: Tensor | Sample) -> Sample:
        """The sample of these numbers, in float64 on the CPU."""
        if isinstance(values, Sample):
            return values
        values = values.detach().reshape(-1).cpu().double()
        if not torch.isfinite(values).all():
            raise DisbudError("the numbers to measure hold NaN or infinite values")
        return Sample(values.sort().values)

    @property
    def size(self) -> int:
        """How many numbers there are, zeros included."""
        return self.values.numel() + self.zeros

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest number."""
        ends = [float(self.values[i]) for i in (0, -1) if len(self.values)] + [0.0] * (self.zeros > 0)
        return min(ends), max(ends)

    def distribution(self, points: Tensor) -> Tensor:
        """F(x), the fraction of the numbers that are at most x."""
        at_most = torch.searchsorted(self.values, points, right=True)
        return (at_most + self.zeros * (points >= 0)).double() / self.size

    def counts(self, edges: Tensor) -> Tensor:
        """How many numbers lie in each bin; a bin holds its lower edge, the last one its upper edge too."""
        bins = len(edges) - 1
        counted = torch.bincount(_bin(self.values, edges), minlength=bins)
        if self.zeros:
            counted[_bin(edges.new_zeros(1), edges)] += self.zeros
        return counted

    def moments(self) -> dict[str, float | None]:
        """Mean, standard deviation, mean absolute value, skew, excess kurtosis and least absolute value."""
        names = ("mean", "sd", "abs_mean", "skew", "kurtosis", "min_abs")
        if not self.size:
            return dict.fromkeys(names)
        mean = float(self.values.sum()) / self.size
        variance = self._central(mean, 2)
        # The rounding of the mean leaves about this much where all numbers are one and the same.
        spread = variance > (2 * torch.finfo(torch.float64).eps * mean) ** 2
        return {
            "mean": mean,
            "sd": variance**0.5 if spread else 0.0,
            "abs_mean": float(self.values.abs().sum()) / self.size,
            "skew": self._central(mean, 3) / variance**1.5 if spread else None,
            "kurtosis": self._central(mean, 4) / variance**2 - 3 if spread else None,
            "min_abs": 0.0 if self.zeros else float(self.values.abs().min()),
        }

    def quantiles(self, levels: Sequence[float]) -> list[float | None]:
        """The quantiles at these levels, interpolated linearly between the two numbers around."""
        if not self.size:
            return [None for _ in levels]
        at = torch.tensor([level * (self.size - 1) for level in levels], dtype=torch.float64)
        below = at.floor().long()
        above = (below + 1).clamp(max=self.size - 1)
        return list(torch.lerp(self._ranked(below), self._ranked(above), at - below).tolist())

    def _central(self, mean: float, power: int) -> float:
        total = float((self.values - mean).pow(power).sum()) + self.zeros * (-mean) ** power
        return total / self.size

    def _ranked(self, rank: Tensor) -> Tensor:
        """The numbers of these ranks, the zeros standing between the negative values and the others."""
        if not len(self.values):
            return torch.zeros(len(rank), dtype=torch.float64)
        negative = int(torch.searchsorted(self.values, 0.0))
        is_zero = (rank >= negative) & (rank < negative + self.zeros)
        place = torch.where(rank < negative, rank, rank - self.zeros)
        return self.values[place.clamp(0, len(self.values) - 1)].masked_fill(is_zero, 0)


def _bin(values: Tensor, edges: Tensor) -> Tensor:
    return (torch.bucketize(values, edges, right=True) - 1).clamp_(0, len(edges) - 2)


def shared_edges(samples: Sequence[Sample], bins: int) -> Tensor:
    """The edges of so many bins of equal width over the range of all samples; around a single value, one unit wide."""
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise DisbudError(f"bins is a whole number of at least 1, not {bins!r}")
    ranges = [sample.range for sample in samples if sample.size] or [(0.0, 0.0)]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return torch.linspace(low, high, bins + 1, dtype=torch.float64)
