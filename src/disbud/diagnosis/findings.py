"""From signs to words: what is wrong with a ticket, and how much that weighs.

The thresholds are calibrated on networks that were trained: docs/doctor.md has the trials.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from disbud.diagnosis.signs import Signs

GREEN, YELLOW, RED = "green", "yellow", "red"
_ORDER = (GREEN, YELLOW, RED)

# Below these: the gradient's norm, and the fraction of the kept weights on a path, against the dense network's.
FAINT = {RED: 0.05, YELLOW: 0.3}
EFFECTIVE = {RED: 0.8, YELLOW: 0.95}
FAINT_AND_LEAKY = 0.2  # a gradient below this is red where weights are ineffective as well
# Above these: the gradient again, and the dead units of a layer.
STRONG = {RED: 20.0, YELLOW: 3.0}
DEAD = 0.9
NOT_FINITE = "the gradient is not finite"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: "red" forecasts that the network hardly trains, "yellow" that it trains worse."""

    level: str
    words: str


def findings(found: Signs, dense: Signs) -> list[Finding]:
    """What the signs of a ticket say, next to those of the dense network; the worst first, nothing if all is well.

    >>> import disbud, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> ticket = disbud.prune(model, "random-uniform", sparsity=0.95, example=torch.zeros(1, 8))
    >>> read = [disbud.diagnosis.signs(model, t, example=torch.zeros(1, 8)) for t in (ticket, None)]
    >>> disbud.diagnosis.findings(*read)[0].level
    'red'
    """
    if found.log10_paths == -math.inf:
        return [Finding(RED, "no path leads from input to output: the outputs are constants")]
    every = [*_layers(found), *_weights(found, dense), *_gradient(found, dense), *_units(found)]
    return sorted(every, key=lambda finding: -_ORDER.index(finding.level))


def verdict(found: list[Finding]) -> str:
    """The worst level among the findings."""
    return max((finding.level for finding in found), key=_ORDER.index, default=GREEN)


def _layers(found: Signs) -> list[Finding]:
    if not found.empty_layers:
        return []
    names = ", ".join(found.empty_layers[:3]) + (", ..." if len(found.empty_layers) > 3 else "")
    layers = "layer keeps" if len(found.empty_layers) == 1 else "layers keep"
    return [
        Finding(YELLOW, f"{len(found.empty_layers)} {layers} no weight, and only a shortcut passes: {names}")
    ]


def _weights(found: Signs, dense: Signs) -> list[Finding]:
    level = _level(_on_path(found, dense), EFFECTIVE)
    if level is None:
        return []
    where = "" if dense.effective > 0.995 else f" (as {1 - dense.effective:.0%} of the dense network's are)"
    return [
        Finding(
            level,
            f"{1 - found.effective:.0%} of the kept weights are on no path and do nothing{where}: the sparsity is "
            f"{found.effective_sparsity:.2%} in effect",
        )
    ]


def _on_path(found: Signs, dense: Signs) -> float:
    """The fraction of kept weights on a path; taps that only ever meet padding are not the ticket's fault."""
    return min(1.0, found.effective / dense.effective) if dense.effective else 1.0


def _gradient(found: Signs, dense: Signs) -> list[Finding]:
    if not math.isfinite(found.gradient):
        return [Finding(RED, NOT_FINITE)]
    if not math.isfinite(dense.gradient):
        return [
            Finding(YELLOW, "the gradient cannot be held against the dense network's, which is not finite")
        ]
    ratio = found.gradient / dense.gradient if dense.gradient else 1.0
    words = f"the gradient is {ratio:.2g} of the dense network's"
    if ratio > STRONG[YELLOW]:
        return [Finding(RED if ratio > STRONG[RED] else YELLOW, f"{words}: steps may be too large")]
    level = _level(ratio, FAINT)
    if level == YELLOW and ratio < FAINT_AND_LEAKY and _on_path(found, dense) < EFFECTIVE[YELLOW]:
        level = RED
    return [] if level is None else [Finding(level, words)]


def _units(found: Signs) -> list[Finding]:
    narrow = [
        (str(row["layer"]), outputs, dead)
        for row in found.paths
        if isinstance(outputs := row["outputs"], int) and isinstance(dead := row["dead_outputs"], int)
        if row["kept"] and outputs and dead > DEAD * outputs
    ]
    if not narrow:
        return []
    name, outputs, dead = max(narrow, key=lambda row: row[2] / row[1])
    more = f", and {len(narrow) - 1} more such layers" if len(narrow) > 1 else ""
    which = f"all {outputs}" if dead == outputs else f"{dead} of the {outputs}"
    return [Finding(YELLOW, f"{which} units that {name} feeds are dead{more}")]


def _level(value: float, thresholds: dict[str, float]) -> str | None:
    return next((level for level in (RED, YELLOW) if value < thresholds[level]), None)
