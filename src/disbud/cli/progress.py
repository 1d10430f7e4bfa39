"""Progress on stderr: a bar with the time left on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from disbud.cli import show

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

_SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """How far the work is; `update` is told the fraction done and what is being done."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._began = self._last_line = time.monotonic()
        self._first: float | None = None

    def __enter__(self) -> Progress:
        console = show.console(sys.stderr)
        if console.is_terminal:
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (
                BarColumn(bar_width=16),
                TaskProgressColumn(),
                TextColumn("{task.fields[left]}", style="cyan"),
                TextColumn("{task.description}", markup=False),
            )
            self._bar = Bar(*columns, console=console, transient=True)
            self._task = self._bar.add_task("", total=1.0, left="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, fraction: float, what: str) -> None:
        """Show that this fraction of the work is done, and what is under way."""
        now = time.monotonic()
        if self._first is None:
            self._first = fraction  # a run that goes on from a checkpoint does not begin at zero
        left = self._left(fraction, now)
        if self._bar is not None:
            self._bar.update(self._task, completed=fraction, description=what, left=left)
        elif now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            gone = show.duration(now - self._began)
            show.say(f"{fraction:.0%} done, {gone} gone{left and ', ' + left}: {what}")

    def _left(self, fraction: float, now: float) -> str:
        """The time left at the speed so far, once there is one."""
        gone, done = now - self._began, fraction - (self._first or 0.0)
        if gone < 1 or done <= 0:
            return ""
        return f"{show.duration(round(gone * (1 - fraction) / done))} left"
