"""Trials that are done are kept: the same trial in the same environment is never run twice."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
import platform
from functools import cache
from pathlib import Path
from typing import cast

import torch

from disbud.artifacts import get_or_make
from disbud.catalogue import parse, resolve
from disbud.data import load
from disbud.origin import Json, package_version
from disbud.study.running import Outcome, run
from disbud.study.trial import Trial
from disbud.ticket import Ticket

REVISION = 1  # of what is kept, and of how trials are run


def kept_or_run(trial: Trial, cache: str | os.PathLike[str] | None = None) -> Outcome:
    """The outcome of the trial, from the cache where it was run before, else run now and kept there.

    >>> import tempfile
    >>> from disbud.study import Trial, kept_or_run
    >>> trial = Trial("lenet-300-100", "digits", "digits:epochs=1")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     kept_or_run(trial, folder) == kept_or_run(trial, folder)
    True
    """
    folder = get_or_make(_key(trial), lambda folder: _write(run(trial), folder), cache=cache)
    return _read(folder)


def environment() -> dict[str, Json]:
    """What the bits of a result depend on besides the trial."""
    return {
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "disbud": package_version(),
    }


def _key(trial: Trial) -> dict[str, Json]:
    return {
        "made": "a trial",
        "revision": REVISION,
        "trial": trial.described(),
        "data": _fingerprint(trial.data, trial.seeds.split),
        "own functions": [
            _source(text) for text in (trial.model, trial.method) if parse(text).argument is not None
        ],
        "environment": environment(),
    }


@cache
def _fingerprint(data: str, split: int) -> str:
    return load(data, seed=split).fingerprint


def _source(text: str) -> str:
    """A function of the user's own stands for the file it is in: when that changes, it is another function."""
    spec = parse(text)
    function = resolve(f"{spec.name}:{spec.argument}")
    file = inspect.getsourcefile(function)
    return hashlib.sha256(Path(file).read_bytes() if file else text.encode()).hexdigest()


def _write(outcome: Outcome, folder: Path) -> None:
    document = {
        "accuracy": outcome.accuracy,
        "loss": outcome.loss if math.isfinite(outcome.loss) else None,
        "curve": [dict(line) for line in outcome.curve],
        "diverged": outcome.diverged,
        "seconds": outcome.seconds,
        "pruned": outcome.ticket is not None,
    }
    (folder / "outcome.json").write_text(json.dumps(document))
    if outcome.ticket is not None:
        outcome.ticket.save(folder / "ticket.safetensors")


def _read(folder: Path) -> Outcome:
    document = json.loads((folder / "outcome.json").read_text())
    return Outcome(
        accuracy=document["accuracy"],
        loss=math.inf if document["loss"] is None else document["loss"],
        curve=tuple(cast("list[dict[str, Json]]", document["curve"])),
        ticket=Ticket.load(folder / "ticket.safetensors") if document["pruned"] else None,
        diverged=document["diverged"],
        seconds=document["seconds"],
    )
