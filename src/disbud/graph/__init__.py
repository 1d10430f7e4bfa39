"""What a model is made of, as seen from its weights: the one tracer of the package."""

from disbud.graph.layers import Layer
from disbud.graph.tracing import Chosen, is_chain, prunable

__all__ = ["Chosen", "Layer", "is_chain", "prunable"]
