"""A name that is to be looked up, whatever was given in its place."""

from __future__ import annotations

from collections.abc import Iterable

from disbud.errors import unknown_name


def check_name(kind: str, name: object, known: Iterable[str]) -> None:
    """Raise where it is not one of the known names, or is no text at all."""
    if not isinstance(name, str) or name not in known:
        raise unknown_name(kind, name if isinstance(name, str) else repr(name), known)
