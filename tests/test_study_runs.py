"""Studies as a whole, really run: records, claims, resuming, added seeds, the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pytest

import disbud
from disbud import DisbudError
from disbud.claims import Verdict
from disbud.cli import main
from disbud.study import InProcess, Progress, Store, Study, Trial

QUICK: dict[str, object] = {
    "name": "quick", "data": "digits", "model": "mlp:hidden=20", "recipe": "digits:epochs=2",
}  # fmt: skip
SMALL: dict[str, object] = {**QUICK, "methods": "magnitude", "sparsities": 0.9, "controls": False}
DENSE_WINS = {
    "name": "1", "says": "Nothing beats the dense network", "is": "beats", "margin": 0.005,
    "left": {"method": "dense"}, "right": {"method": "random-uniform", "sparsity": 0.98},
}  # fmt: skip
FILE = """
name = "from-a-file"
says = "Does shuffling hurt magnitude at 90 %?"
data = "digits"
model = "mlp:hidden=20"
recipe = "digits:epochs=2"
methods = ["dense", "magnitude"]
sparsities = 0.9
interventions = ["none", "shuffle"]
seeds = 3
measures = ["paths", "cost", "weights"]
margin = 0.01
controls = false

[[claim]]
name = "1"
says = "Shuffling does not hurt"
is = "at-least"
where = { method = "magnitude" }
left = { intervention = "shuffle" }
right = { intervention = "none" }

[[claim]]
name = "2"
says = "Nobody tests this"
kind = "untested"
why = "it is not ours"
"""


def test_a_study_runs_decides_and_runs_nothing_twice(tmp_path: Path) -> None:
    study = Study(**SMALL, seeds=3, interventions=["none", "shuffle"], measures="paths")
    assert study.outlook(tmp_path).done == 0
    told: list[Progress] = []
    findings = study.run(store=tmp_path, engine=InProcess(), tell=told.append)
    assert len(findings.records) == 6
    assert not any(record.failed for record in findings.records)
    assert all(record.measures["paths"]["summary"]["nodes"] > 0 for record in findings.records)  # type: ignore[index, call-overload, operator]
    assert told[-1].fraction == 1.0
    assert study.outlook(tmp_path).done == 6

    class Refusing(InProcess):
        def run(self, function, items, **more):  # type: ignore[no-untyped-def]
            for item in items:
                raise AssertionError(f"{item} was run again")
            return iter(())

    again = study.run(store=tmp_path, engine=Refusing())
    assert again == findings
    assert study.findings(tmp_path) == findings


def test_two_studies_share_the_trials_of_one_store(tmp_path: Path) -> None:
    Study(**SMALL, seeds=2).run(store=tmp_path, engine=InProcess())
    larger = Study(**{**SMALL, "name": "larger", "sparsities": [0.9, 0.5]}, seeds=3)
    assert larger.outlook(tmp_path).done == 2
    assert larger.outlook(tmp_path).trials == 6


def test_the_controls_are_trained_and_the_margin_is_found_on_other_seeds(tmp_path: Path) -> None:
    study = Study(
        **QUICK, methods="magnitude", sparsities=0.98, seeds=3,
        claim=[{k: v for k, v in DENSE_WINS.items() if k != "margin"}],
    )  # fmt: skip
    findings = study.run(store=tmp_path, engine=InProcess())
    by = {(r.trial.method, r.trial.seeds.init): r.accuracy for r in findings.records}
    gap = sum(by["dense", s] - by["random-uniform", s] for s in (1001, 1002)) / 2  # type: ignore[operator]
    [cell] = findings.decisions[0].cells
    assert cell.margin == pytest.approx(max(0.005, 0.1 * gap))
    assert cell.seeds == 3
    small = next(r for r in findings.records if r.trial.method == "small-dense")
    assert small.ticket is None
    assert small.accuracy is not None


def test_seeds_are_added_until_the_claims_are_decided(tmp_path: Path) -> None:
    study = Study(**{**SMALL, "methods": ["dense", "random-uniform"], "sparsities": 0.98}, claim=[DENSE_WINS])
    findings = study.run(store=tmp_path, engine=InProcess(), until_decided=True)
    assert findings.decisions[0].verdict is Verdict.SUPPORTED
    assert findings.decisions[0].cells[0].seeds == 5
    assert len(findings.records) == 10
    with pytest.raises(DisbudError, match="no claim"):
        Study(**SMALL).run(store=tmp_path, until_decided=True)


def test_a_failed_trial_is_shown_and_the_rest_goes_on(tmp_path: Path) -> None:
    study = Study(**{**SMALL, "methods": ["magnitude", "own_methods:not_a_number"]}, seeds=2)
    findings = study.run(store=tmp_path, engine=InProcess())
    failed = [record for record in findings.records if record.failed]
    assert len(failed) == 2
    assert "NaN" in str(failed[0].error)
    assert "Traceback" in str(failed[0].traceback)
    assert study.outlook(tmp_path).failed == 2


def test_the_same_from_a_file_and_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISBUD_STORE", str(tmp_path / "store"))
    file = tmp_path / "mine.toml"
    file.write_text(FILE)
    assert main(["study", "run", str(file), "--dry-run"]) == 0
    assert "9 trials, 0 done before, 0 failed, 9 to run" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()
    assert main(["study", "run", str(file), "--workers", "1", "--pdf", "figures.pdf"]) == 0
    out, err = capsys.readouterr()
    assert "Shuffling does not hurt" in out
    assert "not testable here" in out
    assert str(tmp_path / "from-a-file.html") in err
    page = (tmp_path / "from-a-file.html").read_text()
    assert "Shuffling does not hurt" in page
    assert (tmp_path / "figures.pdf").read_bytes().startswith(b"%PDF")
    assert main(["study", "run", str(file), "--json", "--report", "again.html"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [claim["name"] for claim in document["claims"]] == ["1", "2"]
    assert len(document["trials"]) == 9
    _the_rest(file, tmp_path, capsys)


def test_tickets_get_pages_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.toml"
    file.write_text(FILE)
    common = ["study", "run", str(file), "--store", "store", "--workers", "1"]
    assert main([*common, "--ticket-pages", "tickets"]) == 0
    pages = sorted((tmp_path / "tickets").glob("*.html"))
    assert len(pages) == 2  # magnitude and its shuffle, of the first seed
    report = (tmp_path / "from-a-file.html").read_text()
    assert all(f"tickets/{page.name}" in report for page in pages)
    assert main([*common, "--ticket-pages", str(file)]) == 2
    assert "name a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--engine", "ray", "--workers", "2"], "--workers says nothing to --engine ray"),
        (["--gpus", "0.5"], "--gpus says nothing to the processes of this machine"),
        (["--workers", "0"], "--workers 0: should be at least 1"),
    ],
)
def test_options_of_the_other_engine_are_refused(
    options: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(FILE)
    assert main(["study", "run", str(file), "--store", str(tmp_path / "store"), *options]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def _the_rest(file: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status, report, export and gc on the store that the run left."""
    assert main(["study", "status", "--json"]) == 0
    [line] = json.loads(capsys.readouterr().out)
    assert (line["study"], line["trials"], line["done"], line["failed"]) == ("from-a-file", 9, 9, 0)
    assert main(["study", "status", str(file)]) == 0
    assert "from-a-file" in capsys.readouterr().out
    assert main(["study", "report", str(file), "-o", "only.html", "--details"]) == 0
    assert (folder / "only.html").read_text() == (folder / "from-a-file.html").read_text()
    assert "9" in capsys.readouterr().out
    for name, read in (("rows.csv", pandas.read_csv), ("rows.parquet", pandas.read_parquet)):
        assert main(["study", "export", str(file), "-o", name]) == 0
        frame = read(folder / name)
        assert len(frame) == 9
        assert set(frame["method"]) == {"dense", "magnitude"}
        assert frame["paths.nodes"].notna().all()
        assert sorted(frame["seed"].unique()) == [0, 1, 2]
    assert main(["study", "export", str(file), "-o", "rows.xls"]) == 2
    assert "ends in .xls" in capsys.readouterr().err
    assert main(["study", "gc", "--forget", "from-a-file", "--kind", "trials"]) == 0
    assert "9 trials forgotten" in capsys.readouterr().err
    assert main(["study", "gc", "--forget", "from-a-file"]) == 2
    assert "knows of no study 'from-a-file'" in capsys.readouterr().err
    with Store.open() as store:
        assert store.all() == []


def test_a_python_frame_has_a_row_a_trial(tmp_path: Path) -> None:
    study = Study(**SMALL, seeds=2, interventions=["none", "shuffle"])
    findings = study.run(store=tmp_path, engine=InProcess())
    frame = study.frame({record.trial: record for record in findings.records}).to_pandas()
    assert len(frame) == 4
    assert frame.loc[frame["intervention"] == "shuffle", "accuracy"].notna().all()
    value = frame.loc[(frame["intervention"].isna()) & (frame["seed"] == 1), "accuracy"].item()
    trial = Trial("mlp:hidden=20", "digits", "digits:epochs=2", "magnitude", 0.9).with_seed(1)
    assert value == disbud.study.run(trial).accuracy


def test_an_empty_store_has_nothing_to_export(tmp_path: Path) -> None:
    from disbud.study.exporting import export_frame

    with pytest.raises(DisbudError, match="holds no trial"):
        export_frame(Study(**SMALL), tmp_path / "rows.csv", store=tmp_path / "store")
