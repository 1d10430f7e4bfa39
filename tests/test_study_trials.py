"""The table of every trial on a study's page: what it holds, where it leads, and what runs a trial again."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

import pytest

import study_findings as made
from disbud import report
from disbud.errors import DisbudError
from disbud.study import Seeds, Trial
from disbud.study.findings import Findings
from disbud.study.record import Record
from study_pages import trial_rows


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    """A cache of the tests' own, so that they leave nothing in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISBUD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def large() -> Findings:
    return made.large()


@pytest.fixture(scope="module")
def real() -> Findings:
    return made.real()


def test_every_trial_is_in_the_table_with_its_ticket_settings_and_error(large: Findings) -> None:
    links = {large.records[7].identity: "tickets/7.html"}
    rows = trial_rows(report.study(large, tickets=links))
    assert len(rows) == len(large.records)
    for i, (row, record) in enumerate(zip(rows, large.records, strict=True)):
        assert row["link"] == ("tickets/7.html" if i == 7 else None)
        assert (row["state"] == "bad") == record.failed == (row["outcome"] == "failed")
        assert row["Identity"] == record.identity
        assert row["sparsity"] == record.trial.sparsity
        assert row["intervention"] == (record.trial.intervention or "none")
        assert row["seed"] == str(record.trial.seeds.init)
    assert rows[40]["Error"] == "RuntimeError: out of <memory> & more"
    assert str(rows[40]["Traceback"]).startswith("Traceback (most recent call last):\n  File")
    assert json.loads(str(rows[3]["Resolved recipe"]))["epochs"] > 0


def test_the_command_of_a_trial_runs_it_again(real: Findings) -> None:
    record = real.records[2]
    row = trial_rows(report.study(real))[2]
    python, *arguments = shlex.split(str(row["Again"]))
    assert python == "python"
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert [float(word) for word in done.stdout.split()] == [record.accuracy, record.loss]


def test_seeds_that_differ_are_told_apart() -> None:
    trial = Trial("lenet-300-100", "digits", "digits", seeds=Seeds(1, 2, 3, 4))
    (row,) = trial_rows(report.study(made.findings([Record(trial, trial.identity, 0.5, 1.0)])))
    assert row["seed"] == "1/2/3/4"


@pytest.mark.parametrize(
    "link", ["javascript:alert(1)", " JavaScript:x", "https://example.org/a.html", "/etc/a", "//x/y"]
)
def test_a_link_that_leaves_the_folder_is_refused(link: str) -> None:
    with pytest.raises(DisbudError, match="no relative link"):
        report.study(made.one_trial(), tickets={"ab": link})


def test_only_findings_make_a_page() -> None:
    with pytest.raises(DisbudError, match="made of Findings, not of a list"):
        report.study([])  # type: ignore[arg-type]
