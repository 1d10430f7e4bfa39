"""Numbers and names as a reader meets them in a sentence."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from disbud.report.markup import Html, joined, tag

_SPACE = "\u00a0"  # holds a number and its unit together


def percent(fraction: float, *, most: int = 2) -> str:
    """A fraction as a percentage, to two digits where it is small; only 0 is shown as 0 % and only 1 as 100 %.

    >>> percent(0.98), percent(0.00021), percent(0.99999)
    ('98\\xa0%', '0.021\\xa0%', '99.999\\xa0%')
    """
    if fraction in (0, 1):
        return f"{100 * fraction:.0f}{_SPACE}%"
    edge = min(abs(fraction), abs(1 - fraction)) * 100
    digits = max(most, 1 - math.floor(math.log10(edge))) if edge < 0.1 else most
    text = f"{100 * fraction:,.{min(digits, 12)}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + _SPACE + "%"


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number and what is counted, in the plural where it is not one.

    >>> counted(1, "layer"), counted(1200, "layer")
    ('1\\xa0layer', '1,200\\xa0layers')
    """
    return f"{number:,}{_SPACE}{one if number == 1 else many or one + 's'}"


def name(text: str) -> Html:
    """The name of a layer, set apart from the sentence around it; where it must, it breaks after a dot."""
    parts = re.split(r"(?<=[._/-])", text)
    return tag("code", *(part if i == 0 else joined([Html("<wbr>"), part]) for i, part in enumerate(parts)))


def unbroken(text: str) -> str:
    """A sentence of somebody's in which a number and its per cent sign stay on one line.

    >>> unbroken("Up to 97 %, no loss")
    'Up to 97\\xa0%, no loss'
    """
    return text.replace(" %", f"{_SPACE}%")


def names(texts: Sequence[str], *, most: int = 4) -> Html:
    """Names in a row; those beyond the first few are only counted.

    >>> names(["a", "b"])
    '<code>a</code> and <code>b</code>'
    """
    shown = [name(text) for text in texts[:most]]
    if len(texts) > most:
        return joined([joined(shown, ", "), f" and {len(texts) - most:,} more"])
    if len(shown) < 2:
        return joined(shown)
    return joined([joined(shown[:-1], ", "), " and ", shown[-1]])


def sentence(*parts: str) -> Html:
    """A sentence from parts, of which those that are HTML stay so."""
    return joined(parts)
