"""A self-contained HTML page: sections of text, charts and tables, and nothing that is loaded from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from disbud.files import write_atomically
from disbud.origin import package_version
from disbud.report.charts import Chart, Charts, Choosable, SmallMultiples, library
from disbud.report.listing import Listing
from disbud.report.markup import Html, joined, tag

if TYPE_CHECKING:
    import os

Block = Html | Chart | SmallMultiples | Choosable | Listing
_FRAME_HEIGHT = "720px"


@dataclass(frozen=True)
class Page:
    """A page that any browser shows without a network; a notebook shows it in a frame of its own.

    >>> import disbud, torch
    >>> from disbud import report
    >>> page = report.ticket(disbud.prune(torch.nn.Linear(8, 4), "magnitude", sparsity=0.5))
    >>> page.html.startswith("<!DOCTYPE html>")
    True
    """

    html: str

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page, whole or not at all."""
        write_atomically(path, self.html.encode("utf-8"))

    def _repr_html_(self) -> str:
        """A frame, so that the notebook's styles and the page's do not meet."""
        return tag(
            "iframe", srcdoc=self.html, sandbox="allow-scripts", title="disbud report",
            style=f"width:100%;height:{_FRAME_HEIGHT};border:0",
        )  # fmt: skip


@dataclass(frozen=True)
class Section:
    """A heading, sentences on how to read what follows and what to notice there, and the blocks themselves."""

    heading: str
    lead: Sequence[str]
    blocks: Sequence[Block]


def page(title: str, kind: str, head: Sequence[Html], sections: Sequence[Section]) -> Page:
    """Lay out a page: its kind and title, the head, a line of links to the sections, and the sections."""
    charts = Charts()
    body = joined(_section(section, i, charts) for i, section in enumerate(sections, start=1))
    links = [tag("a", section.heading, href=f"#s{i}") for i, section in enumerate(sections, start=1)]
    content = tag(
        "main",
        tag("header", tag("p", kind, class_="kind"), tag("h1", title), *head),
        tag("nav", *links, aria_label="sections") if len(links) > 1 else "",
        body,
        tag("footer", f"Made by disbud {package_version()}. The page holds all it shows and loads nothing."),
    )
    scripts = [library(), _asset("page.js")] if charts.places else []
    scripts += (
        [_asset("listing.js")] if any(isinstance(b, Listing) for s in sections for b in s.blocks) else []
    )
    scripts += [_asset("print.js")] if "<details" in body else []
    drawing = [charts.script() if charts.places else "", *(tag("script", script) for script in scripts)]
    head_of_page = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(scripts)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", _asset("page.css")),
    )
    return Page(
        "<!DOCTYPE html>\n" + tag("html", head_of_page, tag("body", content, *drawing), lang="en") + "\n"
    )


def notice(text: str) -> Html:
    """A box that says what is wrong or unusual."""
    return tag("p", text, class_="notice", role="note")


def aside(text: str) -> Html:
    """A line in small print: what is not shown, and why."""
    return tag("p", text, class_="aside")


def _section(section: Section, number: int, charts: Charts) -> Html:
    blocks = [_placed(block, charts) for block in section.blocks]
    lead = [tag("p", text, class_="lead") for text in section.lead]
    return tag("section", tag("h2", section.heading), *lead, *blocks, id=f"s{number}")


def _placed(block: Block, charts: Charts) -> Html:
    if isinstance(block, Html):
        return block
    return block.placed() if isinstance(block, Listing) else charts.placed(block)


def _policy(scripts: Sequence[str]) -> str:
    """What the browser may do: run the page's own scripts, known by their hashes, and load nothing at all."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes) or "'none'"
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}; base-uri 'none'; "
        "form-action 'none'"
    )


@cache
def _asset(name: str) -> Html:
    return Html(resources.files("disbud.report").joinpath("assets", name).read_text(encoding="utf-8"))
