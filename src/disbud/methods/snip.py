"""SNIP and its kin: how much the loss feels the removal of a weight."""

from __future__ import annotations

from disbud.methods.scoring import Scoring, Tensors, at_least_single, unsigned


def snip(s: Scoring) -> Tensors:
    """abs(w * dL/dw) at the weights still kept (Lee et al. 2019, eq. 3); iterated, de Jorge et al. 2021."""
    weights = s.masked()
    gradients = s.gradients(weights)
    return {name: unsigned(s, weights[name] * at_least_single(g)) for name, g in gradients.items()}


def force(s: Scoring) -> Tensors:
    """abs(w * dL/dw): the dense weights, times the gradient of the pruned net (de Jorge et al. 2021, eq. 8).

    A pruned weight keeps a score of its own, so it can return.
    """
    gradients = s.gradients(s.masked())
    return {name: unsigned(s, s.weights[name] * at_least_single(g)) for name, g in gradients.items()}
