"""Checks of the settings of data sets, each with an error that says what would do."""

from __future__ import annotations

from disbud.errors import DisbudError


def whole(name: str, value: object, *, low: int, high: int) -> int:
    """The setting as a whole number from `low` to `high`, or an error."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise DisbudError(f"{name}={value!r}: {name} is a whole number from {low} to {high}")
    return value


def fraction(name: str, value: object) -> float:
    """The setting as a number strictly between 0 and 1, or an error."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise DisbudError(f"{name}={value!r}: {name} is a number between 0 and 1, such as 0.2")
    return float(value)


def colours(name: str, value: object) -> int:
    """The setting as a number of colour channels, 1 or 3, or an error."""
    if isinstance(value, bool) or value not in (1, 3):
        raise DisbudError(f"{name}={value!r}: {name} is 1 (grey) or 3 (red, green, blue)")
    return 1 if value == 1 else 3
