"""What a study comes to in its store: added seeds, one way to decide, studies told apart, data that are not at hand."""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pytest

from disbud import DisbudError
from disbud.claims import Verdict
from disbud.cli import main
from disbud.study import Findings, InProcess, Progress, Store, Study
from disbud.study.exporting import export_frame

SMALL: dict[str, object] = {
    "name": "small", "data": "digits", "model": "mlp:hidden=20", "recipe": "digits:epochs=1", "methods": "magnitude",
    "sparsities": 0.9, "interventions": ["none", "shuffle"], "controls": False,
}  # fmt: skip
CLAIM: dict[str, object] = {
    "name": "1", "says": "Shuffling does not hurt", "is": "at-least",
    "left": {"intervention": "shuffle"}, "right": {"intervention": "none"},
}  # fmt: skip
OPEN = {**SMALL, "margin": 0.05, "claim": [CLAIM]}  # five seeds are too few to decide it
FILE = """
name = "small"
data = "digits"
model = "mlp:hidden=20"
recipe = "digits:epochs=1"
methods = "magnitude"
sparsities = 0.9
interventions = ["none", "shuffle"]
controls = false
margin = 0.05

[[claim]]
name = "1"
says = "Shuffling does not hurt"
is = "at-least"
left = { intervention = "shuffle" }
right = { intervention = "none" }
"""


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Findings]:
    """A store in which seeds were added until the claim was decided, and what that run found."""
    folder = tmp_path_factory.mktemp("looked")
    found = Study(**OPEN).run(store=folder, engine=InProcess(), until_decided=True)
    assert len(found.records) > 10
    assert "repeated interval" in found.decisions[0].words
    return folder, found


class _Stop(Exception):
    pass


def _stopped(study: Study, folder: Path, *, after: int) -> None:
    """Run in looks, and be stopped after so many trials."""
    over = 0

    def tell(progress: Progress) -> None:
        nonlocal over
        over += progress.latest is not None
        if over == after:
            raise _Stop

    with pytest.raises(_Stop):
        study.run(store=folder, engine=InProcess(), until_decided=True, tell=tell)


# Added seeds


def test_what_was_decided_in_looks_is_reported_as_the_run_said(looked: tuple[Path, Findings]) -> None:
    folder, found = looked
    assert Study(**OPEN).findings(folder) == found
    assert Study(**OPEN).outlook(folder).trials == len(found.records)
    assert Study(**OPEN).run(store=folder, engine=InProcess()) == found


def test_added_seeds_are_exported_with_their_numbers(looked: tuple[Path, Findings], tmp_path: Path) -> None:
    folder, found = looked
    assert export_frame(Study(**OPEN), tmp_path / "rows.csv", store=folder) == len(found.records)
    rows = pandas.read_csv(tmp_path / "rows.csv")
    assert sorted(rows["seed"].unique()) == list(range(len(found.records) // 2))
    frame = Study(**OPEN).frame({record.trial: record for record in found.records})
    assert frame.to_pandas()["seed"].notna().all()


def test_the_command_line_reports_and_counts_added_seeds(
    looked: tuple[Path, Findings],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, found = looked
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(FILE)
    assert main(["study", "report", "small.toml", "--store", str(folder), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["claims"][0]["words"] == found.decisions[0].words
    assert len(document["trials"]) == len(found.records)
    assert document["command"] == "disbud study run small.toml --until-decided"
    for asked in (["small.toml"], []):
        assert main(["study", "status", *asked, "--store", str(folder), "--json"]) == 0
        [line] = json.loads(capsys.readouterr().out)
        assert (line["trials"], line["done"]) == (len(found.records),) * 2


def test_a_claim_that_its_first_look_decided_is_reported_by_the_same_interval(tmp_path: Path) -> None:
    study = Study(**{**OPEN, "margin": 0.3, "recipe": "digits:epochs=5"})
    found = study.run(store=tmp_path, engine=InProcess(), until_decided=True)
    assert len(found.records) == 10
    assert found.decisions[0].verdict is Verdict.SUPPORTED
    assert "repeated interval" in found.decisions[0].words
    assert study.findings(tmp_path) == found


def test_looks_that_were_stopped_are_reported_on_and_gone_on_with(
    looked: tuple[Path, Findings], tmp_path: Path
) -> None:
    study = Study(**OPEN)
    _stopped(study, tmp_path, after=13)
    outlook = study.outlook(tmp_path)
    assert (outlook.trials, outlook.done, len(outlook.to_run)) == (20, 13, 7)
    part = study.findings(tmp_path)
    assert len(part.records) == 13
    [cell] = part.decisions[0].cells
    assert cell.seeds == 5  # the second look is not complete
    assert "repeated interval" in cell.words
    assert study.run(store=tmp_path, engine=InProcess(), until_decided=True) == looked[1]


def test_a_plain_run_ends_a_look_that_was_begun_and_begins_none(tmp_path: Path) -> None:
    study = Study(**{**OPEN, "margin": 0.001})  # which no look decides
    _stopped(study, tmp_path, after=13)
    found = study.run(store=tmp_path, engine=InProcess())
    assert len(found.records) == 20
    assert found.decisions[0].cells[0].seeds == 10


def test_looks_begin_with_all_seeds_of_the_file(tmp_path: Path) -> None:
    study = Study(**{**OPEN, "margin": 0.9, "seeds": 7})
    found = study.run(store=tmp_path, engine=InProcess(), until_decided=True)
    assert len(found.records) == 14
    assert found.decisions[0].cells[0].seeds == 5
    assert study.findings(tmp_path) == found


def test_other_words_around_the_trials_keep_the_added_seeds(looked: tuple[Path, Findings]) -> None:
    folder, found = looked
    reworded = {**OPEN, "title": "Of masks", "claim": [{**CLAIM, "says": "A shuffled mask does as well"}]}
    again = Study(**reworded).findings(folder)
    assert again.records == found.records
    assert again.decisions[0].words == found.decisions[0].words


def test_seeds_that_another_study_ran_are_none_that_were_added(
    looked: tuple[Path, Findings], tmp_path: Path
) -> None:
    other = Study(**{**OPEN, "name": "other"})
    assert other.outlook(looked[0]).trials == 10
    found = other.findings(looked[0])
    assert len(found.records) == 10
    assert "repeated" not in found.decisions[0].words


def test_what_runs_a_study_again_says_that_seeds_are_added(looked: tuple[Path, Findings]) -> None:
    assert looked[1].command == "disbud.Study(...).run(until_decided=True)"
    assert Study(**OPEN).findings("nowhere").command == "disbud.Study(...).run()"


# Which study it is


def test_python_studies_of_one_name_and_other_trials_are_other_studies(tmp_path: Path) -> None:
    Study(**SMALL, seeds=1).run(store=tmp_path, engine=InProcess())
    Study(**{**SMALL, "sparsities": 0.5}, seeds=1).run(store=tmp_path, engine=InProcess())
    with Store.open(tmp_path) as store:
        assert {record.trial.sparsity for record in store.unwanted()} == {0.9}
        assert len(store.studies()["small"].trials) == 2


def test_a_reproduction_of_another_model_is_another_study(tmp_path: Path) -> None:
    from disbud.reproductions import reproduction

    one, other = (
        reproduction("immunity", size="quick", model=f"mlp:hidden={n}", recipe="digits:epochs=1")
        for n in (8, 9)
    )
    with Store.open(tmp_path, write=True) as store:
        assert one.plan(store).told != other.plan(store).told


# What cannot be known


def test_trials_whose_data_are_not_at_hand_count_as_not_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "away.toml"
    file.write_text(FILE.replace('data = "digits"', 'data = ["digits", "folder:nowhere"]'))
    store = tmp_path / "store"
    Study(**OPEN).run(store=store, engine=InProcess())
    assert main(["study", "run", str(file), "--store", str(store), "--dry-run"]) == 0
    err = capsys.readouterr().err
    assert "small: 20 trials, 10 done before, 0 failed, 10 to run" in err
    assert "folder:nowhere is not at hand, so none of its trials counts as done: " in err
    assert main(["study", "status", str(file), "--store", str(store), "--json"]) == 0
    [line] = json.loads(capsys.readouterr().out)
    assert (line["trials"], line["done"]) == (20, 10)
    with pytest.raises(DisbudError, match="nowhere"):
        Study.load(file).run(store=store, engine=InProcess())


def test_failed_trials_count_as_to_be_run_where_they_are_run_again(tmp_path: Path) -> None:
    study = Study(**{**SMALL, "methods": "own_methods:not_a_number", "interventions": "none"}, seeds=2)
    study.run(store=tmp_path, engine=InProcess())
    assert len(study.outlook(tmp_path).to_run) == 0
    assert len(study.outlook(tmp_path, retry_failed=True).to_run) == 2
