"""Robust pruning at initialisation: the pipelines of Hayou et al. 2021, forecasts for a model, the trainable region."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from disbud.robust.outlook import Forecast, forecast
    from disbud.robust.picture import draw, draw_phases
    from disbud.robust.pipelines import mbp, sbp
    from disbud.robust.region import Cell, Region, trainable_region
    from disbud.robust.scored_layers import Emptying, emptying, sensitivities

__all__ = [
    "Cell",
    "Emptying",
    "Forecast",
    "Region",
    "draw",
    "draw_phases",
    "emptying",
    "forecast",
    "mbp",
    "sbp",
    "sensitivities",
    "trainable_region",
]
_HOMES = {
    "Cell": "region",
    "Emptying": "scored_layers",
    "Forecast": "outlook",
    "Region": "region",
    "draw": "picture",
    "draw_phases": "picture",
    "emptying": "scored_layers",
    "forecast": "outlook",
    "mbp": "pipelines",
    "sbp": "pipelines",
    "sensitivities": "scored_layers",
    "trainable_region": "region",
}


def __getattr__(name: str) -> object:
    if name in _HOMES.values():
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
