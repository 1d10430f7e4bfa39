"""Compiling the C kernels for one instruction set, once, into the cache."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from disbud import artifacts
from disbud.errors import DisbudError, unknown_name

SOURCES = Path(__file__).parent / "c"
UNITS = ("sparse.c", "normalise.c", "pool.c", "threads.c")
LIBRARY = "libdisbud_kernels.so"
FLAGS = ("-O3", "-std=gnu11", "-fno-math-errno", "-fPIC", "-shared", "-pthread")

# What is compiled for each set; one that is named can be asked for with DISBUD_KERNELS.
INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "avx512": (
        *("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma"),
        "-mprefer-vector-width=512",
    ),
    "avx2": ("-mavx2", "-mfma"),
    "neon": (),
    "plain": (),
}
# What is compiled for each type that activations are stored in.
STORAGE: dict[torch.dtype, tuple[str, ...]] = {torch.float32: (), torch.bfloat16: ("-DSTORE_BFLOAT16",)}
SANITIZE = (
    "-g",
    "-O1",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
)


@dataclass(frozen=True)
class Compiler:
    """A C compiler, what it says it is, and the arguments that every call of it begins with."""

    path: str
    version: str
    arguments: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        """What every call of it begins with."""
        return [self.path, *self.arguments]


def best_instructions() -> str:
    """The widest instruction set of this processor that the kernels are written for."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return "neon"
    return {"AVX512": "avx512", "AVX2": "avx2"}.get(torch.backends.cpu.get_cpu_capability(), "plain")


def usable_instructions() -> tuple[str, ...]:
    """The instruction sets this processor runs, widest first."""
    best = best_instructions()
    if best == "neon":
        return ("neon", "plain")
    known = ("avx512", "avx2", "plain")
    return known[known.index(best) :]


def flags_of_storage(instructions: str, stored: torch.dtype) -> tuple[str, ...]:
    """The flags for that type of activations: with this processor's own bfloat16 instructions where it has them."""
    flags = STORAGE[stored]
    # torch names the question privately, and not in every version; without an answer integers do it.
    has = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    if stored == torch.bfloat16 and instructions == "avx512" and has is not None and has():
        flags = (*flags, "-mavx512bf16")
    return flags


def find_compiler() -> Compiler | None:
    """The compiler $CC names, else cc, gcc or clang from the path; None where none of them runs."""
    named = os.environ.get("CC")
    for command in [_words(named)] if named else [["cc"], ["gcc"], ["clang"]]:
        path = shutil.which(command[0])
        if path is None:
            continue
        asked = [path, *command[1:], "--version"]
        told = subprocess.run(asked, capture_output=True, text=True, check=False)
        if told.returncode == 0:
            version = told.stdout.splitlines()[0] if told.stdout else "unknown"
            return Compiler(path, version, tuple(command[1:]))
    return None


def _words(command: str) -> list[str]:
    """The words of $CC, as make and shells take them; a path with a space in it is one word where it runs."""
    if shutil.which(command):
        return [command]
    try:
        return shlex.split(command) or [command]
    except ValueError as error:
        raise DisbudError(f"CC={command} is no command ({error}); name a compiler, as in CC=gcc") from error


def build(
    instructions: str,
    compiler: Compiler,
    *,
    extra: tuple[str, ...] = (),
    cache: str | os.PathLike[str] | None = None,
) -> Path:
    """The kernels compiled for that instruction set: found in the cache, or compiled now and kept there.

    Processes that ask at once wait for the one that compiles. `extra` flags, such as SANITIZE or those of a type of
    activations, make another entry.
    """
    if instructions not in INSTRUCTIONS:
        raise unknown_name("instruction set", instructions, INSTRUCTIONS)
    flags = [*FLAGS, *INSTRUCTIONS[instructions], *extra]
    key = {
        "what": "kernels",
        "sources": _digest_of_sources(),
        "flags": flags,
        "compiler": [*compiler.command, compiler.version],
        "machine": platform.machine(),
    }

    def make(folder: Path) -> None:
        command = [*compiler.command, *flags, *(str(SOURCES / unit) for unit in UNITS)]
        run = subprocess.run(
            [*command, "-o", str(folder / LIBRARY), "-lm"], capture_output=True, text=True, check=False
        )
        if run.returncode:
            raise DisbudError(
                f"{shlex.join(compiler.command)} ({compiler.version}) cannot compile the kernels for {instructions}; "
                "name another compiler by CC=COMPILER, or do without by DISBUD_KERNELS=torch. It says:\n"
                f"{run.stderr.strip()}"
            )

    return artifacts.get_or_make(key, make, cache=cache) / LIBRARY


def _digest_of_sources() -> str:
    content = hashlib.sha256()
    for path in sorted(SOURCES.glob("*.[ch]")):
        content.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return content.hexdigest()
