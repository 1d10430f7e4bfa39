"""The mean-field recursions of a chain whose layers differ: pruned ones, rescaled ones, of any widths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from disbud.errors import DisbudError
from disbud.theory.activations import Activation, ActivationLike, activation
from disbud.theory.maps import next_gap
from disbud.theory.moments import TINY, second_moment, slope_moment


@dataclass(frozen=True)
class ChainLayer:
    """One linear layer: inputs, outputs, kept weights, and the deviations of its law.

    `sigma_w` is sqrt(fan_in * E[(W M)^2]), pruned weights counting as zeros; `sigma_b` is sqrt(E[b^2]).

    >>> from disbud.theory import ChainLayer
    >>> ChainLayer(100, 10, sigma_w=1.0).pruned(0.25)  # at random, to a quarter
    ChainLayer(n_in=100, n_out=10, sigma_w=0.5, sigma_b=0.0, kept=250, name='')
    """

    n_in: int
    n_out: int
    sigma_w: float
    sigma_b: float = 0.0
    kept: int = -1
    name: str = ""

    def __post_init__(self) -> None:
        total = self.n_in * self.n_out
        if self.n_in < 1 or self.n_out < 1 or self.kept > total:
            raise DisbudError(
                f"a layer has inputs, outputs and up to n_in * n_out kept weights, not {self!r}"
            )
        if not (0 <= self.sigma_w < math.inf and 0 <= self.sigma_b < math.inf):
            raise DisbudError(f"{self.name or 'a layer'}: deviations are finite and at least 0, not {self!r}")
        if self.kept < 0:
            object.__setattr__(self, "kept", total)

    def pruned(self, density: float) -> ChainLayer:
        """The layer with so much of it left at random: E[(W M)^2] = density * E[W^2]."""
        if not 0 <= density <= 1:
            raise DisbudError(f"a density lies between 0 and 1, not {density!r}")
        kept = round(self.kept * density)
        return ChainLayer(
            self.n_in, self.n_out, self.sigma_w * math.sqrt(density), self.sigma_b, kept, self.name
        )


@dataclass(frozen=True)
class Propagated:
    """Of layers 1 to L: what `propagate` says of each. Attributes are tuples, one value a layer.

    `q` is E[y_l^2]; `correlations` those of two inputs, where asked for; `gradients` E[(df/dy_l)^2] summed over the
    outputs f, so 1 at the last; `factors` the L - 1 values sw_(l+1)^2 E[phi'(y_l)^2] a gradient meets on its way back;
    `sensitivities` E[(W df/dW)^2] over the kept weights; `kernel` what each layer's kept weights and biases add to the
    tangent kernel of one output at one input.

    >>> from disbud import theory
    >>> net = theory.propagate("linear", [theory.ChainLayer(5, 5, sigma_w=2.0)] * 2)
    >>> net.q, net.gradients, net.log_gradient_slope == -net.log_decay
    ((4.0, 16.0), (4.0, 1.0), True)
    """

    q: tuple[float, ...]
    correlations: tuple[float, ...] | None
    gradients: tuple[float, ...]
    factors: tuple[float, ...]
    sensitivities: tuple[float, ...]
    kernel: tuple[float, ...]

    @property
    def log_decay(self) -> float:
        """The sum of log chi_l: by which power of e the gradient's moment grows from the last layer to the first."""
        return math.fsum(math.log(factor) if factor > 0 else -math.inf for factor in self.factors)

    @property
    def log_gradient_slope(self) -> float:
        """The mean change of the log of the gradient's moment from a layer to the next."""
        return -self.log_decay / len(self.factors) if self.factors else 0.0


def propagate(
    like: ActivationLike,
    layers: Sequence[ChainLayer],
    *,
    input_moment: float = 1.0,
    input_correlation: float | None = None,
) -> Propagated:
    """Variances, correlations, gradients, sensitivities and tangent kernel of y_l = W_l phi(y_(l-1)) + b_l.

    Each layer has its own deviations, so a pruned net is the same recursion with sigma_w^2 = fan_in * E[(W M)^2], the
    zeros counted in: of the mask nothing else enters, as long as it does not depend on the signals (random masks and,
    for symmetric laws, masks by magnitude; not those by sensitivity). With N_l the outputs of layer l,

        q_l = sb_l^2 + sw_l^2 E[phi(y_(l-1))^2]                        (E[x^2] = `input_moment` before layer 1)
        g_l = (N_(l+1) / N_l) chi_l g_(l+1),   chi_l = sw_(l+1)^2 E[phi'(y_l)^2],   g_L = 1
        m_l = (q_l - sb_l^2) g_l N_l / kept_l
        K_l = kept_l E[phi(y_(l-1))^2] g_l + [biases] N_l g_l          (K of one output: over N_L)

    Random pruning at density c scales sw_l^2 by c: in a bias-free ReLU net K falls by c in its own layer and by c in
    each layer before and after, c^L in all; rescaling restores the latter, so c is left (derived here).

    >>> from disbud import theory
    >>> dense = [theory.ChainLayer(50, 50, sigma_w=2**0.5)] * 4
    >>> halved = [layer.pruned(0.5) for layer in dense]
    >>> before, after = (sum(theory.propagate("relu", net).kernel) for net in (dense, halved))
    >>> round(after / before, 9)  # 0.5^4
    0.0625
    """
    phi = activation(like)
    chain = _checked(layers)
    if not 0 < input_moment < math.inf:
        raise DisbudError(f"input_moment is the inputs' mean square, above 0, not {input_moment!r}")
    inputs, q = _variances(phi, chain, input_moment)
    correlations = _correlations(phi, chain, q, input_moment, input_correlation)
    slopes = slope_moment(phi, np.maximum(np.array(q[:-1]), TINY)).tolist() if len(q) > 1 else []
    factors = [layer.sigma_w**2 * slope for layer, slope in zip(chain[1:], slopes, strict=True)]
    gradients = [1.0]
    for layer, after, factor in zip(chain[-2::-1], chain[:0:-1], reversed(factors), strict=True):
        gradients.append(after.n_out / layer.n_out * factor * gradients[-1])
    gradients.reverse()
    rows = list(zip(chain, inputs, gradients, strict=True))
    outputs = chain[-1].n_out
    return Propagated(
        q=tuple(q),
        correlations=correlations,
        gradients=tuple(gradients),
        factors=tuple(factors),
        sensitivities=tuple(
            layer.sigma_w**2 * moment * g * layer.n_out / layer.kept if layer.kept else 0.0
            for layer, moment, g in rows
        ),
        kernel=tuple(
            (layer.kept * moment + (layer.n_out if layer.sigma_b else 0)) * g / outputs
            for layer, moment, g in rows
        ),
    )


def _variances(
    phi: Activation, layers: Sequence[ChainLayer], moment: float
) -> tuple[list[float], list[float]]:
    """The mean square of what each layer reads, and of what it gives."""
    inputs, q = [moment], []
    for layer in layers:
        q.append(layer.sigma_b**2 + layer.sigma_w**2 * inputs[-1])
        if q[-1] > 1e200:
            raise DisbudError(
                f"{layer.name or f'layer {len(q)}'}: signals have grown to a variance of {q[-1]:.3g}"
            )
        # Below TINY the moment goes with the variance, as phi has a slope on either side of 0.
        at = max(q[-1], TINY)
        inputs.append(
            float(second_moment(phi, np.array([at]))[0]) * (q[-1] / at if not _constant(phi) else 1.0)
        )
    return inputs[:-1], q


def _constant(phi: Activation) -> bool:
    """Whether something is left of phi where its argument vanishes."""
    return bool(phi.function(np.zeros(1))[0] != 0)


def _correlations(
    phi: Activation,
    layers: Sequence[ChainLayer],
    q: Sequence[float],
    moment: float,
    correlation: float | None,
) -> tuple[float, ...] | None:
    if correlation is None:
        return None
    if not -1 <= correlation <= 1:
        raise DisbudError(f"a correlation lies between -1 and 1, not {correlation!r}")
    if not all(q):
        raise DisbudError(
            "signals end at a layer that is empty and has no biases: they have no correlation there"
        )
    gaps = [(1 - correlation) * layers[0].sigma_w ** 2 * moment / q[0]]
    for layer, variance in zip(layers[1:], q, strict=False):
        at = max(variance, TINY)
        gaps.append(next_gap(phi, at, gaps[-1], sigma_w=layer.sigma_w or TINY, sigma_b=layer.sigma_b))
    return tuple(1 - gap for gap in gaps)


def _checked(layers: Sequence[ChainLayer]) -> list[ChainLayer]:
    chain = list(layers)
    if not chain:
        raise DisbudError("a chain has at least one layer; none was given")
    for number, (before, after) in enumerate(pairwise(chain), start=1):
        if before.n_out != after.n_in:
            raise DisbudError(
                f"layer {number} gives {before.n_out} signals and layer {number + 1} reads {after.n_in}; in a chain "
                "these are the same"
            )
    return chain
