"""A long table that the reader filters, sorts and pages through; its rows are data, which the page's script shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from disbud.report.markup import Html, in_script, joined, tag

Kind = Literal["words", "number", "share"]


@dataclass(frozen=True)
class Column:
    """A column: its head, whether it holds words, numbers, or fractions shown as percentages, and to which decimals.

    `decimals` None shows as many as there are.
    """

    name: str
    kind: Kind = "words"
    decimals: int | None = None


@dataclass(frozen=True)
class Row:
    """A row: a value a column, what is shown when it is opened, where its first cell leads, and if it is in trouble."""

    values: Sequence[str | float | int | None]
    details: Mapping[str, str]
    link: str | None = None
    state: Literal["", "bad"] = ""


@dataclass(frozen=True)
class Listing:
    """The table, and what one of its rows is called."""

    columns: Sequence[Column]
    rows: Sequence[Row]
    called: str

    def placed(self) -> Html:
        """The element that the table is made in, and its data, in which a text stands once however often it is used."""
        texts: dict[str, int] = {}

        def place(text: str) -> int:
            return texts.setdefault(text, len(texts))

        columns = [
            [place(v) if isinstance(v, str) else None for v in values]
            if column.kind == "words"
            else list(values)
            for column, values in zip(
                self.columns, zip(*(row.values for row in self.rows), strict=True), strict=True
            )
        ]
        content = {
            "called": self.called,
            "columns": [{"name": c.name, "kind": c.kind, "decimals": c.decimals} for c in self.columns],
            "values": columns,
            "details": [
                [[place(key), place(value)] for key, value in row.details.items()] for row in self.rows
            ],
            "links": [row.link for row in self.rows],
            "states": [row.state for row in self.rows],
            "texts": list(texts),
        }
        data = in_script(json.dumps(content, separators=(",", ":"), allow_nan=False))
        return joined([
            tag("div", id="listing", class_="listing"),
            tag("script", data, type="application/json", id="listing-data"),
        ])  # fmt: skip
