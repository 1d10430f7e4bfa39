"""The study commands: options refused, what is shown while a study runs and after it, clearing up."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from rich.text import Text

from disbud.cli import main, progress, studying, verdicts
from disbud.cli.progress import Progress
from disbud.cli.studying import Running
from disbud.study import Decision, Failure, Findings, InProcess, Pool, Record, Store, Study, Trial
from disbud.study import Progress as Doing
from disbud.study import trial_measures as measures
from disbud.study.deciding import decide
from disbud.study.specification import study_of
from study_frames import BASE, GRID, SHUFFLE, frame_of, noise

FILE = """
name = "small"
data = "digits"
model = "mlp:hidden=8"
recipe = "digits:epochs=1"
methods = "magnitude"
sparsities = 0.9
seeds = 3
controls = false
measures = "paths"
"""


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a study file and a store of its own, to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISBUD_STORE", str(tmp_path / "store"))
    (tmp_path / "small.toml").write_text(FILE)
    return tmp_path / "small.toml"


def run_here(**changes: object) -> Findings:
    keys: dict[str, object] = {
        "name": "small", "data": "digits", "model": "mlp:hidden=8", "recipe": "digits:epochs=1", "seeds": 3,
        "methods": "magnitude", "sparsities": 0.9, "controls": False, "measures": "paths",
    }  # fmt: skip
    return Study(**{**keys, **changes}).run(engine=InProcess())


# How it is run


def test_limits_on_trials_need_a_process_of_their_own() -> None:
    assert isinstance(Running(workers=1).engine(), InProcess)
    for limits in ({"timeout": 1.0}, {"memory": 0.5}):
        engine = Running(workers=1, **limits).engine()  # type: ignore[arg-type]
        assert isinstance(engine, Pool)
        assert engine.size == 1
        assert (engine.timeout, engine.memory) == (
            limits.get("timeout"),
            2**29 if "memory" in limits else None,
        )


@pytest.mark.parametrize("option", ["--timeout", "--memory"])
@pytest.mark.parametrize("value", ["-5", "0", "nan", "inf"])
def test_a_limit_that_is_none_is_refused(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "run", "small.toml", "--workers", "1", f"{option}={value}"]) == 2
    assert f"error: {option} {value}: should be a number of " in capsys.readouterr().err
    assert not Path("store").exists()


def test_measures_to_be_taken_of_trials_that_are_done_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    run_here(measures=[])
    assert main(["study", "run", "small.toml", "--dry-run"]) == 0
    assert "small: 3 trials, 3 done before, 0 failed, 0 to run, 3 measures to take" in capsys.readouterr().err
    run_here()
    assert main(["study", "run", "small.toml", "--dry-run"]) == 0
    assert capsys.readouterr().err.endswith("small: 3 trials, 3 done before, 0 failed, 0 to run\n")


def test_a_dry_run_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    run_here(seeds=1)
    assert main(["study", "run", "small.toml", "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["study"], document["trials"], document["done"], document["failed"]) == ("small", 3, 1, 0)
    assert document["to_run"] == [f"mlp:hidden=8 on digits, magnitude at 0.9, seed {seed}" for seed in (1, 2)]
    assert document["seconds"] > 0
    assert document["measures"] == 2
    assert document["left_out"] == []
    assert document["not_at_hand"] == {}


# How far it is


def watched(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object]) -> int:
    """Watch the studies; while it waits for the first time, something happens. How often it waited."""
    waits = 0

    def wait(seconds: float) -> None:
        nonlocal waits
        waits += 1
        assert waits < 3, "it waits for ever"
        meanwhile()

    with monkeypatch.context() as patched:
        patched.setattr(studying.time, "sleep", wait)
        assert main(["study", "status", "--watch"]) == 0
    return waits


def test_watching_waits_for_the_first_study(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert watched(monkeypatch, run_here) == 1
    out = capsys.readouterr().out
    assert "the store knows of no study" in out
    assert "small       3     3       0" in out
    assert watched(monkeypatch, run_here) == 0


def test_watching_goes_on_while_a_driver_may_add_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    run_here()
    with ExitStack() as driver:
        driver.enter_context(Store.open(write=True))
        assert watched(monkeypatch, driver.close) == 1


def test_the_time_left_is_that_of_what_is_under_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with Progress() as shown:
        tell = studying._told(shown)
        for done in (0, 50, 100):  # of an hour; the long ones came first
            now = 36.0 * done
            tell(Doing("trials", done, 0, 100, left=(100 - done) * 1.0))
        for done in (0, 60, 120):  # of half a minute
            now = 3600 + 0.1 * done
            tell(Doing("measures", done, 0, 300))
        for done in (0, 10):  # the next look
            now = 3620 + 3.0 * done
            tell(Doing("trials", done, 0, 20))
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "50% done, 30 min 0 s gone, 50 s left: 50 of 100 trials",
        "100% done, 1 h 0 min gone: 100 of 100 trials",
        "20% done, 6.0 s gone, 24 s left: 60 of 300 measures",
        "40% done, 12 s gone, 18 s left: 120 of 300 measures",
        "0% done, 0.0 s gone: 0 of 20 trials",
        "50% done, 30 s gone, 30 s left: 10 of 20 trials",
    ]


# What it found


def test_a_report_on_a_part_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    run_here(seeds=1)
    assert main(["study", "report", "small.toml"]) == 0
    out, err = capsys.readouterr()
    assert "small  1 trial\n" in out
    assert "2 of 3 trials were not run yet; this decides on the others" in err
    run_here()
    assert main(["study", "report", "small.toml"]) == 0
    assert "not run" not in capsys.readouterr().err


def test_a_measure_that_fails_is_told_once_and_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(subject: measures.Subject) -> measures.Table:
        if subject.trial.seeds.init:
            raise MemoryError("no room")
        return measures.TRIAL_MEASURES["cost"].function(subject)

    known = measures.TRIAL_MEASURES["paths"]
    monkeypatch.setitem(measures.TRIAL_MEASURES, "paths", dataclasses.replace(known, function=broken))
    for asked in (["run", "small.toml", "--workers", "1"], ["report", "small.toml"]):
        assert main(["study", *asked]) == 1
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
        assert said == [
            "note: the measure paths of mlp:hidden=8 on digits, magnitude at 0.9, seed 1 and 1 other trial failed: "
            "MemoryError: no room"
        ]
    assert main(["study", "report", "small.toml", "--json"]) == 1
    errors = [trial["measure_errors"] for trial in json.loads(capsys.readouterr().out)["trials"]]
    assert errors == [{}, {"paths": "MemoryError: no room"}, {"paths": "MemoryError: no room"}]


def test_trials_that_failed_alike_are_told_in_one_line() -> None:
    trials = [Trial("mlp:hidden=8", "digits", "digits").with_seed(seed) for seed in range(4)]
    records = tuple(
        Record(trial, str(seed), error="it died" if seed else "it hung") for seed, trial in enumerate(trials)
    )
    assert verdicts.failures(Findings("Mine", "", records, (), {}, "", "")) == [
        "mlp:hidden=8 on digits, dense, seed 0 failed: it hung",
        "mlp:hidden=8 on digits, dense, seed 1 and 2 other trials failed: it died",
    ]


def decided(claims: int, *, gain: float, scale: float = 0.0018, control: float | None = None) -> Decision:
    """The first of so many claims, all that a shuffle beats the unaltered ticket, on four seeds.

    `control` is how good the dense network and the random ticket both are, if nothing is to tell them apart.
    """
    where = {"method": "snip", "sparsity": 0.9}
    claim = {"says": "x", "is": "beats", "where": where, **SHUFFLE}
    form = study_of({**BASE, **GRID, "claim": [{"name": str(i), **claim} for i in range(claims)]})
    frame, variants = frame_of(
        form, lambda trial: 0.8 + (gain if trial.intervention else 0.0), seeds=4, scale=scale
    )
    if control is not None:
        alike = ("dense", "random-uniform")
        records = [
            dataclasses.replace(r, accuracy=control + noise(r.trial, 0.0005))
            if r.trial.method in alike
            else r
            for r in frame.records
        ]
        frame = dataclasses.replace(frame, records=tuple(records))
    return decide(form.claim, frame, variants)[0]


def test_the_evidence_of_one_cell_is_its_interval() -> None:
    decision = decided(1, gain=0.05)
    assert str(decision.verdict) == "supported"
    evidence = verdicts._evidence(decision)
    assert evidence.endswith(f"margin {100 * (decision.cells[0].margin or 0):.1f}")
    assert " points, 95 % interval " in evidence
    assert evidence in decision.words


def test_the_evidence_says_why_the_verdict_is_not_that_of_the_interval() -> None:
    held_back = decided(30, gain=0.05, scale=0.012)
    assert (str(held_back.verdict), str(held_back.cells[0].verdict)) == ("undecided", "supported")
    evidence = verdicts._evidence(held_back)
    assert "; undecided (by itself supported), p " in evidence
    assert evidence.endswith(" after Holm over all claims")
    no_control = decided(1, gain=0.05, control=0.9)
    assert str(no_control.verdict) == "uninformative"
    assert verdicts._evidence(no_control).endswith("(4 seeds; no control is worse by more than the margin)")
    few = decided(1, gain=0.02, scale=0.02)
    assert str(few.verdict) == "undecided"
    assert " more would decide it)" in verdicts._evidence(few)


def test_what_is_no_difference_is_told_in_its_own_words() -> None:
    assert verdicts._evidence(Decision("1", "x", None, "not ours")) == "not ours"
    assert isinstance(verdicts._verdict(Decision("1", "x", None, "not ours")), Text)


# Clearing up


def records() -> int:
    with Store.open() as store:
        return len(store.all())


def test_forgetting_a_study_forgets_its_trials_and_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    run_here()
    run_here(name="larger", seeds=4)
    with Store.open(write=True) as store:
        store.add(Trial("mlp:hidden=8", "digits", "digits:epochs=1"), Failure("of no study"))
    assert main(["study", "gc", "--forget", "larger"]) == 0
    assert "1 trial forgotten" in capsys.readouterr().err
    assert records() == 4
    assert main(["study", "gc", "--forget", "small"]) == 0
    assert "3 trials forgotten" in capsys.readouterr().err
    assert main(["study", "gc", "--kind", "trials"]) == 0
    assert "1 trial forgotten" in capsys.readouterr().err
    assert records() == 0


def test_a_study_that_is_not_known_is_found_before_any_is_forgotten(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_here()
    assert main(["study", "gc", "--forget", "small", "--forget", "smal"]) == 2
    assert "knows of no study 'smal'; it knows small" in capsys.readouterr().err
    with Store.open() as store:
        assert list(store.studies()) == ["small"]
    assert main(["study", "gc", "--forget", "small", "--trial", "none"]) == 2
    assert records() == 3


def test_one_trial_can_be_forgotten_by_its_identity(capsys: pytest.CaptureFixture[str]) -> None:
    identity = run_here().records[1].identity
    assert main(["study", "gc", "--trial", identity[:16]]) == 0
    assert "1 trial forgotten; 2 files removed" in capsys.readouterr().err
    with Store.open() as store:
        assert identity not in {record.identity for record in store.all()}
    assert records() == 2


# Papers


def test_a_paper_s_study_can_be_written_and_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", "immunity", "--quick", "--seeds", "2", "--write", "mine.toml"]) == 0
    assert "wrote mine.toml: 72 trials, 9 claims" in capsys.readouterr().err
    text = (tmp_path / "mine.toml").read_text()
    assert text.startswith('name = "immunity-quick"\n')
    (tmp_path / "mine.toml").write_text(text.replace("seeds = 2", "seeds = 3"))
    assert main(["study", "run", "mine.toml", "--dry-run"]) == 0
    assert "immunity-quick: 105 trials" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()
