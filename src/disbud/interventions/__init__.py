"""What-ifs on a ticket's masks, on the weights under it, and on the data it is found with: pure, seeded, recorded."""

from __future__ import annotations

from disbud.interventions.applying import on_data, on_mask, on_weights
from disbud.interventions.catalogue import CATALOGUE, Intervention

__all__ = ["CATALOGUE", "Intervention", "on_data", "on_mask", "on_weights"]
