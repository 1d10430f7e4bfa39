"""Studies: trials, each a value that says all its result depends on, engines that run them, a store of results."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from disbud.study.engines import Ended, Engine, Expected, Failure, InProcess, Pool, Ray, Running
    from disbud.study.environments import environment
    from disbud.study.findings import Cell, Decision, Findings
    from disbud.study.frame import Frame
    from disbud.study.identity import identity_of
    from disbud.study.performing import Progress, expected_seconds, perform
    from disbud.study.record import Record, mixed
    from disbud.study.running import Outcome, run
    from disbud.study.store import Freed, KeptStudy, Store, store_folder
    from disbud.study.study import Outlook, Study
    from disbud.study.trial import Seeds, Trial

_HOMES = {
    "Cell": "findings",
    "Decision": "findings",
    "Ended": "engines",
    "Engine": "engines",
    "Expected": "engines",
    "Failure": "engines",
    "Findings": "findings",
    "Frame": "frame",
    "Freed": "store",
    "InProcess": "engines",
    "KeptStudy": "store",
    "Outcome": "running",
    "Outlook": "study",
    "Pool": "engines",
    "Progress": "performing",
    "Ray": "engines",
    "Record": "record",
    "Running": "engines",
    "Seeds": "trial",
    "Store": "store",
    "Study": "study",
    "Trial": "trial",
    "environment": "environments",
    "expected_seconds": "performing",
    "identity_of": "identity",
    "mixed": "record",
    "perform": "performing",
    "run": "running",
    "store_folder": "store",
}

__all__ = [
    "Cell",
    "Decision",
    "Ended",
    "Engine",
    "Expected",
    "Failure",
    "Findings",
    "Frame",
    "Freed",
    "InProcess",
    "KeptStudy",
    "Outcome",
    "Outlook",
    "Pool",
    "Progress",
    "Ray",
    "Record",
    "Running",
    "Seeds",
    "Store",
    "Study",
    "Trial",
    "environment",
    "expected_seconds",
    "identity_of",
    "mixed",
    "perform",
    "run",
    "store_folder",
]


def __getattr__(name: str) -> object:
    # What is not asked for is not imported: a worker needs neither statistics nor study files, and starts sooner.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
