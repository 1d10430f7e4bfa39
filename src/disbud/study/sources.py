"""Functions of one's own, and the file each is made from as it was when this process first asked for the function."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path

from disbud.catalogue import parse, resolve
from disbud.errors import DisbudError

# By id, beside the function itself, so that no other can have its id; a module loaded anew has functions of its own.
_FOUND: dict[int, tuple[Callable[..., object], str | None]] = {}


def own_function(reference: str) -> Callable[..., object]:
    """The function that "module:function" names; its file is read now, since what is edited later is not what runs.

    >>> from disbud.study.sources import own_function
    >>> own_function("collections:OrderedDict").__name__
    'OrderedDict'
    """
    function = resolve(reference)
    if id(function) not in _FOUND:
        _FOUND[id(function)] = (function, _source(reference, function))
    return function


def source_of(text: str) -> str:
    """SHA-256 of the file that a function of one's own was made from; of the text where the function has no file."""
    spec = parse(text)
    source = _FOUND[id(own_function(f"{spec.name}:{spec.argument}"))][1]
    return source or hashlib.sha256(text.encode()).hexdigest()


def _source(reference: str, function: Callable[..., object]) -> str | None:
    module = inspect.getmodule(function)
    if module is None:
        return None
    try:
        file = inspect.getsourcefile(module)
    except TypeError:  # the interpreter's own, or what was typed into it
        if module.__name__ == "__main__":
            raise DisbudError(
                f"{reference} stands in no file; write it into a module, so that its results can be told from those "
                "of another version"
            ) from None
        return None
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else None
