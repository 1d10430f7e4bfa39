"""Mean-field theory of random nets: maps of variances and correlations, phases, the edge of chaos, critical sparsity.

It says from the activation and the deviations of weights and biases alone what depth does to signals and gradients,
and so where sensitivity pruning empties layers (Hayou et al. 2021, "Robust pruning at initialization").
"""

from __future__ import annotations

from disbud.theory.activations import Activation, activation
from disbud.theory.critical import CriticalSparsity, critical_sparsity
from disbud.theory.diagram import PhaseDiagram, phase_diagram
from disbud.theory.edge import EdgeOfChaos, edge_of_chaos
from disbud.theory.fixed_points import FixedPoint, FixedPoints, fixed_points
from disbud.theory.initialise import Initialised, initialize_
from disbud.theory.maps import chi, correlation_map, correlation_slope, variance_map, variance_slope
from disbud.theory.phases import Phase, phase
from disbud.theory.propagation import Backward, Forward, backward, forward

__all__ = [
    "Activation",
    "Backward",
    "CriticalSparsity",
    "EdgeOfChaos",
    "FixedPoint",
    "FixedPoints",
    "Forward",
    "Initialised",
    "Phase",
    "PhaseDiagram",
    "activation",
    "backward",
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
    "variance_map",
    "variance_slope",
]
