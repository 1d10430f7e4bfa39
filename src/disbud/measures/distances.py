"""How far apart two sets of numbers are: Wasserstein-1, Kolmogorov-Smirnov and Jensen-Shannon distances."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from disbud.errors import DisbudError
from disbud.measures.samples import Sample, shared_edges


def wasserstein(a: Tensor | Sample, b: Tensor | Sample) -> float:
    """The Wasserstein-1 (earth mover's) distance of two samples, the integral of abs(F_a - F_b).

    >>> import torch
    >>> from disbud.measures import wasserstein
    >>> wasserstein(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 1.5]))
    0.5
    """
    points, difference = _distributions(a, b)
    return float((points.diff() * difference[:-1].abs()).sum())


def kolmogorov_smirnov(a: Tensor | Sample, b: Tensor | Sample) -> float:
    """The Kolmogorov-Smirnov statistic of two samples, the largest abs(F_a - F_b).

    >>> import torch
    >>> from disbud.measures import kolmogorov_smirnov
    >>> kolmogorov_smirnov(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 1.5]))
    0.5
    """
    _, difference = _distributions(a, b)
    return float(difference.abs().max())


def jensen_shannon(a: Tensor | Sample, b: Tensor | Sample, *, bins: int = 100) -> float:
    """The Jensen-Shannon divergence in bits, 0 to 1, of two samples' histograms on shared bins of equal width.

    >>> import torch
    >>> from disbud.measures import jensen_shannon
    >>> jensen_shannon(torch.tensor([0.0, 1.0]), torch.tensor([5.0, 6.0]), bins=10)
    1.0
    """
    pair = _pair(a, b)
    edges = shared_edges(pair, bins)
    p, q = (sample.counts(edges).double() / sample.size for sample in pair)
    # xlogy counts an empty bin as zero.
    of_mean, of_p, of_q = (-float(torch.xlogy(part, part).sum()) for part in ((p + q) / 2, p, q))
    return max(0.0, (of_mean - (of_p + of_q) / 2) / math.log(2))


def _distributions(a: Tensor | Sample, b: Tensor | Sample) -> tuple[Tensor, Tensor]:
    """All numbers in order, and F_a - F_b from each of them to the next."""
    x, y = _pair(a, b)
    zero = x.values.new_zeros(1 if x.zeros or y.zeros else 0)
    points = torch.cat([x.values, y.values, zero]).sort().values
    return points, x.distribution(points) - y.distribution(points)


def _pair(a: Tensor | Sample, b: Tensor | Sample) -> tuple[Sample, Sample]:
    x, y = Sample.of(a), Sample.of(b)
    if not x.size or not y.size:
        raise DisbudError("the distance to a set of no numbers is not defined")
    return x, y
