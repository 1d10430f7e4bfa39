"""Two quick trials, what comes of them, and a store that holds both: fixtures of the tests of the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from disbud.study import Outcome, Seeds, Store, Trial, run

QUICK = "digits:epochs=1"
LENET = Trial("lenet-300-100", "digits", QUICK, "snip", 0.9, None, Seeds.all(1))
DENSE = Trial("lenet-300-100", "digits", QUICK)


@pytest.fixture(name="outcome", scope="module")
def lenet_outcome() -> Outcome:
    return run(LENET)


@pytest.fixture(name="dense", scope="module")
def dense_outcome() -> Outcome:
    return run(DENSE)


@pytest.fixture(name="filled")
def filled_store(tmp_path: Path, outcome: Outcome, dense: Outcome) -> Path:
    """A store of two trials."""
    with Store.open(tmp_path / "filled", write=True) as store:
        store.add(LENET, outcome)
        store.add(DENSE, dense)
    return tmp_path / "filled"
