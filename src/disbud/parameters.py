"""The parameters of a model under their canonical names, and the fingerprint of those names and shapes."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from disbud.errors import DisbudError

if TYPE_CHECKING:
    from torch import nn


def canonical(name: str) -> str:
    """The name a parameter has in the bare model: without the prefixes torch.compile and data-parallel wrappers add.

    >>> canonical("module._orig_mod.conv.weight")
    'conv.weight'
    """
    name = name.replace("_orig_mod.", "")
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


def parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter of the model by canonical name; one that several modules share comes once."""
    found: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if canonical(name) in found:
            raise DisbudError(
                f"two parameters of the model are called {canonical(name)!r} once wrappers are taken off"
            )
        found[canonical(name)] = parameter
    return found


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of the names and shapes of the model's parameters, whatever wraps the model."""
    described = sorted((name, tuple(parameter.shape)) for name, parameter in parameters(model).items())
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()
