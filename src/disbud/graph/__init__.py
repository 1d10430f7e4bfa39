"""What a model is made of, as seen from its weights: the one tracer of the package."""

from disbud.graph.layers import Layer
from disbud.graph.reach import Reached, Reading, effective, log10_paths, reach
from disbud.graph.tracing import Chosen, is_chain, prunable
from disbud.graph.uses import LAYER_FUNCTIONS, LayerUse, LayerUses

__all__ = [
    "LAYER_FUNCTIONS",
    "Chosen",
    "Layer",
    "LayerUse",
    "LayerUses",
    "Reached",
    "Reading",
    "effective",
    "is_chain",
    "log10_paths",
    "prunable",
    "reach",
]
