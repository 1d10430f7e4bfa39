"""What depth does to signals and gradients, layer by layer: variances, correlations, gradients, sensitivities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from disbud.errors import DisbudError
from disbud.theory.activations import Activation, ActivationLike, activation
from disbud.theory.maps import check_sigmas, next_gap
from disbud.theory.moments import second_moment, slope_moment


@dataclass(frozen=True)
class Forward:
    """Of the pre-activations of layers 1 to L: variances q_l, and correlations c_l of two inputs where asked for.

    >>> from disbud import theory
    >>> theory.forward("linear", depth=2, sigma_w=2.0, input_correlation=0.5).q
    (4.0, 16.0)
    """

    q: tuple[float, ...]
    correlations: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Backward:
    """Of layers 1 to L, relative to the last: gradient moments E[(dL/dy_l)^2], sensitivities E[(W_l dL/dW_l)^2].

    `chi` are the L - 1 factors sw^2 E[phi'(sqrt(q_l) Z)^2], from layer 1 on.

    >>> from disbud import theory
    >>> theory.backward("linear", depth=3, sigma_w=2.0).gradients
    (16.0, 4.0, 1.0)
    """

    gradients: tuple[float, ...]
    sensitivities: tuple[float, ...]
    chi: tuple[float, ...]

    @property
    def log_slope(self) -> float:
        """The slope of log m_l over l, by least squares: -log chi once q_l stands still."""
        if len(self.sensitivities) < 2 or not all(0 < m < math.inf for m in self.sensitivities):
            return math.nan
        depth = np.arange(len(self.sensitivities))
        return float(np.polyfit(depth, np.log(self.sensitivities), 1)[0])


def forward(
    like: ActivationLike,
    *,
    depth: int,
    sigma_w: float,
    sigma_b: float = 0.0,
    input_moment: float = 1.0,
    input_correlation: float | None = None,
) -> Forward:
    """q_l and c_l in a net of that depth, for inputs x of mean square `input_moment` (E[x_i^2]).

    q_1 = sb^2 + sw^2 E[x^2], q_(l+1) = V(q_l); `input_correlation` is <x, x'> / (|x| |x'|) of two inputs of that mean
    square, and c_(l+1) = C(c_l) at q_l. The maps are those of `variance_map` and `correlation_map`.

    >>> from disbud import theory
    >>> net = theory.forward("relu", depth=3, sigma_w=2**0.5, input_correlation=0.0)
    >>> [round(q, 6) for q in net.q], [round(c, 3) for c in net.correlations]
    ([2.0, 2.0, 2.0], [0.0, 0.318, 0.494])
    """
    phi = activation(like)
    _check(depth, sigma_w, sigma_b, input_moment)
    q = _variances(phi, depth, sigma_w, sigma_b, input_moment)
    if input_correlation is None:
        return Forward(q)
    if not -1 <= input_correlation <= 1:
        raise DisbudError(f"a correlation lies between -1 and 1, not {input_correlation!r}")
    gaps = [(1 - input_correlation) * sigma_w**2 * input_moment / q[0]]
    for variance in q[:-1]:
        gaps.append(next_gap(phi, variance, gaps[-1], sigma_w=sigma_w, sigma_b=sigma_b))
    return Forward(q, tuple(1 - gap for gap in gaps))


def backward(
    like: ActivationLike,
    *,
    depth: int,
    sigma_w: float,
    sigma_b: float = 0.0,
    input_moment: float = 1.0,
    widths: Sequence[int] | None = None,
) -> Backward:
    """Gradient moments and layer sensitivities in a net of that depth, from its own q_l, not only the fixed point's.

    With g_l = E[(dL/dy_l)^2], N_l units in layer l and chi_l = sw^2 E[phi'(sqrt(q_l) Z)^2]:
    g_l = (N_(l+1) / N_l) chi_l g_(l+1) (Schoenholz et al. 2017, eq. 9), and m_l = E[(W_l dL/dW_l)^2] =
    (q_l - sb^2) g_l / N_(l-1), as dL/dW = dL/dy x with weights independent of both, the assumption of the theory. So
    m_l / m_L = chi^(L - l) at a fixed point (Hayou et al. 2021). `widths` are N_0 (the inputs) to N_L; without them
    all are equal. In a convolutional net N counts channels, and the number of positions enters as a further factor.

    >>> from disbud import theory
    >>> theory.backward("linear", depth=3, sigma_w=1.0, widths=[8, 4, 4, 2]).sensitivities
    (0.25, 0.5, 1.0)
    """
    phi = activation(like)
    _check(depth, sigma_w, sigma_b, input_moment)
    n = [1] * (depth + 1) if widths is None else list(widths)
    if len(n) != depth + 1 or not all(isinstance(width, int) and width > 0 for width in n):
        raise DisbudError(
            f"widths are {depth + 1} whole numbers, of the inputs and of {depth} layers, not {widths!r}"
        )
    q = np.array(_variances(phi, depth, sigma_w, sigma_b, input_moment))
    chi = sigma_w**2 * slope_moment(phi, q[:-1])
    gradients = [1.0]
    for layer in range(depth - 1, 0, -1):
        gradients.append(n[layer + 1] / n[layer] * float(chi[layer - 1]) * gradients[-1])
    gradients.reverse()
    absolute = (q - sigma_b**2) * np.array(gradients) / np.array(n[:-1])
    return Backward(tuple(gradients), tuple((absolute / absolute[-1]).tolist()), tuple(chi.tolist()))


def _variances(
    phi: Activation, depth: int, sigma_w: float, sigma_b: float, input_moment: float
) -> tuple[float, ...]:
    q = [sigma_b**2 + sigma_w**2 * input_moment]
    for layer in range(1, depth):
        q.append(sigma_b**2 + sigma_w**2 * float(second_moment(phi, np.array([q[-1]]))[0]))
        if not 1e-200 < q[-1] < 1e200:
            raise DisbudError(
                f"{phi.name} with sigma_w = {sigma_w:g}, sigma_b = {sigma_b:g}: the variance is {q[-1]:.3g} at layer "
                f"{layer + 1}; ask for a depth below that"
            )
    return tuple(q)


def _check(depth: int, sigma_w: float, sigma_b: float, input_moment: float) -> None:
    check_sigmas(sigma_w, sigma_b)
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
        raise DisbudError(f"depth is a whole number of layers, at least 1, not {depth!r}")
    if not (0 < input_moment < math.inf):
        raise DisbudError(f"input_moment is the inputs' mean square, above 0, not {input_moment!r}")
