"""Whether a whole model trains faster by sparse kernels than as it is, by the cost model alone."""

from __future__ import annotations

from collections.abc import Iterable

from disbud.acceleration.layers import DENSE, Layer, kernels_are_there
from disbud.acceleration.planning import Price, estimate, work_of

# A step of a whole dense model, what lies between its layers included, by the work of its layers: fitted as the prices
# in planning.py to the steps of eleven networks in the faster memory format; estimates are .6 to 1.25 of the times.
DENSE_MODEL = Price(0.012, 0.76, 31_000.0)
# What lies between the layers of an accelerated model, by the same measure of its size.
BETWEEN = Price(0.0, 0.5, 0.0)


def is_worth_training(layers: Iterable[Layer]) -> bool:
    """Whether a training step by the kernels chosen is estimated to be shorter than the dense model's own.

    It is the same answer on every machine that can compile the kernels, as trials need it to be.
    """
    if not kernels_are_there():
        return False
    ours = whole = 0.0
    for layer in layers:
        for met in layer.met:
            work = work_of(layer, met, for_training=True)[DENSE]
            found = estimate(layer, met, for_training=True)
            ours += (found.dense if layer.kernel == DENSE else found.sparse) + BETWEEN.of(work)
            whole += DENSE_MODEL.of(work)
    return ours < whole
