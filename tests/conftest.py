"""One thread a test process, as every worker of disbud runs; no colour or width of the caller's terminal."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["NO_COLOR"] = "1"
os.environ["COLUMNS"] = "140"

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _random_streams_stay_untouched() -> object:
    """No test may disturb the global random streams through disbud; those that draw do so from their own generators."""
    before = torch.random.get_rng_state()
    yield
    torch.random.set_rng_state(before)
