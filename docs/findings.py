"""Every table of docs/findings.md and docs/poise.md: reproductions at their default size, and the studies of poise.

    python docs/findings.py [NAME ...] [--workers N]   core-hours each; trials that the store has are not run again
    python docs/findings.py NAME --model MODEL         a reproduction on another network, kept beside it
    python docs/findings.py tables NAME ...            prints the tables of what lies in docs/findings/
    python docs/findings.py tables                     writes those of the reproductions into docs/findings.md

NAME is that of a reproduction, or of a study file docs/findings/NAME.toml; none means all. What came of its claims lies
in docs/findings/NAME.json (on another network NAME-on-MODEL.json), accuracies beside them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

from disbud.catalogue import parse
from disbud.cli.verdicts import findings_json
from disbud.files import write_atomically
from disbud.reproductions import CATALOGUE, reproduction
from disbud.study import Findings, Pool, Progress, Study
from disbud.study.frame import FIRST_CALIBRATION

FOLDER = Path(__file__).parent / "findings"
_MARK = "<!-- written by docs/findings.py tables -->\n"
_EVERY = 60.0  # seconds between lines of progress


def run(names: Sequence[str], *, model: str | None, workers: int | None) -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in names:
        own = FOLDER / f"{name}.toml"
        study = reproduction(name, model=model) if name in CATALOGUE else Study.load(os.path.relpath(own))
        kept_as = name if model is None else f"{name}-on-{parse(model).name}"
        began = time.perf_counter()
        findings = study.run(engine=Pool(workers), tell=_Told(name))
        kept = document(findings, seconds=time.perf_counter() - began)
        write_atomically(FOLDER / f"{kept_as}.json", json.dumps(kept, indent=1).encode())
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


def tables(names: Sequence[str]) -> str:
    """Claims and accuracies of what was run, as Markdown; on other networks after its own."""
    found = [
        path
        for name in names
        for path in [FOLDER / f"{name}.json", *sorted(FOLDER.glob(f"{name}-on-*.json"))]
    ]
    documents = [json.loads(path.read_text()) for path in found if path.exists()]
    return "\n".join(part for document in documents for part in (verdicts(document), accuracies(document)))


def write_tables() -> None:
    """Into docs/findings.md, in the place of those that it has."""
    page = FOLDER.with_suffix(".md")
    text, mark, _ = page.read_text().partition(_MARK)
    write_atomically(page, f"{text}{mark}\n{tables(list(CATALOGUE))}".encode())


def verdicts(document: dict[str, object]) -> str:
    minutes = f"{float(str(document['core_seconds'])) / 60:.0f} core-minutes"
    elsewhere = re.search(r"--model (\S+)", str(document["command"]))
    lines = [
        f"\n### {document['title']}{f' On {elsewhere[1]}' if elsewhere else ''}\n",
        f"`{document['command']}`: {document['trials']} trials, {minutes}.\n",
        "| claim | | verdict | evidence |\n|---|---|---|---|",
    ]
    claims = document["claims"]
    assert isinstance(claims, list)
    for claim in claims:
        verdict = claim["verdict"] or "not testable here"
        alone = re.search(r"by itself (\w+)", claim["words"])  # before the correction for so many claims
        verdict += f" (by itself {alone[1]})" if alone else ""
        lines.append(f"| {claim['name']} | {claim['says']} | {verdict} | {_evidence(claim)} |")
    return "\n".join(lines)


def _evidence(claim: dict[str, object]) -> str:
    """The cells' tally, with the strongest that support and that contradict; or the one interval."""
    cells = claim["cells"]
    assert isinstance(cells, list)
    known = [cell for cell in cells if cell["low"] is not None and abs(float(cell["low"])) < math.inf]
    if not known:
        return str(claim["words"]).split("\n")[0]
    if len(cells) == 1:
        return _one(known[0])
    parts = []
    for verdict in ("supported", "contradicted", "undecided", "uninformative"):
        alike = [cell for cell in cells if cell["verdict"] == verdict]
        shown = [cell for cell in known if cell["verdict"] == verdict]
        if alike:
            decided = verdict in ("supported", "contradicted") and shown
            strongest = _one(max(shown, key=lambda cell: abs(cell["estimate"]))) if decided else ""
            parts.append(f"{len(alike)} {verdict}" + (f" ({strongest})" if strongest else ""))
    return "; ".join(parts)


def _one(cell: dict[str, object]) -> str:
    scale, digits = (100, 1) if cell["unit"] == "points" else (1, 3)
    low, high, middle = (scale * float(str(cell[key])) for key in ("low", "high", "estimate"))
    margin = "" if not cell["margin"] else f", margin {scale * float(str(cell['margin'])):.{digits}f}"
    name = f"{cell['name']}: " if cell["name"] else ""
    seeds = f", {cell['seeds']} seeds" if cell["seeds"] else ""
    return f"{name}{middle:+.{digits}f} [{low:.{digits}f} to {high:.{digits}f}]{margin}{seeds}"


def accuracies(document: dict[str, object]) -> str:
    """A table a network: methods and what was done to their tickets, by sparsity."""
    rows = document["accuracies"]
    assert isinstance(rows, list)
    lines = []
    for model in dict.fromkeys(row[0] for row in rows):
        of_model = [row for row in rows if row[0] == model]
        dense = next((row for row in of_model if row[1] == "dense"), None)
        sparsities = sorted({row[3] for row in of_model if row[3]}, key=lambda text: float(text.split()[0]))
        lines.append(f"\n{model}" + (f", dense {_percent(dense)}:" if dense else ":") + "\n")
        lines.append(f"| method | altered | {' | '.join(sparsities)} |\n|---|---|{'---|' * len(sparsities)}")
        for method, altered in dict.fromkeys((row[1], row[2]) for row in of_model if row[1] != "dense"):
            found = {row[3]: row for row in of_model if row[1:3] == [method, altered]}
            cells = [_percent(found[s]) if s in found else "" for s in sparsities]
            lines.append(f"| {method} | {altered} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _percent(row: list[object]) -> str:
    mean, deviation = (100 * float(str(value)) for value in row[4:6])
    return f"{mean:.1f} ± {deviation:.1f}"


def main() -> None:
    every = [*CATALOGUE, *sorted(path.stem for path in FOLDER.glob("*.toml"))]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(["tables", *every]))
    parser.add_argument("--model", help="train this one in the place of those of the reproductions named")
    parser.add_argument("--workers", type=int, help="processes (as many as there are cores)")
    given = parser.parse_args()
    names = [name for name in given.names if name != "tables"]
    for name in names:
        if name not in every:
            parser.error(f"there is no {name!r}; there are {', '.join(every)}")
    if "tables" in given.names and names:
        print(tables(names))
    elif "tables" in given.names:
        write_tables()
    else:
        if given.model is not None and (not names or not set(names) <= set(CATALOGUE)):
            parser.error("--model goes with reproductions by name; a study file names its own model")
        run(names or every, model=given.model, workers=given.workers)


if __name__ == "__main__":
    main()
