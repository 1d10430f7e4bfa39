"""Charts in a page: Vega-Lite specifications, many charts of one, numbers to choose from, and how they are drawn."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from disbud.artifacts import get_or_make
from disbud.errors import DisbudError
from disbud.report.markup import Html, in_script, joined, tag
from disbud.report.words import name

if TYPE_CHECKING:
    import altair

Number = int | float | str | None
Columns = Mapping[str, Sequence[Number]]
Size = Literal["small", "large"]
Answers = tuple[int, ...]  # to the choices, by the place of the option

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
    """One of many charts: the heading over it, its numbers by column, and a line under it.

    `drawn` is for the cell that is drawn in another way than its neighbours.
    """

    heading: str
    columns: Columns
    note: str = ""
    drawn: altair.TopLevelMixin | None = None


@dataclass(frozen=True)
class SmallMultiples:
    """The same chart for many sets of numbers; its specification stands in the page once, over the data named CELL.

    `size` "small" puts three or four beside each other in a wide window, "large" two.
    """

    drawn: altair.TopLevelMixin
    cells: Sequence[Cell]
    words: str
    size: Size = "small"


@dataclass(frozen=True)
class Choice:
    """Something that the reader chooses, and what there is to choose from; the first is chosen at the start."""

    asks: str
    options: Sequence[str]


@dataclass(frozen=True)
class ChosenCell:
    """One of many charts, with numbers for each choice that it has any for, by the options' places."""

    heading: str
    drawn: altair.TopLevelMixin
    columns: Mapping[Answers, Columns]


@dataclass(frozen=True)
class Choosable:
    """Charts of which the reader chooses the numbers; one that has none for a choice is not shown.

    A specification that several cells share stands in the page once.
    """

    choices: Sequence[Choice]
    cells: Sequence[ChosenCell]
    words: str
    size: Size = "small"


@dataclass
class Charts:
    """The charts of one page, gathered while it is laid out."""

    specifications: list[altair.TopLevelMixin] = field(default_factory=list)
    places: list[dict[str, object]] = field(default_factory=list)
    choosers: int = 0

    def placed(self, chart: Chart | SmallMultiples | Choosable) -> Html:
        """The element that a chart, or each of its cells, will be drawn into."""
        if isinstance(chart, Choosable):
            return self._choosable(chart)
        if isinstance(chart, Chart):
            return tag("figure", self._place(chart.words, chart.drawn), class_="wide")
        cells = [
            self._cell(
                chart, cell.heading, cell.drawn or chart.drawn, cell.note, columns=_packed(cell.columns)
            )
            for cell in chart.cells
        ]
        return tag("div", *cells, class_=f"cells {chart.size}")

    def script(self) -> Html:
        """The specifications and numbers, as data that the page's script reads."""
        templates = [_specification(drawn) for drawn in self.specifications]
        content = json.dumps(
            {"templates": templates, "places": self.places}, separators=(",", ":"), allow_nan=False
        )
        return tag("script", in_script(content), type="application/json", id="charts")

    def _choosable(self, chart: Choosable) -> Html:
        self.choosers += 1
        chooser = f"chooser-{self.choosers}"
        selects = [
            tag(
                "label",
                f"{choice.asks} ",
                tag("select", *(tag("option", option) for option in choice.options)),
                hidden="" if len(choice.options) < 2 else None,
            )
            for choice in chart.choices
        ]
        cells = [
            self._cell(
                chart,
                cell.heading,
                cell.drawn,
                chooser=chooser,
                choices={"/".join(map(str, key)): _packed(columns) for key, columns in cell.columns.items()},
            )
            for cell in chart.cells
        ]
        nothing = tag("p", "The study has no such trial.", class_="aside nothing", hidden="")
        return tag(
            "div",
            tag("p", *selects, class_="chooser"),
            tag("div", *cells, class_=f"cells {chart.size}"),
            nothing,
            id=chooser,
        )

    def _cell(
        self,
        of: SmallMultiples | Choosable,
        heading: str,
        drawn: altair.TopLevelMixin,
        note: str = "",
        **numbers: object,
    ) -> Html:
        return tag(
            "figure",
            tag("figcaption", name(heading) if of.size == "small" else heading),
            self._place(f"{of.words}: {heading}", drawn, **numbers),
            tag("p", note) if note else "",
        )

    def _place(self, words: str, drawn: altair.TopLevelMixin, **numbers: object) -> Html:
        # By identity: comparing charts by value takes long, and each is made once.
        known = [id(specification) for specification in self.specifications]
        if id(drawn) not in known:
            self.specifications.append(drawn)
            known.append(id(drawn))
        place = {"id": f"chart-{len(self.places) + 1}", "template": known.index(id(drawn)), **numbers}
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


def _packed(columns: Columns) -> dict[str, object]:
    """Columns as the script reads them: where the same words come often, each once, and numbers in their place."""
    packed: dict[str, object] = {}
    for key, values in columns.items():
        words = list(dict.fromkeys(values))
        if any(isinstance(word, str) for word in words) and len(words) < len(values):
            places = {word: i for i, word in enumerate(words)}
            packed[key] = {"of": words, "at": [places[value] for value in values]}
        else:
            packed[key] = list(values)
    return packed
