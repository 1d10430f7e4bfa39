"""The C file as it grows: the functions it needs, each once; its tables; the calls."""

from __future__ import annotations

from math import prod
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray

from disbud.errors import DisbudError

_PIECES = Path(__file__).parent / "c"
_TYPES = {
    "float32": "float",
    "float16": "uint16_t",
    "uint8": "uint8_t",
    "uint16": "uint16_t",
    "uint32": "uint32_t",
}
_LINE = 110
_DEEPEST = 4


class Source:
    """What has been written so far; `prefix` begins every name of the file."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.calls: list[str] = []
        self._functions: dict[str, str] = {}
        self._tables: dict[tuple[str, bytes], str] = {}
        self._declared: list[str] = []

    def function(self, piece: str, name: str | None = None, **words: str) -> str:
        """Have a function in the file, from the piece of that name; gives what it is called."""
        name = name or piece
        if name not in self._functions:
            template = Template((_PIECES / f"{piece}.c").read_text(encoding="ascii"))
            self._functions[name] = template.substitute(words, N=self.prefix)
        return f"{self.prefix}_{name}"

    def table(self, kind: str, numbers: NDArray[np.generic]) -> tuple[str, int]:
        """Have a table in the file; its name, and the bytes it adds: none if one of the same content is there."""
        if not numbers.size:
            numbers = np.zeros(1, numbers.dtype)  # C has no empty arrays
        key = (str(numbers.dtype), numbers.tobytes())
        if key in self._tables:
            return self._tables[key], 0
        name = f"{self.prefix}_{kind}_{len(self._tables)}"
        self._tables[key] = name
        kept = numbers.view(np.uint16) if numbers.dtype == np.float16 else numbers
        entries = map(literal if kept.dtype == np.float32 else str, kept.reshape(-1))
        head = f"static const {_TYPES[str(numbers.dtype)]} {name}[{numbers.size}] = {{"
        self._declared.append("\n".join([head, *_wrapped(entries), "};"]))
        return name, numbers.nbytes

    def record(self, kind: str, sizes: list[int]) -> tuple[str, int]:
        """Have a struct of whole numbers in the file; its name and its bytes."""
        key = (kind, np.array(sizes).tobytes())
        if key in self._tables:
            return self._tables[key], 0
        if max(map(abs, sizes)) > 2**31 - 1:
            raise DisbudError(f"a {kind} has sizes that do not fit into 32 bits: it cannot be written as C")
        name = f"{self.prefix}_{kind}_{len(self._tables)}"
        self._tables[key] = name
        listed = ", ".join(map(str, sizes))
        self._declared.append(f"static const struct {self.prefix}_{kind} {name} = {{{listed}}};")
        return name, 4 * len(sizes)

    def block(
        self, sizes: tuple[int, ...], left: tuple[int, ...], right: tuple[int, ...], *, reader: str
    ) -> tuple[str, int]:
        """Have the sizes and steps of nested loops in the file, axes joined that lie one upon the other in both."""
        self.function("block")
        axes = joined(sizes, left, right)
        if len(axes) > _DEEPEST:
            raise DisbudError(
                f"{reader} goes over {len(axes)} axes that lie apart; up to {_DEEPEST} are written as C"
            )
        axes = [(1, 0, 0)] * (_DEEPEST - len(axes)) + axes
        nested = [f"{{{', '.join(str(axis[i]) for axis in axes)}}}" for i in range(3)]
        key = ("block", " ".join(nested).encode())
        if key in self._tables:
            return self._tables[key], 0
        name = self._tables[key] = f"{self.prefix}_block_{len(self._tables)}"
        self._declared.append(f"static const struct {self.prefix}_block {name} = {{{', '.join(nested)}}};")
        return name, 4 * 3 * _DEEPEST

    def text(self, head: str, body: list[str]) -> str:
        """The whole file: what comes first, functions, tables, and what comes last."""
        functions = [piece.rstrip() for piece in self._functions.values()]
        return "\n\n".join([head, *functions, *self._declared, "\n".join(body)]) + "\n"


def joined(
    sizes: tuple[int, ...], left: tuple[int, ...], right: tuple[int, ...]
) -> list[tuple[int, int, int]]:
    """Size and both steps of each axis, without axes of one entry, neighbours joined where one step is n others."""
    found: list[tuple[int, int, int]] = []
    for size, a, b in zip(sizes, left, right, strict=True):
        if size == 1:
            continue
        if found and found[-1][1] == a * size and found[-1][2] == b * size:
            found[-1] = (found[-1][0] * size, a, b)
        else:
            found.append((size, a, b))
    return found or [(1, 0, 0)]


def steps_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """How far apart entries lie along each axis, in order."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def literal(number: float | np.generic) -> str:
    """A number as C's float: the shortest digits that give it back."""
    single = np.float32(number)
    if np.isinf(single):
        return "HUGE_VALF" if single > 0 else "-HUGE_VALF"
    return f"{single!s}f"


def _wrapped(entries: map[str]) -> list[str]:
    lines, line = [], ""
    for entry in entries:
        if len(line) + len(entry) + 2 > _LINE:
            lines.append(line)
            line = ""
        line = f"{line} {entry}," if line else f"    {entry},"
    return [*lines, line]
