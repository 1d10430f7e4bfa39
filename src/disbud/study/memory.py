"""How much memory processes hold, as Linux tells it; elsewhere only one's own peak is known."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident(process: int) -> int | None:
    """Bytes of physical memory that a process holds now; None where that is not told or the process is gone."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return None


def watch_own_peak() -> None:
    """Let the peak of this process begin at what it holds now; without effect where the system cannot do that."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak resident set size


def own_peak() -> int:
    """The most bytes this process held since `watch_own_peak`, or since its start."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
