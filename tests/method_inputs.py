"""What pruning methods are handed in tests: masks by name, and the batches or the example that a method looks at."""

from __future__ import annotations

import torch
from torch import Tensor

from disbud.methods.catalogue import CATALOGUE
from networks import Network

Masks = dict[str, Tensor]


def asked(method: str, network: Network, *, dtype: torch.dtype = torch.float32) -> dict[str, object]:
    """What the method looks at."""
    if CATALOGUE[method].needs == "batches":
        return {
            "batches": [network.batch(6, seed, dtype=dtype) for seed in (0, 1)],
            "examples_per_class": None,
        }
    x = network.example
    return {"example": x.to(dtype) if x.is_floating_point() else x}
