"""The networks of the pruning papers, by name: plain torch modules, any width, started from a seed."""

from __future__ import annotations

from disbud.models.catalogue import CATALOGUE, ModelEntry
from disbud.models.factory import ParameterCount, build, parameter_count
from disbud.models.narrowed import narrowed

__all__ = ["CATALOGUE", "ModelEntry", "ParameterCount", "build", "narrowed", "parameter_count"]
