"""A small study, and the process that does it and says what is done: what the crash tests kill."""

from __future__ import annotations

import signal
import sys

from disbud.study import InProcess, Pool, Progress, Record, Seeds, Store, Trial, perform

QUICK = "digits:epochs=2"


def _trial(method: str, intervention: str | None = None, seed: int = 0, recipe: str = QUICK) -> Trial:
    sparsity = None if method == "dense" else 0.9
    return Trial("lenet-300-100", "digits", recipe, method, sparsity, intervention, Seeds.all(seed))


TRIALS = (
    _trial("dense"),
    _trial("small-dense"),
    _trial("snip"),
    _trial("snip", "random-labels"),
    _trial("snip", "shuffle"),
    _trial("snip", "reinit"),
    _trial("synflow", seed=1),
    _trial("synflow", "shuffle", seed=1),
    _trial("lottery-ticket:rounds=2", seed=1),
    _trial("lottery-ticket:rounds=2", "permute-values", seed=1),
    _trial("random-erk", seed=2),
    _trial("magnitude", recipe="digits:epochs=2,lr=1e9"),  # diverges
    _trial("own_methods:not_a_number"),  # fails
)
MEASURES = ("cost", "weights")


def do(store: Store, engine: InProcess | Pool, tell: object = None) -> dict[Trial, Record]:
    return perform(TRIALS, store=store, engine=engine, measures=MEASURES, tell=tell)  # type: ignore[arg-type]


def _say(progress: Progress) -> None:
    if progress.latest is None:
        _write("running")
    elif progress.what == "trials":
        _write(f"stored {progress.latest.identity}")
    else:
        _write("measured")


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    # What a shell starts in the background ignores Ctrl-C, and so does what that starts; a terminal's command does not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Store.open(sys.argv[1], write=True) as kept, Pool(2) as workers:
        do(kept, workers, _say)
    _write("finished")
