"""How the methods of a study are told apart: each has a colour and a shape, the same in every chart, legend and print.

The colours follow Okabe and Ito, darkened where they would be too faint on white; the style sheet holds them as --s1 to
--s7, once for light and once for dark. No two of the first 56 methods share both colour and shape, and neighbours
share neither, so that the page can be read by the colour-blind and in grey.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from disbud.report.markup import Html, joined, tag

DENSE = "dense"
# As on white in the style sheet; for paper, which knows no style sheet.
_COLOURS = ("#0072b2", "#d98200", "#00865f", "#b8508a", "#c04a00", "#2f8fc9", "#5a5f66")
# Path in a square from -1 to 1, and the marker that matplotlib has for it.
_SHAPES = (
    ("M-.8,0A.8,.8 0 1,1 .8,0A.8,.8 0 1,1 -.8,0Z", "o"),
    ("M-.72,-.72H.72V.72H-.72Z", "s"),
    ("M0,-.85L.95,.75H-.95Z", "^"),
    ("M0,-1L.95,0L0,1L-.95,0Z", "D"),
    ("M-.3,-.9H.3V-.3H.9V.3H.3V.9H-.3V.3H-.9V-.3H-.3Z", "P"),
    ("M0,.85L.95,-.75H-.95Z", "v"),
    ("M-.9,-.5L-.5,-.9L0,-.4L.5,-.9L.9,-.5L.4,0L.9,.5L.5,.9L0,.4L-.5,.9L-.9,.5L-.4,0Z", "X"),
    ("M0,-1L.29,-.4L.95,-.31L.48,.15L.59,.81L0,.5L-.59,.81L-.48,.15L-.95,-.31L-.29,-.4Z", "*"),
)


_DASHES = ((1, 0), (5, 2), (2, 2), (7, 2, 2, 2), (4, 1))


@dataclass(frozen=True)
class Look:
    """Colour on the page (a variable of the style sheet) and on paper, the shape's path and marker, and the dash."""

    colour: str
    ink: str
    path: str
    marker: str
    dash: tuple[int, ...]


def looks(names: Sequence[str]) -> dict[str, Look]:
    """A look for each name, by its place in the row.

    >>> found = looks(["snip", "grasp", "synflow"])
    >>> found["grasp"].colour, found["grasp"].marker
    ('var(--s2)', 's')
    """
    return {
        name: Look(
            f"var(--s{i % len(_COLOURS) + 1})",
            _COLOURS[i % len(_COLOURS)],
            *_SHAPES[i % len(_SHAPES)],
            _DASHES[i % len(_DASHES)],
        )
        for i, name in enumerate(names)
    }


def legend_that_filters(
    known: Mapping[str, Look],
    *,
    of: Literal["methods", "states"] = "methods",
    more: Mapping[str, str] | None = None,
) -> Html:
    """A button for each name, which shows that one alone, and with others pressed these together, in all charts.

    Methods are told apart by shape beside colour, states of weights by dashes. The names set the charts' parameter
    called as `of` says, so that a method chosen hides no state. `more` are swatches that stand for something else.
    """
    glyph = _shape if of == "methods" else _dash
    buttons = [
        tag(
            "button",
            glyph(look),
            " ",
            name,
            type="button",
            data_only=name,
            data_sets=of,
            aria_pressed="false",
        )
        for name, look in known.items()
    ]
    swatches = [tag("span", tag("i", class_=f"swatch {kind}"), words) for kind, words in (more or {}).items()]
    return tag("p", joined([*buttons, *swatches], " "), class_="legend choosing")


def _shape(look: Look) -> Html:
    # The box's corners are an attribute with a capital in its name, which `tag` would not write.
    path = tag("path", d=look.path, style=f"fill:{look.colour}")
    return Html(f'<svg class="glyph" viewBox="-1.1 -1.1 2.2 2.2" aria-hidden="true">{path}</svg>')


def _dash(look: Look) -> Html:
    style = f"stroke:{look.colour};stroke-dasharray:{' '.join(map(str, look.dash))}"
    line = tag("line", x1="0", x2="100%", y1="50%", y2="50%", style=style)
    return tag("svg", line, class_="glyph line", aria_hidden="true")
