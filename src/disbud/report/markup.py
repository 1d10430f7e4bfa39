"""HTML in which text is escaped unless it says that it is HTML already."""

from __future__ import annotations

import html
from collections.abc import Iterable

# Elements that have no content and no end tag.
_VOID = frozenset({"br", "hr", "img", "meta"})


class Html(str):
    """Text that is HTML already; any other text is escaped on its way into a page."""

    __slots__ = ()


def escaped(text: str) -> Html:
    """The text as HTML: a layer's name or a setting from a file cannot add elements or leave an attribute."""
    if isinstance(text, Html):
        return text
    # Half of a surrogate pair, which a file's JSON can hold, has no encoding.
    return Html(html.escape(text.encode("utf-8", "replace").decode("utf-8")))


def tag(name: str, /, *children: str, **attributes: str | None) -> Html:
    """An element; an attribute that is None is left out, `class_` is class and `data_x` is data-x.

    >>> tag("b", "1 < 2", class_="big")
    '<b class="big">1 &lt; 2</b>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{joined(children)}</{name}>")


def joined(parts: Iterable[str], between: str = "") -> Html:
    """The parts one after the other, each escaped unless it is HTML."""
    return Html(escaped(between).join(escaped(part) for part in parts))


def in_script(text: str) -> Html:
    """JSON as it may stand in a script element: nothing in it can end the element or open a comment."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Html(text)
