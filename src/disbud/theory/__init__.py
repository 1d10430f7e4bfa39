"""Mean-field theory of random nets: maps of variances and correlations, phases, the edge of chaos, critical sparsity.

It says from the activation and the deviations of weights and biases alone what depth does to signals and gradients,
and so where sensitivity pruning empties layers (Hayou et al. 2021, "Robust pruning at initialization"); and it changes
models accordingly: initialised on the edge, rescaled once pruned, residual branches made stable.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from disbud.theory.activations import Activation, activation
from disbud.theory.critical import CriticalSparsity, critical_sparsity
from disbud.theory.diagram import PhaseDiagram, phase_diagram
from disbud.theory.edge import EdgeOfChaos, edge_of_chaos
from disbud.theory.fixed_points import FixedPoint, FixedPoints, fixed_points
from disbud.theory.initialise import Initialised, initialize_
from disbud.theory.layered import ChainLayer, Propagated, propagate
from disbud.theory.maps import chi, correlation_map, correlation_slope, variance_map, variance_slope
from disbud.theory.phases import Phase, phase
from disbud.theory.propagation import Backward, Forward, backward, forward
from disbud.theory.rescale import Rescaled, rescale_
from disbud.theory.residual import Residual, residual
from disbud.theory.stable import BranchScale, Stabilized, stabilize_

if TYPE_CHECKING:
    from disbud.theory.reading import activation_of, chain_of

__all__ = [
    "Activation",
    "Backward",
    "BranchScale",
    "ChainLayer",
    "CriticalSparsity",
    "EdgeOfChaos",
    "FixedPoint",
    "FixedPoints",
    "Forward",
    "Initialised",
    "Phase",
    "PhaseDiagram",
    "Propagated",
    "Rescaled",
    "Residual",
    "Stabilized",
    "activation",
    "activation_of",
    "backward",
    "chain_of",
    "chi",
    "correlation_map",
    "correlation_slope",
    "critical_sparsity",
    "edge_of_chaos",
    "fixed_points",
    "forward",
    "initialize_",
    "phase",
    "phase_diagram",
    "propagate",
    "rescale_",
    "residual",
    "stabilize_",
    "variance_map",
    "variance_slope",
]


def __getattr__(name: str) -> object:
    # Reading a model needs torch; the theory itself is listed and computed without it.
    if name not in ("activation_of", "chain_of"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module("disbud.theory.reading"), name)
    globals()[name] = value
    return value
