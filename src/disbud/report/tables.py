"""Tables of a page: a head, rows of texts, numbers to the right."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from disbud.report.markup import Html, tag


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, words: Collection[str] = ()) -> Html:
    """A table; the columns named in `words` stand to the left, the others are numbers and stand to the right.

    Where the window is too narrow the table scrolls inside its own box, and the first column stays in sight.
    """
    classes = [None if column in words else "number" for column in columns]
    head = tag("tr", *(tag("th", c, scope="col", class_=k) for c, k in zip(columns, classes, strict=True)))
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row"),
            *(tag("td", cell, class_=kind) for cell, kind in zip(row[1:], classes[1:], strict=True)),
        )
        for row in rows
    ]
    made = tag("table", tag("thead", head), tag("tbody", *body))
    return tag("div", made, class_="scrolling", tabindex="0", role="region", aria_label="table")


def pairs(rows: Mapping[str, str]) -> Html:
    """Names and what they stand for."""
    return tag(
        "dl", *(tag("div", tag("dt", key), tag("dd", value)) for key, value in rows.items()), class_="pairs"
    )


def tiles(rows: Mapping[str, tuple[str, str]]) -> Html:
    """The few numbers that matter most: by what they are, the number and a line under it."""
    return tag(
        "dl",
        *(
            tag("div", tag("dt", key), tag("dd", tag("b", number), tag("small", note)))
            for key, (number, note) in rows.items()
        ),
        class_="tiles",
    )
