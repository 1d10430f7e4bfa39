"""Every table of docs/findings.md: the six reproductions at their default size, on drawn shapes.

    python docs/findings.py [NAME ...] [--workers N]   core-hours each; trials that the store has are not run again
    python docs/findings.py tables                     prints the tables of what lies in docs/findings/

Each is `disbud reproduce NAME`; what came of its claims lies in docs/findings/NAME.json, accuracies beside them.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

from disbud.cli.verdicts import findings_json
from disbud.files import write_atomically
from disbud.reproductions import CATALOGUE, reproduction
from disbud.study import Findings, Pool, Progress
from disbud.study.frame import FIRST_CALIBRATION

FOLDER = Path(__file__).parent / "findings"
_EVERY = 60.0  # seconds between lines of progress


def run(names: Sequence[str], *, workers: int | None) -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in names or CATALOGUE:
        began = time.perf_counter()
        findings = reproduction(name).run(engine=Pool(workers), tell=_Told(name))
        kept = document(findings, seconds=time.perf_counter() - began)
        write_atomically(FOLDER / f"{name}.json", json.dumps(kept, indent=1).encode())
        print(name, f"{kept['seconds']} s, {kept['core_seconds']} s of trials", flush=True)


class _Told:
    def __init__(self, name: str) -> None:
        self._name, self._last = name, 0.0

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() - self._last > _EVERY:
            self._last = time.monotonic()
            left = "" if progress.left is None else f", {progress.left / 60:.0f} min left"
            print(f"{self._name}: {progress.fraction:.0%} of {progress.what}{left}", flush=True)


def document(findings: Findings, *, seconds: float) -> dict[str, object]:
    """The claims as `disbud reproduce --json` has them, and the accuracies of each group of trials."""
    groups: dict[tuple[str, ...], list[float]] = {}
    for record in findings.records:
        trial = record.trial
        if record.accuracy is not None and trial.seeds.split < FIRST_CALIBRATION:
            sparsity = "" if trial.sparsity is None else f"{100 * trial.sparsity:g} %"
            key = (trial.model, trial.method, trial.intervention or "", sparsity)
            groups.setdefault(key, []).append(record.accuracy)
    said = findings_json(findings)
    return {
        "title": said["title"],
        "command": said["command"],
        "specification": findings.specification,
        "seconds": round(seconds),
        "core_seconds": round(sum(record.seconds for record in findings.records)),
        "trials": len(findings.records),
        "failed": sum(record.failed for record in findings.records),
        "claims": said["claims"],
        "accuracies": [[*key, *_spread(values)] for key, values in groups.items()],
    }


def _spread(values: list[float]) -> tuple[float, float, int]:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return round(statistics.fmean(values), 5), round(deviation, 5), len(values)


def tables() -> None:
    for name in CATALOGUE:
        path = FOLDER / f"{name}.json"
        if path.exists():
            show(name, json.loads(path.read_text()))


def show(name: str, document: dict[str, object]) -> None:
    minutes = f"{float(str(document['core_seconds'])) / 60:.0f} core-minutes"
    print(f"\n### {document['title']}\n\n`{document['command']}`: {document['trials']} trials, {minutes}.\n")
    print("| claim | | verdict | evidence |\n|---|---|---|---|")
    claims = document["claims"]
    assert isinstance(claims, list)
    for claim in claims:
        verdict = claim["verdict"] or "not testable here"
        print(f"| {claim['name']} | {claim['says']} | {verdict} | {_evidence(claim)} |")


def _evidence(claim: dict[str, object]) -> str:
    """The cells' tally and the strongest of them, or the one interval."""
    cells = claim["cells"]
    assert isinstance(cells, list)
    known = [cell for cell in cells if cell["low"] is not None]
    if not known:
        return str(claim["words"]).split("\n")[0]
    own = [cell for cell in known if cell["verdict"] == claim["verdict"]] or known
    shown = max(own, key=lambda cell: abs(cell["estimate"] or 0.0))
    tally: dict[str, int] = {}
    for cell in cells:
        tally[cell["verdict"]] = tally.get(cell["verdict"], 0) + 1
    counted = ", ".join(f"{count} {verdict}" for verdict, count in tally.items())
    return f"{counted}; {_one(shown)}" if len(cells) > 1 else _one(shown)


def _one(cell: dict[str, object]) -> str:
    scale, digits = (100, 1) if cell["unit"] == "points" else (1, 3)
    low, high, middle = (scale * float(str(cell[key])) for key in ("low", "high", "estimate"))
    margin = "" if not cell["margin"] else f", margin {scale * float(str(cell['margin'])):.{digits}f}"
    name = f"{cell['name']}: " if cell["name"] else ""
    return (
        f"{name}{middle:+.{digits}f} ({low:.{digits}f} to {high:.{digits}f}){margin}, {cell['seeds']} seeds"
    )


def main(given: list[str]) -> None:
    if given == ["tables"]:
        tables()
        return
    workers = int(given[given.index("--workers") + 1]) if "--workers" in given else None
    run([word for word in given if word in CATALOGUE], workers=workers)


if __name__ == "__main__":
    main(sys.argv[1:])
