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
    """How far the work is; `update` is told the fraction done and what is being done.

    Where the fraction falls, another piece of work has begun: time counts from there.
    """

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._began = self._last_line = time.monotonic()
        self._first = 0.0
        self._latest: float | None = None

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

    def update(self, fraction: float, what: str, *, left: float | None = None) -> None:
        """Show that this fraction of the work is done, what is under way, and the seconds left, if they are known."""
        now = time.monotonic()
        if self._latest is None:
            self._first = fraction  # what goes on from a checkpoint does not begin at zero
        elif fraction < self._latest:
            self._began, self._first = now, fraction
        self._latest = fraction
        shown = self._left(fraction, now, left)
        if self._bar is not None:
            self._bar.update(self._task, completed=fraction, description=what, left=shown)
        elif now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            gone = show.duration(now - self._began)
            show.say(f"{fraction:.0%} done, {gone} gone{shown and ', ' + shown}: {what}")

    def _left(self, fraction: float, now: float, expected: float | None) -> str:
        """The time left: what is expected, else at the speed so far, once there is one."""
        gone, done = now - self._began, fraction - self._first
        if fraction >= 1:
            return ""
        if expected is None:
            if gone < 1 or done <= 0:
                return ""
            expected = gone * (1 - fraction) / done
        return f"{show.duration(round(expected))} left"
