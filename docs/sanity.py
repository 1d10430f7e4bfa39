"""Every number and picture of docs/sanity.md.

    python docs/sanity.py           some core-hours; a check that lies in docs/sanity/ is not done again, nor is a trial
    python docs/sanity.py tables    draws the pictures and prints the tables of what lies there

Each check is `disbud.sanity_check` as a user would call it; its whole result lies in docs/sanity/*.json.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import disbud
from disbud.files import write_atomically
from disbud.report.sanity_picture import draw_checks

FOLDER = Path(__file__).parent / "sanity"


@dataclass(frozen=True)
class Setting:
    """A network, its data and its training."""

    name: str
    model: str
    data: str
    recipe: str


DIGITS = Setting("digits", "lenet-300-100", "digits", "digits")
SHAPES = Setting("shapes", "resnet20:width=0.5", "shapes:size=16,train=10000", "shapes:epochs=4")
BEFORE = ("snip", "grasp", "synflow", "magnitude")
SPARSITIES = (0.9, 0.98)


def asked() -> Iterator[tuple[Setting, str, float]]:
    """The checks in the order in which they are run: the quick ones first."""
    for setting in (DIGITS, SHAPES):
        yield from ((setting, method, sparsity) for sparsity in SPARSITIES for method in BEFORE)
        yield from ((setting, "hybrid", sparsity) for sparsity in SPARSITIES)
        # Levels that halve: with a fifth a level, as published, 98 % would be 18 trainings for every ticket.
        for method in ("lottery-ticket:per_level=0.5", "learning-rate-rewinding:per_level=0.5"):
            yield from ((setting, method, sparsity) for sparsity in SPARSITIES)


def place(setting: Setting, method: str, sparsity: float) -> Path:
    return FOLDER / f"{setting.name}-{method.partition(':')[0]}-{100 * sparsity:g}.json"


def run(workers: int | None = None) -> None:
    for setting, method, sparsity in asked():
        path = place(setting, method, sparsity)
        if path.exists():
            continue
        began = time.perf_counter()
        found = disbud.sanity_check(
            setting.model, method, setting.data, sparsity=sparsity, recipe=setting.recipe, workers=workers
        )
        document = {**found.to_json(), "seconds": round(time.perf_counter() - began, 1)}
        write_atomically(path, json.dumps(document, indent=1).encode())
        print(found, f"{document['seconds']} s", sep="\n", flush=True)


def tables() -> None:
    """A picture and a table for each setting and sparsity: differences with intervals, verdicts, overlaps."""
    for setting in (DIGITS, SHAPES):
        for sparsity in SPARSITIES:
            paths = [
                place(setting, method, sparsity)
                for s, method, at in asked()
                if (s, at) == (setting, sparsity)
            ]
            documents = [json.loads(path.read_text()) for path in paths if path.exists()]
            if not documents:
                continue
            draw_checks(documents, FOLDER / f"{setting.name}-{100 * sparsity:g}.png")
            print(
                f"\n{setting.name}, {100 * sparsity:g} %, margin {100 * documents[0]['margin']:.1f} points\n"
            )
            print("| method | accuracy | " + " | ".join(CHECKS) + " |")
            print("|---|---|" + "---|" * len(CHECKS))
            for document in documents:
                rows = {row["check"]: row for row in document["checks"]}
                cells = [_cell(rows.get(name)) for name in CHECKS]
                accuracy = 100 * statistics.fmean(document["accuracies"]["as it is"])
                print(
                    f"| {document['trial']['method']['name']} | {accuracy:.1f} | " + " | ".join(cells) + " |"
                )


CHECKS = (
    "random labels", "labels and pixels", "half the data", "rearranged mask", "permuted values", "smart-ratio random",
    "ERK random",
)  # fmt: skip


def _cell(row: dict[str, object] | None) -> str:
    if row is None:
        return ""
    low, high, middle = (100 * float(str(row[key])) for key in ("low", "high", "difference"))
    return f"{middle:+.1f} ({low:.1f} to {high:.1f}) {row['outcome']}"


if __name__ == "__main__":
    given = sys.argv[1] if len(sys.argv) > 1 else None
    if given == "tables":
        tables()
    else:
        run(None if given is None else int(given))
