"""What flows through the linearised network: SynFlow's signal, the number of paths, what is reached at all."""

from __future__ import annotations

from disbud.graph.flow.network import Network
from disbud.graph.flow.running import Inputs, ones_like_example

__all__ = ["Inputs", "Network", "ones_like_example"]
