"""Reading a study's page back in tests: its charts by their words, its table of trials, its headings."""

from __future__ import annotations

import html
import json
import re

from disbud.report import Page
from pages import content


def charts_of(page: Page, words: str) -> list[dict[str, object]]:
    """The places of all charts that are described so, in their order."""
    places = {str(place["id"]): place for place in content(page)["places"]}
    labels = re.findall(r'<div id="(chart-\d+)" class="chart" role="img" aria-label="([^"]*)"', page.html)
    return [places[place] for place, label in labels if html.unescape(label).startswith(words)]


def unpacked(columns: object) -> list[dict[str, float | str | None]]:
    """The rows that the page's script makes of packed columns."""
    assert isinstance(columns, dict)
    lists = {k: [v["of"][i] for i in v["at"]] if isinstance(v, dict) else v for k, v in columns.items()}
    assert len(set(map(len, lists.values()))) == 1
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def listing_of(page: Page) -> dict[str, list[object]]:
    (found,) = re.findall(r'id="listing-data">(.*?)</script>', page.html, re.DOTALL)
    return json.loads(found)


def trial_rows(page: Page) -> list[dict[str, object]]:
    """The table of trials, read as its script reads it; details and link among the columns."""
    data = listing_of(page)
    texts = data["texts"]
    rows: list[dict[str, object]] = []
    for i, details in enumerate(data["details"]):
        row: dict[str, object] = {}
        for column, values in zip(data["columns"], data["values"], strict=True):
            words = column["kind"] == "words" and values[i] is not None
            row[column["name"]] = texts[values[i]] if words else values[i]
        row |= {texts[key]: texts[value] for key, value in details}
        rows.append(row | {"link": data["links"][i], "state": data["states"][i]})
    return rows


def headings(page: Page) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page.html.split('id="charts"')[0])


def tile_of(page: Page, called: str) -> tuple[str, str]:
    """The number in a tile at the top, and the line under it."""
    found = re.search(rf"<dt>{called}</dt><dd><b>(.*?)</b><small>(.*?)</small>", page.html)
    assert found is not None
    return found[1], found[2]


def forests_of(page: Page) -> list[list[str]]:
    """The rows of each forest plot as HTML, the axis last."""
    plots = re.findall(r'<ul class="forest">(.*?)</ul>', page.html, re.DOTALL)
    return [re.findall(r"<li.*?</li>", plot, re.DOTALL) for plot in plots]
