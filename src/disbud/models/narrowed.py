"""The same network, narrower: the small dense net that a sparse one of as many weights is held to."""

from __future__ import annotations

from disbud.catalogue import find, parse
from disbud.errors import DisbudError
from disbud.models.catalogue import CATALOGUE
from disbud.models.factory import parameter_count

_STEPS = 24  # widths are found to a part in 16 million; layers have fewer units


def narrowed(
    spec: str, density: float, *, classes: int = 10, input_shape: tuple[int, ...] = (3, 32, 32)
) -> str:
    """The spec with its width set so that it has as nearly as can be `density` times the prunable weights.

    The number of weights grows with the width in steps; of the two widths on either side of what is wanted, the nearer
    one counts. No layer has less than one unit, so of a deep network something always stays.

    >>> from disbud.models import narrowed, parameter_count
    >>> small = narrowed("resnet20", 0.1)
    >>> parameter_count(small).prunable, round(0.1 * parameter_count("resnet20").prunable)
    (26685, 27090)
    """
    parsed = parse(spec)
    if not can_be_narrowed(spec):
        raise DisbudError(
            f"{spec!r} has no width by which to narrow it; models that disbud knows by name have one"
        )
    if not 0 < density <= 1:
        raise DisbudError(f"density={density!r} is a fraction above 0 and at most 1 of the weights to have")
    width = float(str(parsed.settings.get("width", 1.0)))

    def weights(factor: float) -> int:
        return parameter_count(_at(spec, width * factor), classes=classes, input_shape=input_shape).prunable

    wanted = density * weights(1.0)
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if weights(middle) <= wanted else (low, middle)
    nearest = min((low, high), key=lambda factor: abs(weights(factor) - wanted) if factor else float("inf"))
    return _at(spec, width * nearest)


def can_be_narrowed(spec: str) -> bool:
    """Whether the network has a width to set; a factory of one's own has none that is known."""
    parsed = parse(spec)
    return parsed.argument is None and "width" in find("model", parsed.name, CATALOGUE).settings


def _at(spec: str, width: float) -> str:
    parsed = parse(spec)
    others = [
        part
        for part in spec.partition(":")[2].split(",")
        if part and part.partition("=")[0].strip() != "width"
    ]
    return f"{parsed.name}:{','.join([*others, f'width={width:.10g}'])}"
