"""The identity under which a store keeps a trial: all that its numbers depend on, but for the environment."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from pathlib import Path

from disbud.artifacts import digest
from disbud.catalogue import Entry, parse, resolve
from disbud.methods.catalogue import CATALOGUE as METHODS
from disbud.models.catalogue import CATALOGUE as MODELS
from disbud.study.datasets import fingerprint
from disbud.study.trial import Trial

REVISION = 2  # of how trials are run: another one runs every trial anew


def identity_of(trial: Trial) -> str:
    """SHA-256 of the settings and revisions, the content of the data, and the source of functions of one's own.

    >>> from disbud.study import Trial, identity_of
    >>> trial = Trial("lenet-300-100", "digits", "digits:epochs=1")
    >>> identity_of(trial) == identity_of(trial.with_seed(0)) != identity_of(trial.with_seed(1))
    True
    """
    own: list[tuple[str, Mapping[str, Entry]]] = [(trial.model, MODELS), (trial.method, METHODS)]
    return digest(
        {
            "made": "a trial",
            "revision": REVISION,
            "trial": trial.described(),
            "data": fingerprint(trial.data, trial.seeds.split),
            "own functions": [
                _source(text)
                for text, known in own
                if parse(text).argument is not None and parse(text).name not in known
            ],
        }
    )


def _source(text: str) -> str:
    """A function of the user's own stands for the file it is in: when that changes, it is another function."""
    spec = parse(text)
    module = inspect.getmodule(resolve(f"{spec.name}:{spec.argument}"))
    file = inspect.getsourcefile(module) if module is not None else None
    return hashlib.sha256(Path(file).read_bytes() if file else text.encode()).hexdigest()
