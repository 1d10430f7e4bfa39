"""The critical sparsity: how much one-shot pruning at initialisation can take away before a layer is left empty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from disbud.errors import DisbudError, unknown_name
from disbud.seeds import derive
from disbud.theory.scores import LOG_GRID, log_distribution, log_quantile

Array = NDArray[np.float64]

_METHODS = ("magnitude", "sensitivity")


@dataclass(frozen=True)
class CriticalSparsity:
    """Over simulated initialisations, the sparsity at which the first layer empties: mean and standard deviation.

    `expected` is the exact mean of the same model of scores, `bound` a bound on it from above in closed form. `first`
    is, for each layer, the share of initialisations in which it is the one that empties.

    >>> from disbud import theory
    >>> found = theory.critical_sparsity([1000] * 20, log_chi=0.5)
    >>> found.first[0] < found.first[-1], found.expected < found.bound
    (True, True)
    """

    mean: float
    deviation: float
    expected: float
    bound: float
    first: tuple[float, ...]

    def __str__(self) -> str:
        return (
            f"{self.mean:.3f} +- {self.deviation:.3f} (exactly {self.expected:.3f}, at most {self.bound:.3f})"
        )


def critical_sparsity(
    sizes: Sequence[int],
    method: str = "sensitivity",
    *,
    log_chi: float | None = None,
    sensitivities: Sequence[float] | None = None,
    fan_in: Sequence[int] | None = None,
    draws: int = 200,
    seed: int = 0,
) -> CriticalSparsity:
    """The sparsity at which global one-shot pruning empties a layer, for layers of `sizes` weights, in order.

    Scores of layer l, independent, are a_l |Z1 Z2| for "sensitivity" (abs(W dL/dW)), a_l = sqrt(m_l), from
    `sensitivities` or as chi^((L - l) / 2) from `log_chi`; for "magnitude" (abs(W)) they are |Z| / sqrt(fan_in_l), so
    that the layer of the widest input goes first (Hayou et al. 2021, "Robust pruning at initialization").

    With T the smallest of the layers' largest scores, the critical sparsity is the share of scores up to T. A score s
    of layer l is among them if every other layer has one above it, so, derived here and exact, with F_l and N_l the law
    and the size of layer l: `expected` = sum_l N_l int dF_l(s) prod_(j != l) (1 - F_j(s)^N_j) / sum_l N_l.

    `bound` is derived here from the layer w alone, best over w: (N_w + sum_(j != w) N_j E[F(M a_w / a_j)]) / sum N, M
    the largest of N_w scores. For |Z1 Z2|, F(x) <= sqrt(x), P(> x) <= exp(-x) and so E[M] <= 1 + log N; for |Z|,
    F(x) <= x sqrt(2 / pi), E[M] <= sqrt(2 log(2 N)). For L layers of N weights this is, as in the paper, of order
    log(...) / (L |log chi|): at most (1 + log(1 + log N) / k + 1 / (1 - exp(-k / 2))) / L with k = |log chi| / 2.

    >>> from disbud import theory
    >>> print(theory.critical_sparsity([100 * 100] * 100, log_chi=0.4))
    0.173 +- 0.005 (exactly 0.174, at most 0.221)
    """
    n = _counts("sizes", sizes)
    if method not in _METHODS:
        raise unknown_name("method with a critical sparsity", method, _METHODS)
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 2:
        raise DisbudError(f"draws is a whole number of at least 2, not {draws!r}")
    scales = _log_scales(method, len(n), log_chi, sensitivities, fan_in)
    stream = np.random.default_rng(derive(seed, "theory", "critical-sparsity", method))
    found, first = _simulated(method, n, scales, draws, stream)
    return CriticalSparsity(
        mean=float(found.mean()),
        deviation=float(found.std(ddof=1)),
        expected=_expected(method, n, scales),
        bound=_bound(method, n, scales),
        first=tuple((np.bincount(first, minlength=len(n)) / draws).tolist()),
    )


def _simulated(
    law: str, n: NDArray[np.int64], scales: Array, draws: int, stream: np.random.Generator
) -> tuple[Array, NDArray[np.int64]]:
    """The critical sparsity of each draw, and the layer emptied.

    Only the layers' largest scores are drawn. Given its largest one, a layer's other scores are independent and up to
    it, so how many of them lie below T is binomial: the same law as from all scores, at a cost that no size matters to.
    """
    uniform = 1 - stream.random((draws, len(n)))
    largest = log_quantile(law, np.log(-np.expm1(np.log(uniform) / n)))
    at, first = (largest + scales).min(1), (largest + scales).argmin(1)
    share = np.exp(log_distribution(law, at[:, None] - scales) - log_distribution(law, largest))
    below = stream.binomial(n - 1, np.minimum(share, 1))
    below[np.arange(draws), first] = n[first]
    return below.sum(1) / n.sum(), first


def _expected(law: str, n: NDArray[np.int64], scales: Array) -> float:
    scores = np.linspace(scales.min() + math.log(1e-12), scales.max() + LOG_GRID[-1], 20001)
    middle = (scores[1:] + scores[:-1]) / 2
    survive = []
    for size, scale in zip(n, scales, strict=True):
        emptied = size * log_distribution(law, middle - scale)
        # Below exp(-700) it counts for nothing, and a floor keeps the differences of logarithms finite.
        survive.append(np.maximum(np.log(-np.expm1(np.minimum(emptied, -1e-300))), -700.0))
    together = np.sum(survive, axis=0)
    total = 0.0
    for size, scale, own in zip(n, scales, survive, strict=True):
        mass = np.diff(np.exp(log_distribution(law, scores - scale)))
        total += float(size * (mass * np.exp(together - own)).sum())
    return total / float(n.sum())


def _bound(law: str, n: NDArray[np.int64], scales: Array) -> float:
    ratios = np.exp(np.minimum(scales[:, None] - scales[None, :], 700.0))
    if law == "sensitivity":
        shares = np.sqrt((1 + np.log(n))[:, None] * ratios)
    else:
        shares = np.sqrt(2 / math.pi * 2 * np.log(2 * n))[:, None] * ratios
    shares = np.minimum(shares, 1.0)
    np.fill_diagonal(shares, 1.0)
    return float((shares @ n).min() / n.sum())


def _log_scales(
    method: str,
    layers: int,
    log_chi: float | None,
    sensitivities: Sequence[float] | None,
    fan_in: Sequence[int] | None,
) -> Array:
    if method == "magnitude":
        if log_chi is not None or sensitivities is not None:
            raise DisbudError(
                "magnitudes do not depend on gradients: give fan_in, not log_chi or sensitivities"
            )
        inputs = np.ones(layers) if fan_in is None else _counts("fan_in", fan_in, layers).astype(np.float64)
        return np.asarray(-np.log(inputs) / 2, dtype=np.float64)
    if fan_in is not None:
        raise DisbudError("fan_in is for magnitude; sensitivities enter through log_chi or sensitivities")
    if (log_chi is None) == (sensitivities is None):
        raise DisbudError(
            "give either log_chi, as in log_chi=math.log(phase.chi), or the layers' sensitivities"
        )
    if log_chi is not None:
        if not math.isfinite(log_chi):
            raise DisbudError(f"log_chi is a finite number, not {log_chi!r}")
        return np.asarray(log_chi / 2 * np.arange(layers - 1, -1, -1), dtype=np.float64)
    values = np.array(sensitivities, dtype=np.float64)
    if values.shape != (layers,) or not (np.isfinite(values) & (values > 0)).all():
        raise DisbudError(
            f"sensitivities are {layers} numbers above 0, one for each size, not {sensitivities!r}"
        )
    return np.asarray(np.log(values) / 2, dtype=np.float64)


def _counts(name: str, given: Sequence[int], layers: int | None = None) -> NDArray[np.int64]:
    values = list(given)
    whole = all(isinstance(value, int) and not isinstance(value, bool) and value > 0 for value in values)
    if not values or not whole or layers not in (None, len(values)):
        wanted = "a number for each layer" if layers is None else f"{layers} numbers, one for each size"
        raise DisbudError(f"{name} is {wanted}, whole and above 0, not {given!r}")
    return np.array(values, dtype=np.int64)
