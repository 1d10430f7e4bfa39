"""Differences in words: fractions are kept inside, and said in percentage points."""

from __future__ import annotations

import math
from typing import Literal

from disbud.errors import DisbudError

Unit = Literal["points", "plain"]


def check_unit(unit: str) -> None:
    """Raise unless the unit is one of the two."""
    if unit not in ("points", "plain"):
        raise DisbudError(f"unit is 'points' (fractions, said in percentage points) or 'plain', not {unit!r}")


def decimals(unit: Unit, width: float) -> int:
    """So many that an interval of that width shows its first digit, and one at least."""
    width *= 100 if unit == "points" else 1
    return min(max(1, -math.floor(math.log10(width))), 9) if 0 < width < math.inf else 1


def number(value: float, unit: Unit, digits: int) -> str:
    """A value in its unit, without the unit's name.

    >>> number(0.0071, "points", 1), number(-0.00001, "points", 1)
    ('0.7', '0.0')
    """
    text = f"{value * (100 if unit == 'points' else 1):.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def amount(value: float, unit: Unit) -> str:
    """A value as it would be named by itself.

    >>> amount(0.01, "points"), amount(0.005, "points"), amount(0.1, "plain")
    ('1 point', '0.5 points', '0.1')
    """
    if unit == "plain":
        return f"{value:.3g}"
    text = f"{100 * value:.3g}"
    return f"{text} point" if text == "1" else f"{text} points"


def listed(names: list[str], *, most: int = 6) -> str:
    """Names in a row; those beyond the first few are only counted.

    >>> listed(["a", "b", "c"]), listed(list("abcdefghi"))
    ('a, b and c', 'a, b, c, d, e, f and 3 more')
    """
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
