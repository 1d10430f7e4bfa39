"""What the commands print: tables and JSON on stdout; notes, errors and progress on stderr."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

_WIDTH_OF_NO_TERMINAL = 140
BEST, BAD, FAINT = "bold green", "bold red", "dim"


def console(stream: TextIO | None = None) -> Console:
    """A console on stdout, or on the stream given; a file or a pipe gets wide lines, so that rows stay whole."""
    stream = stream or sys.stdout
    on_terminal = Console(file=stream).is_terminal
    width = None if on_terminal or os.environ.get("COLUMNS") else _WIDTH_OF_NO_TERMINAL
    return Console(file=stream, highlight=False, width=width)


def write(*parts: RenderableType) -> None:
    """Print to stdout, texts as they are."""
    on_stdout = console()
    with on_stdout.capture() as captured:
        for part in parts:
            if isinstance(part, str | Text):
                on_stdout.print(part, markup=False, soft_wrap=True)
            else:
                on_stdout.print(part)
    lines = captured.get().split("\n")  # rich fills rows with spaces up to the width
    sys.stdout.write("\n".join(line.rstrip() for line in lines))
    sys.stdout.flush()


def write_json(document: object) -> None:
    """Print one JSON document to stdout; numbers that are not finite become null."""
    sys.stdout.write(json.dumps(_finite(document), indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """A line on stderr that is no error."""
    _on_stderr(Text.assemble(("note: ", "yellow"), text))


def say(text: str) -> None:
    """A line on stderr about what is going on."""
    _on_stderr(Text(text))


def error(text: str) -> None:
    """The line on stderr that says why a command failed."""
    _on_stderr(Text.assemble(("error: ", BAD), text))


@contextlib.contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Show each Python warning once, as one line without the place in the source where it was raised."""
    shown: set[str] = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = " ".join(str(message).split())
        if text not in shown:
            shown.add(text)
            note(text)

    with warnings.catch_warnings():
        if not sys.warnoptions:  # python -W and PYTHONWARNINGS keep their say
            warnings.simplefilter("always")
            for for_developers in (
                DeprecationWarning,
                PendingDeprecationWarning,
                FutureWarning,
                ImportWarning,
            ):
                warnings.simplefilter("ignore", for_developers)
        warnings.showwarning = show
        yield


def table(*columns: str, right: Iterable[str] = (), folding: Iterable[str] = ()) -> Table:
    """An empty table with a line under its head. Columns of numbers stand to the right; folding ones may wrap."""
    right, folding = set(right), set(folding)
    made = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in columns:
        made.add_column(
            name,
            justify="right" if name in right else "left",
            no_wrap=name not in folding,
            overflow="fold",
        )
    return made


def pairs(rows: Mapping[str, RenderableType], *, indent: int = 2) -> Table:
    """Names on the left, what they stand for on the right."""
    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(no_wrap=True, style=FAINT)
    made.add_column(overflow="fold")
    for name, value in rows.items():
        made.add_row(" " * indent + name, Text(value) if isinstance(value, str) else value)
    return made


def percents(values: Sequence[float | None], *, digits: int = 2) -> list[str]:
    """Fractions as percentages, all to the same decimals, so many that the smallest above zero shows two digits."""
    above_zero = [value for value in values if value]
    if above_zero:
        digits = min(6, max(digits, 1 - math.floor(math.log10(min(above_zero) * 100))))
    return ["-" if value is None else f"{value:.{digits}%}" for value in values]


def duration(seconds: float) -> str:
    """A time a person can read: 80 ms, 4.2 s, 35 s, 3 min 20 s, 2 h 5 min."""
    if 0 < seconds < 0.95:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def blocks(widths: Sequence[int], room: int) -> list[range]:
    """Cut columns of these widths into runs that fit in the room, each of at least one column."""
    found: list[range] = []
    start, used = 0, 0
    for i, width in enumerate(widths):
        if i > start and used + width > room:
            found.append(range(start, i))
            start, used = i, 0
        used += width
    return [*found, range(start, len(widths))] if widths else []


def _on_stderr(line: Text) -> None:
    console(sys.stderr).print(line, soft_wrap=True)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
