"""The table every measure returns: named columns, rows of plain values, and a summary of the whole."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

from disbud.errors import DisbudError, unknown_name

if TYPE_CHECKING:
    import pandas

    from disbud.origin import Json

Value = None | bool | int | float | str


@dataclass(frozen=True)
class Table:
    """Rows of plain values under named columns, and a summary; `print` shows it to a person.

    Entries of the summary are attributes as well. A value that is not defined (the mean of no weights) is None; a NaN
    becomes None on the way in.

    >>> from disbud.measures import Table
    >>> table = Table(("layer", "kept"), [("conv", 3), ("fc", 4)], {"total": 7})
    >>> table["kept"], len(table), table.summary["total"], table.total
    ((3, 4), 2, 7, 7)
    >>> [row["layer"] for row in table if row["kept"] == 4]
    ['fc']
    >>> print(table)
    layer  kept
    conv      3
    fc        4
    total: 7
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    summary: Mapping[str, Value] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        columns = tuple(self.columns)
        twice = next((name for name in columns if columns.count(name) > 1), None)
        if twice is not None:
            raise DisbudError(f"two columns of a table are called {twice!r}")
        rows = []
        for row in self.rows:
            if len(row) != len(columns):
                raise DisbudError(
                    f"a row of {len(row)} values does not fit the {len(columns)} columns {columns}"
                )
            rows.append(tuple(_plain(name, value) for name, value in zip(columns, row, strict=True)))
        summary = {name: _plain(name, value) for name, value in self.summary.items()}
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "rows", tuple(rows))
        object.__setattr__(self, "summary", MappingProxyType(summary))

    @staticmethod
    def of(rows: Iterable[Mapping[str, Value]], summary: Mapping[str, Value] | None = None) -> Table:
        """A table from one mapping a row; the first one names the columns.

        >>> Table.of([{"layer": "fc", "kept": 4}]).columns
        ('layer', 'kept')
        """
        rows = list(rows)
        columns = tuple(rows[0]) if rows else ()
        odd = next((row for row in rows if tuple(row) != columns), None)
        if odd is not None:
            raise DisbudError(f"every row needs the columns {columns}; one has {tuple(odd)}")
        return Table(columns, [tuple(row.values()) for row in rows], summary or {})

    def __getitem__(self, column: str) -> tuple[Value, ...]:
        """The values of one column, from the first row to the last."""
        if column not in self.columns:
            raise unknown_name("column", column, self.columns)
        at = self.columns.index(column)
        return tuple(row[at] for row in self.rows)

    def __getattr__(self, name: str) -> Value:
        """An entry of the summary, as in `table.total`."""
        summary = self.__dict__.get("summary", {})
        if name in summary:
            return cast("Value", summary[name])
        known = f"; its summary has {', '.join(summary)}" if summary else ""
        raise AttributeError(f"a Table has no attribute {name!r}{known}")

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Value]]:
        """Each row as a mapping from column to value."""
        return (dict(zip(self.columns, row, strict=True)) for row in self.rows)

    def __reduce__(self) -> tuple[object, ...]:
        # A mapping proxy does not pickle; measures travel between worker processes.
        return Table, (self.columns, self.rows, dict(self.summary))

    def to_json(self) -> dict[str, Json]:
        """The table as plain JSON values; infinite numbers, which JSON does not have, become null."""
        return {
            "columns": list(self.columns),
            "rows": [[_finite(value) for value in row] for row in self.rows],
            "summary": {name: _finite(value) for name, value in self.summary.items()},
        }

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a pandas frame, with the summary in its `attrs`."""
        try:
            import pandas
        except ImportError as error:
            raise DisbudError(
                "to_pandas() needs pandas, which cannot be imported: pip install pandas"
            ) from error
        frame = pandas.DataFrame(list(self.rows), columns=list(self.columns))
        frame.attrs["summary"] = dict(self.summary)
        return frame

    def __str__(self) -> str:
        columns = [[name, *map(_shown, self[name])] for name in self.columns]
        widths = [max(map(len, column)) for column in columns]
        words = [any(isinstance(value, str) for value in self[name]) for name in self.columns]
        lines = [
            "  ".join(
                cell.ljust(width) if left else cell.rjust(width)
                for cell, width, left in zip(line, widths, words, strict=True)
            ).rstrip()
            for line in zip(*columns, strict=True)
        ]
        lines += [f"{name}: {_shown(value)}" for name, value in self.summary.items()]
        return "\n".join(lines)


def total(rows: Sequence[Mapping[str, Value]], column: str) -> int:
    """The sum of a column of whole numbers; what is not defined counts as none."""
    return sum(value for row in rows if isinstance(value := row[column], int))


def _plain(name: str, value: object) -> Value:
    if isinstance(value, float) and math.isnan(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise DisbudError(f"a table holds plain values; {name!r} got a {type(value).__name__}")


def _finite(value: Value) -> Value:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shown(value: Value) -> str:
    """A value as a person reads it: four significant digits, thousands apart, a dash where nothing is defined."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (isinstance(value, float) and 1e4 <= abs(value) < 1e9):
        return f"{value:,.0f}"
    return f"{value:.4g}" if isinstance(value, float) else value
