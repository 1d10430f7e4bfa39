"""The command line, `disbud`: it parses, calls the library and prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 is success, 1 a failure at work, 2 something asked that cannot be, 130 Ctrl-C, 141 that nobody reads the output.

    >>> from disbud.cli import main
    >>> main(["prune"])  # says on stderr what is missing
    2
    """
    try:
        from disbud.cli.app import run

        return run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        sys.stderr.write("\ndisbud: stopped\n")
        return 130
