"""The flow of a signal through the linearised network, where only absolute weights act: what SynFlow scores by."""

from __future__ import annotations

from disbud.methods.flow.network import Inputs, Network, ones_like_example

__all__ = ["Inputs", "Network", "ones_like_example"]
