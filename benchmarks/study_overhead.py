"""What engines and store cost beside the trials, and what a second worker brings: real trials of about a second.

    python benchmarks/study_overhead.py [--trials 24] [--epochs 60] [--rounds 3]

Each round does the same trials in this process, with one warm worker, and with two, one after the other, each into a
new store. Overhead is the time of all workers beyond what trials say they took; speed-up compares trials a minute of
two workers with one, in the same round. Trials slow down when something else uses the machine, or when two of them
share its caches: the last column is the mean seconds of a trial.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence

from disbud.study import Engine, InProcess, Pool, Store, Trial, perform, run


def done(engine: Engine, trials: Sequence[Trial], workers: int) -> tuple[float, float]:
    """Wall-clock seconds, and the seconds that the trials say they took."""
    with tempfile.TemporaryDirectory() as folder, Store.open(folder, write=True) as store, engine as opened:
        warm = [trials[0].with_seed(10_000 + i) for i in range(2 * workers)]
        for _ in opened.run(run, warm):
            pass
        began = time.perf_counter()
        records = perform(trials, store=store, engine=opened)
        wall = time.perf_counter() - began
        assert not any(record.failed for record in records.values())
        return wall, sum(record.seconds for record in records.values())


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--trials", type=int, default=24)
    asked.add_argument("--epochs", type=int, default=60)
    asked.add_argument("--rounds", type=int, default=3)
    given = asked.parse_args()
    base = Trial("lenet-300-100", "digits", f"digits:epochs={given.epochs}", "snip", 0.9)
    trials = [base.with_seed(seed) for seed in range(given.trials)]
    ratios, overheads = [], []
    print(f"{'':<12}{'trials/min':>11}{'overhead':>10}{'s a trial':>11}")
    for _ in range(given.rounds):
        walls = {}
        for name, engine, workers in (
            ("in process", InProcess(), 1),
            ("one worker", Pool(1), 1),
            ("two workers", Pool(2), 2),
        ):
            wall, spent = done(engine, trials, workers)
            walls[name] = wall
            overhead = wall * workers / spent - 1
            if name == "one worker":
                overheads.append(overhead)
            print(
                f"{name:<12}{60 * given.trials / wall:>11.1f}{overhead:>10.1%}{spent / given.trials:>11.3f}"
            )
        ratios.append(walls["one worker"] / walls["two workers"])
        print(f"speed-up {ratios[-1]:.2f}")
    print(
        f"medians: overhead of one worker {statistics.median(overheads):.1%}, speed-up {statistics.median(ratios):.2f}"
    )


if __name__ == "__main__":
    main()
