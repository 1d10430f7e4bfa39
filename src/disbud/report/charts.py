"""Charts in a page: Vega-Lite specifications, small multiples of one, and the JavaScript that draws them offline."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from disbud.artifacts import get_or_make
from disbud.errors import DisbudError
from disbud.report.markup import Html, in_script, joined, tag
from disbud.report.words import name

if TYPE_CHECKING:
    import altair

Number = int | float | str | None
Columns = Mapping[str, Sequence[Number]]

# The data set that the cells of small multiples fill, each with its own numbers.
CELL = "cell"
_BUNDLE = "bundle.js"
_EXPOSED = "window.vegaEmbed = vegaEmbed;"  # all that the page's script calls


@dataclass(frozen=True)
class Chart:
    """One chart as wide as the column; `words` say what it shows to those who cannot see it."""

    drawn: altair.TopLevelMixin
    words: str


@dataclass(frozen=True)
class Cell:
    """One of many small charts: the heading over it, its numbers by column, and a line under it."""

    heading: str
    columns: Columns
    note: str = ""


@dataclass(frozen=True)
class SmallMultiples:
    """The same chart for many sets of numbers; its specification stands in the page once, over the data named CELL."""

    drawn: altair.TopLevelMixin
    cells: Sequence[Cell]
    words: str


@dataclass
class Charts:
    """The charts of one page, gathered while it is laid out."""

    templates: list[object] = field(default_factory=list)
    places: list[dict[str, object]] = field(default_factory=list)

    def placed(self, chart: Chart | SmallMultiples) -> Html:
        """The element that a chart, or each of its cells, will be drawn into."""
        self.templates.append(_specification(chart.drawn))
        if isinstance(chart, Chart):
            return tag("figure", self._place(chart.words, None), class_="wide")
        cells = [
            tag(
                "figure",
                tag("figcaption", name(cell.heading)),
                self._place(f"{chart.words}: {cell.heading}", cell.columns),
                tag("p", cell.note) if cell.note else "",
            )
            for cell in chart.cells
        ]
        return tag("div", *cells, class_="cells")

    def script(self) -> Html:
        """The specifications and numbers, as data that the page's script reads."""
        content = json.dumps(
            {"templates": self.templates, "places": self.places}, separators=(",", ":"), allow_nan=False
        )
        return tag("script", in_script(content), type="application/json", id="charts")

    def _place(self, words: str, columns: Columns | None) -> Html:
        place: dict[str, object] = {
            "id": f"chart-{len(self.places) + 1}",
            "template": len(self.templates) - 1,
        }
        if columns is not None:
            place["columns"] = {key: list(values) for key, values in columns.items()}
        self.places.append(place)
        return tag("div", id=str(place["id"]), class_="chart", role="img", aria_label=words)


def legend(entries: Mapping[str, str]) -> Html:
    """What each mark of a chart stands for: words by the swatch, "one", "two", "dot-one", "line-two" and the like."""
    swatches = [tag("span", tag("i", class_=f"swatch {kind}"), words) for kind, words in entries.items()]
    return tag("p", joined(swatches, " "), class_="legend")


def check_installed() -> None:
    """Raise where the packages that charts need are not there."""
    for module in ("altair", "vl_convert"):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise DisbudError(
                f"a report page needs {module}, which cannot be imported ({error}): "
                "pip install 'altair>=6' 'vl-convert-python>=1.9'"
            ) from error


@cache
def library() -> Html:
    """Vega, Vega-Lite and Vega-Embed as one script, with nothing left to load; the same for all charts of a page.

    Bundling takes a second or two, so the outcome is cached, as far as there is a cache that can be written.
    """
    import vl_convert

    key = {"javascript bundle of vl-convert": metadata.version("vl-convert-python"), "exposed": _EXPOSED}

    def make(folder: Path) -> None:
        (folder / _BUNDLE).write_text(vl_convert.javascript_bundle(_EXPOSED), encoding="utf-8")

    try:
        folder = get_or_make(key, make)
        bundle = (folder / _BUNDLE).read_text(encoding="utf-8")
    except DisbudError:
        bundle = vl_convert.javascript_bundle(_EXPOSED)
    # Inside a script element only these two can change how the rest is read.
    return Html(bundle.replace("</script", r"<\/script").replace("<!--", r"\x3c!--"))


def _specification(drawn: altair.TopLevelMixin) -> object:
    made = drawn.to_dict()
    # The page's script sets the looks; the schema's address is of no use in a page that loads nothing.
    return {key: value for key, value in made.items() if key not in ("$schema", "config")}
