"""What depth does in residual networks without normalisation, plain and stable."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from disbud.errors import DisbudError
from disbud.theory.activations import ActivationLike, activation
from disbud.theory.maps import check_sigmas
from disbud.theory.moments import second_moment, slope_moment


@dataclass(frozen=True)
class Residual:
    """Of the blocks 1 to L of a residual net: the signal's moment q_l after each, and the gradient's moment there.

    `sensitivities` has a row for each block, with N E[(W dL/dW)^2] of each of its layers, N being the width, for
    E[(dL/dy_L)^2] = 1.

    >>> from disbud import theory
    >>> net = theory.residual("linear", blocks=2, sigma_w=1.0, branch_layers=1)
    >>> net.q, net.gradients
    ((2.0, 4.0), (2.0, 1.0))
    """

    q: tuple[float, ...]
    gradients: tuple[float, ...]
    sensitivities: tuple[tuple[float, ...], ...]

    @property
    def mean_sensitivity(self) -> float:
        """The mean over all layers."""
        return float(np.mean(self.sensitivities))


def residual(
    like: ActivationLike,
    *,
    blocks: int,
    sigma_w: float,
    branch_layers: int = 2,
    stable: bool = False,
    input_moment: float = 1.0,
) -> Residual:
    """y_l = y_(l-1) + s F_l(y_(l-1)), F_l of so many layers x -> W phi(x), s = 1, or 1 / sqrt(L) where `stable`.

    All widths are equal and there are no biases. The branch adds s^2 V(...V(q)) to the signal's moment, and on the way
    back its share s^2 chi ... chi to the gradient's, with V and chi the maps of a plain layer. For ReLU these are the
    factors 1 + s^2 (sw^2 / 2)^k a block for k layers in a branch: m_l is the same in every block, because what q_l
    gains from the front, the gradient lacks from the back, and is of order (1 + (sw^2 / 2)^k)^L, or, stable, 1 / L
    (Hayou et al. 2021, section 4, for k = 1).

    >>> from disbud import theory
    >>> plain = theory.residual("relu", blocks=30, sigma_w=1.0, branch_layers=2).mean_sensitivity
    >>> deeper = theory.residual("relu", blocks=31, sigma_w=1.0, branch_layers=2).mean_sensitivity
    >>> round(deeper / plain, 9)
    1.25
    """
    phi = activation(like)
    check_sigmas(sigma_w, 0.0)
    for name, value in (("blocks", blocks), ("branch_layers", branch_layers)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise DisbudError(f"{name} is a whole number of at least 1, not {value!r}")
    if not 0 < input_moment < math.inf:
        raise DisbudError(
            f"input_moment is the mean square before the first block, above 0, not {input_moment!r}"
        )
    share = 1 / blocks if stable else 1.0
    q, seconds, chis = [input_moment], [], []
    for _ in range(blocks):
        signal, second, chi = q[-1], [], []
        for _ in range(branch_layers):
            at = np.array([signal])
            second.append(float(second_moment(phi, at)[0]))
            chi.append(sigma_w**2 * float(slope_moment(phi, at)[0]))
            signal = sigma_w**2 * second[-1]
        q.append(q[-1] + share * signal)
        if not q[-1] < 1e200:
            raise DisbudError(f"signals have grown to a variance of {q[-1]:.3g} at block {len(q) - 1}")
        seconds.append(second)
        chis.append(chi)
    gradients = [1.0]
    for chi in reversed(chis[1:]):
        gradients.append(gradients[-1] * (1 + share * math.prod(chi)))
    gradients.reverse()
    # At the j-th layer of a branch arrives s^2 g_l times the chi of the layers after it; it reads E[phi^2].
    rows = [
        tuple(share * g * math.prod(chi[j + 1 :]) * sigma_w**2 * second[j] for j in range(branch_layers))
        for g, second, chi in zip(gradients, seconds, chis, strict=True)
    ]
    return Residual(tuple(q[1:]), tuple(gradients), tuple(rows))
