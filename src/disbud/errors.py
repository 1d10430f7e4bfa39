"""The errors a user of disbud can meet, and the one way to say that a name is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DisbudError(ValueError):
    """Something asked of disbud cannot be done; the message says what was asked, what is wrong, what would work.

    >>> import disbud
    >>> issubclass(disbud.TicketError, disbud.DisbudError)
    True
    """


class TicketError(DisbudError):
    """A ticket or its file is damaged, foreign, or does not fit the model it is put on.

    >>> import disbud
    >>> try:
    ...     disbud.Ticket.load("nowhere.ticket.safetensors")
    ... except disbud.TicketError as error:
    ...     print(error)
    nowhere.ticket.safetensors: there is no such file
    """


def unknown_name(kind: str, name: str, known: Iterable[str]) -> DisbudError:
    """The error for a name that is not in a catalogue, with the closest known names."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = (
        f"did you mean {' or '.join(repr(c) for c in close)}?" if close else f"known are {', '.join(known)}"
    )
    return DisbudError(f"there is no {kind} {name!r}; {hint}")
