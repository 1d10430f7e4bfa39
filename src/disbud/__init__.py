"""disbud prunes neural networks before they are trained, and shows why that works or does not.

Everything public is imported on first use, so that `import disbud` itself is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from disbud import (
        acceleration,
        claims,
        compaction,
        data,
        diagnosis,
        export,
        interventions,
        measures,
        models,
        report,
        reproductions,
        robust,
        sanity,
        study,
        theory,
        training,
    )
    from disbud.acceleration.accelerate import accelerate
    from disbud.acceleration.accelerated import Accelerated
    from disbud.acceleration.routes import Bench, bench
    from disbud.compaction import Compacted, compact
    from disbud.diagnosis.doctor import doctor
    from disbud.errors import DisbudError, TicketError
    from disbud.graph import Layer, prunable
    from disbud.methods.catalogue import method
    from disbud.origin import Origin
    from disbud.pruning.prune import prune, scores
    from disbud.sanity import sanity_check
    from disbud.study import Study
    from disbud.ticket import Ticket
    from disbud.training import Recipe, Result, sparse, train

_HOMES = {
    "Accelerated": "acceleration",
    "Bench": "acceleration",
    "Compacted": "compaction",
    "DisbudError": "errors",
    "Layer": "graph",
    "Origin": "origin",
    "Recipe": "training",
    "Result": "training",
    "Study": "study",
    "Ticket": "ticket",
    "TicketError": "errors",
    "accelerate": "acceleration",
    "bench": "acceleration",
    "compact": "compaction",
    "doctor": "diagnosis",
    "method": "methods.catalogue",
    "prunable": "graph",
    "prune": "pruning",
    "sanity_check": "sanity",
    "scores": "pruning",
    "sparse": "training",
    "train": "training",
}
_PACKAGES = (
    "acceleration", "claims", "compaction", "data", "diagnosis", "export", "interventions", "measures", "models",
    "report", "reproductions", "robust", "sanity", "study", "theory", "training",
)  # fmt: skip

__all__ = [
    "Accelerated",
    "Bench",
    "Compacted",
    "DisbudError",
    "Layer",
    "Origin",
    "Recipe",
    "Result",
    "Study",
    "Ticket",
    "TicketError",
    "accelerate",
    "acceleration",
    "bench",
    "claims",
    "compact",
    "compaction",
    "data",
    "diagnosis",
    "doctor",
    "export",
    "interventions",
    "measures",
    "method",
    "models",
    "prunable",
    "prune",
    "report",
    "reproductions",
    "robust",
    "sanity",
    "sanity_check",
    "scores",
    "sparse",
    "study",
    "theory",
    "train",
    "training",
]


def __getattr__(name: str) -> object:
    if name in _PACKAGES:
        return importlib.import_module(f"disbud.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(f"disbud.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    if name == "__version__":
        from disbud.origin import package_version

        return package_version()
    raise AttributeError(f"module 'disbud' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
