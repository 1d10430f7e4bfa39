"""Doing trials: what is stored is not run again, what fails is kept, the order, the measures, what is told."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from PIL import Image

import disbud
from disbud import DisbudError, measures
from disbud.study import (
    Failure,
    InProcess,
    Outcome,
    Pool,
    Progress,
    Record,
    Store,
    Trial,
    datasets,
    expected_seconds,
    perform,
    performing,
)
from disbud.study.expecting import Expectations, longest_first, work
from disbud.study.identity import Pinned
from disbud.study.trial_measures import Subject, TrialMeasure

QUICK = "digits:epochs=1"
LENET = Trial("lenet-300-100", "digits", QUICK, "magnitude", 0.9)
FAILING = dataclasses.replace(LENET, method="own_methods:not_a_number")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", write=True) as opened:
        yield opened


@pytest.fixture
def engine() -> Iterator[InProcess]:
    with InProcess() as opened:
        yield opened


def test_what_is_stored_is_not_run_again(store: Store, engine: InProcess) -> None:
    trials = [LENET, LENET.with_seed(2), LENET]
    first = perform(trials, store=store, engine=engine)
    assert list(first) == trials[:2]
    with mock.patch.object(performing, "run", side_effect=AssertionError("run again")):
        again = perform(trials, store=store, engine=engine, measures=["cost"])
        assert {trial: dataclasses.replace(record, measures={}) for trial, record in again.items()} == first
        assert perform(trials[:1], store=store, engine=engine)[LENET].measures.keys() == {"cost"}
        found = perform([LENET.with_seed(3)], store=store, engine=engine)
    assert found[LENET.with_seed(3)].error == "AssertionError: run again"


def test_one_trial_in_two_spellings_is_run_once(store: Store, engine: InProcess) -> None:
    one = dataclasses.replace(LENET, method="synflow:rounds=3")
    other = dataclasses.replace(LENET, method="synflow:rounds=3", recipe="digits:epochs=1,lr=0.1")
    with mock.patch.object(performing, "run", wraps=performing.run) as ran:
        found = perform([one, other], store=store, engine=engine)
    assert ran.call_count == 1
    assert list(found) == [one, other]
    assert found[one].identity == found[other].identity


def test_a_store_that_is_only_read_is_an_error_before_anything_runs(
    engine: InProcess, tmp_path: Path
) -> None:
    with (
        Store.open(tmp_path) as reader,
        mock.patch.object(performing, "run", side_effect=AssertionError("run")),
        pytest.raises(DisbudError, match="opened to be read"),
    ):
        perform([LENET], store=reader, engine=engine)


def test_another_content_of_the_data_is_another_trial(
    store: Store, engine: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "own_data.py"
    module.write_text(
        "import disbud, torch\nSHIFT = 0\n"
        "def data():\n"
        "    digits = disbud.data.load('digits')\n"
        "    return digits.train.images[:200] + SHIFT, digits.train.labels[:200]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    trial = dataclasses.replace(LENET, data="own_data:data")
    before = perform([trial], store=store, engine=engine)[trial]
    monkeypatch.setattr(sys.modules["own_data"], "SHIFT", 1)
    after = perform([trial], store=store, engine=engine)[trial]
    assert before.identity != after.identity
    assert len(store.all()) == 2


EDITED = "import own_methods\ndef score(model, batches):\n    return own_methods.largest(model, batches)\n"


def own_score(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Trial]:
    """A method in a file of its own, and a trial of it."""
    module = folder / f"{name}.py"
    module.write_text(EDITED)
    monkeypatch.syspath_prepend(folder)
    return module, dataclasses.replace(LENET, method=f"{name}:score")


def test_a_file_edited_while_its_trials_run_is_another_ones(
    store: Store, engine: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, trial = own_score(tmp_path, "edited_under_way", monkeypatch)
    trials = [trial.with_seed(seed) for seed in range(3)]

    def edit(progress: Progress) -> None:
        if progress.latest is not None:
            module.write_text(EDITED + "# edited\n")

    found = perform(trials, store=store, engine=engine, measures=["cost"], tell=edit)
    assert list(found) == trials
    assert [list(record.measures) for record in found.values()] == [["cost"]] * 3
    assert perform(trials, store=store, engine=engine, measures=["cost"]) == found  # it was not loaded anew
    importlib.reload(sys.modules["edited_under_way"])
    assert store.records(trials) == {}


@pytest.mark.slow
def test_a_worker_that_loads_another_source_says_so(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, trial = own_score(tmp_path, "edited_before", monkeypatch)
    module.write_text(EDITED + "# edited\n")
    with Pool(1) as workers:
        found = perform([trial], store=store, engine=workers)[trial]
    assert found.error is not None
    assert "the file of edited_before:score is not here what it was when this run began" in found.error
    importlib.reload(sys.modules["edited_before"])
    with Pool(1) as workers:
        assert not perform([trial], store=store, engine=workers)[trial].failed


def test_what_runs_on_other_data_than_was_asked_for_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shifted_data.py").write_text(
        "import disbud, torch\nSHIFT = 0\n"
        "def data():\n"
        "    digits = disbud.data.load('digits')\n"
        "    return digits.train.images[:200] + SHIFT, digits.train.labels[:200]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    trial = dataclasses.replace(LENET, data="shifted_data:data")
    before = Pinned.of(trial)
    before.check()
    monkeypatch.setattr(sys.modules["shifted_data"], "SHIFT", 1)
    after = Pinned.of(trial, data=disbud.data.load(trial.data).fingerprint)
    assert datasets.loaded(trial.data, 0).fingerprint == before.data  # a worker that is warm
    after.check()
    assert datasets.loaded(trial.data, 0).fingerprint == after.data
    with pytest.raises(DisbudError, match="shifted_data:data is not here what it was when this run began"):
        before.check()


def test_files_are_read_again_only_where_they_changed(
    store: Store, engine: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISBUD_CACHE", str(tmp_path / "cache"))
    for number in range(24):
        image = tmp_path / "images" / f"class{number % 2}" / f"{number}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number).save(image)
    data = f"folder:{tmp_path / 'images'},size=8,channels=1"
    trials = [dataclasses.replace(LENET, data=data).with_seed(seed) for seed in range(2)]
    before = perform(trials, store=store, engine=engine)
    with mock.patch.object(datasets, "load", wraps=datasets.load) as read:
        assert perform(trials, store=store, engine=engine) == before
        assert read.call_count == 0
        Image.new("L", (8, 8), 99).save(image)
        after = perform(trials, store=store, engine=engine)
        assert read.call_count == 2
    assert not {one.identity for one in before.values()} & {other.identity for other in after.values()}


def test_what_fails_is_kept_and_the_rest_goes_on(store: Store, engine: InProcess) -> None:
    found = perform([FAILING, LENET], store=store, engine=engine, measures=["cost"])
    failed = found[FAILING]
    assert failed.failed
    assert failed.error is not None
    assert "NaN or infinite" in failed.error
    assert failed.traceback is not None
    assert "own_ticket" in failed.traceback
    assert failed.measures == {}
    assert not found[LENET].failed
    with mock.patch.object(performing, "run", side_effect=AssertionError("run again")):
        assert perform([FAILING, LENET], store=store, engine=engine) == found
    with mock.patch.object(performing, "run", return_value=Outcome(0.5, 1.0, ())) as ran:
        again = perform([FAILING, LENET], store=store, engine=engine, retry_failed=True)
    ran.assert_called_once_with(FAILING)
    assert again[FAILING].accuracy == 0.5
    assert not again[FAILING].failed


def test_data_that_cannot_be_had_are_an_error_before_anything_runs(store: Store, engine: InProcess) -> None:
    nowhere = dataclasses.replace(LENET, data="folder:/nowhere")
    with pytest.raises(DisbudError, match="/nowhere"):
        perform([LENET, nowhere], store=store, engine=engine)
    assert store.all() == []


def test_what_is_told(store: Store, engine: InProcess) -> None:
    told: list[Progress] = []
    perform([LENET, FAILING], store=store, engine=engine, measures=["cost"], tell=told.append)
    ends = [(each.what, each.done, each.failed, each.total) for each in told if each.latest]
    assert sorted(ends[:2]) in (
        [("trials", 0, 1, 2), ("trials", 1, 1, 2)],
        [("trials", 1, 0, 2), ("trials", 1, 1, 2)],
    )
    assert ends[2:] == [("measures", 1, 0, 1)]
    under_way = [each for each in told if each.running]
    assert {trial for each in under_way for trial, _ in each.running} == {LENET, FAILING}
    assert told[0].left is None  # nothing was ever run
    more: list[Progress] = []
    perform([LENET.with_seed(5), LENET.with_seed(6)], store=store, engine=engine, tell=more.append)
    assert more[0].left is not None
    assert more[0].left == pytest.approx(2 * store.records([LENET])[LENET].seconds)


def test_an_error_of_who_is_told_stops_it_and_loses_nothing(store: Store, engine: InProcess) -> None:
    def stop(progress: Progress) -> None:
        if progress.latest is not None:
            raise RuntimeError("enough")

    trials = [LENET.with_seed(seed) for seed in range(4)]
    with pytest.raises(RuntimeError, match="enough"):
        perform(trials, store=store, engine=engine, tell=stop)
    assert len(store.all()) == 1
    assert len(perform(trials, store=store, engine=engine)) == 4


# Measures


def counted(subject: Subject) -> measures.Table:
    """What a measure gets to see, in numbers."""
    trained = (
        0.0 if subject.trained is None else sum(float(t.double().sum()) for t in subject.trained.values())
    )
    return measures.Table.of(
        [
            {
                "start": sum(float(p.double().sum()) for p in subject.model.state_dict().values()),
                "trained": trained,
            }
        ],
        {"kept": None if subject.ticket is None else subject.ticket.kept, "data": subject.dataset.name},
    )


def fails(subject: Subject) -> measures.Table:
    raise ValueError("no numbers")


COUNTED = TrialMeasure("counted", "sums", counted)


@pytest.mark.parametrize(
    "trial",
    [
        LENET,
        dataclasses.replace(LENET, intervention="shuffle"),
        dataclasses.replace(LENET, intervention="reinit"),
        dataclasses.replace(LENET, intervention="permute-values", method="lottery-ticket:rounds=2"),
        dataclasses.replace(LENET, method="lottery-ticket:rounds=1,rewind=0.5"),
        Trial("lenet-300-100", "digits", QUICK),
        dataclasses.replace(LENET, method="small-dense"),
    ],
    ids=lambda trial: f"{trial.method} {trial.intervention}",
)
def test_a_measure_sees_the_network_as_training_found_and_left_it(
    trial: Trial, store: Store, engine: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISBUD_CACHE", str(tmp_path / "cache"))
    from disbud.study import running

    began: list[float] = []

    def watched(model: object, dataset: object, **more: object) -> object:
        ticket = more["ticket"]
        if ticket is not None:
            ticket.start_(model)  # type: ignore[attr-defined]
        began.append(sum(float(p.double().sum()) for p in model.state_dict().values()))  # type: ignore[attr-defined]
        return disbud.train(model, dataset, **more)  # type: ignore[arg-type]

    with mock.patch.object(running, "train", watched):
        record = perform([trial], store=store, engine=engine)[trial]
    with mock.patch.object(performing, "run", side_effect=AssertionError("trained again")):
        table = perform([trial], store=store, engine=engine, measures=[COUNTED])[trial].measures["counted"]
    weights, ticket = store.weights(record), store.ticket(record)
    assert weights is not None
    ((start, trained),) = table["rows"]  # type: ignore[misc, union-attr]
    assert start == began[0]
    assert trained == sum(float(t.double().sum()) for t in weights.values())
    assert table["summary"] == {"kept": None if ticket is None else ticket.kept, "data": "digits"}


def test_a_new_revision_is_measured_anew_and_failures_are_kept(store: Store, engine: InProcess) -> None:
    def measured(measure: TrialMeasure, **more: bool) -> Record:
        return perform([LENET], store=store, engine=engine, measures=[measure], **more)[LENET]  # type: ignore[arg-type]

    record = measured(COUNTED)
    with mock.patch.object(performing, "take", side_effect=AssertionError("taken again")):
        assert measured(COUNTED).measures == record.measures
    measured(dataclasses.replace(COUNTED, revision=2))
    measured(TrialMeasure("fails", "nothing", fails))
    assert store.measured([record]) == {
        (record.identity, "counted", 1): None,
        (record.identity, "counted", 2): None,
        (record.identity, "fails", 1): "ValueError: no numbers",
    }
    failed = measured(TrialMeasure("fails", "nothing", counted))
    assert failed.measures.keys() == {"counted"}
    assert failed.measure_errors == {"fails": "ValueError: no numbers"}
    assert measured(TrialMeasure("fails", "nothing", counted), retry_failed=True).measures.keys() == {
        "counted",
        "fails",
    }
    with pytest.raises(DisbudError, match="did you mean 'cost'"):
        perform([LENET], store=store, engine=engine, measures=["costs"])


@pytest.mark.slow
def test_measures_of_every_kind_go_through_workers(store: Store) -> None:
    trials = [
        LENET,
        dataclasses.replace(LENET, intervention="shuffle"),
        dataclasses.replace(LENET, method="snip"),
    ]
    with Pool(2) as engine:
        there = perform(trials, store=store, engine=engine, measures=["paths", "cost", "weights"])
    with Store.open(store.folder.parent / "other", write=True) as other, InProcess() as engine:
        here = perform(trials, store=other, engine=engine, measures=["paths", "cost", "weights"])
    assert here == there
    assert all(len(record.measures) == 3 for record in here.values())


# Order


def test_long_trials_begin_first() -> None:
    short, long = LENET, dataclasses.replace(LENET, recipe="digits:epochs=9")
    wide = dataclasses.replace(LENET, model="lenet-300-100:width=4")
    assert longest_first([short, long, wide], Expectations([])) == sorted(
        [short, long, wide], key=work, reverse=True
    )
    assert longest_first([short, long, wide], Expectations([]))[-1] == short
    slow = Record(short, "1", accuracy=0.5, seconds=99.0, memory=7)
    known = Expectations(
        [slow, dataclasses.replace(slow, seconds=101.0), Record(long, "2", error="died", seconds=1e6)]
    )
    assert (
        known.of(short.with_seed(8)).seconds == 101.0
    )  # the longest: who hangs is told from who trains more
    assert known.of(short).memory == 7
    assert known.of(long).seconds is None
    assert longest_first([short, long], known) == [long, short]  # by its work, at the rate of the other
    assert known.seconds([short, short.with_seed(1)]) == 200.0
    known.learn(dataclasses.replace(slow, seconds=40.0))
    assert known.seconds([short]) == 99.0
    assert known.seconds([]) == 0.0
    assert Expectations([]).seconds([short]) is None


def test_what_others_wait_for_begins_first_and_equals_go_by_their_split() -> None:
    lottery = dataclasses.replace(LENET, method="lottery-ticket:rounds=2")
    trials = [
        dataclasses.replace(lottery, intervention="shuffle"), LENET.with_seed(1), LENET, LENET.with_seed(1), lottery,
        lottery.with_seed(1),
    ]  # fmt: skip
    ordered = longest_first(trials, Expectations([]))
    assert set(ordered[:2]) == {trials[0], trials[5]}
    assert ordered[2] == lottery
    assert [trial.seeds.split for trial in ordered[3:]] == [0, 1, 1]


def test_what_is_to_be_expected_of_a_store(store: Store) -> None:
    assert expected_seconds([LENET], store) is None
    store.add(LENET, Outcome(0.5, 1.0, (), seconds=2.0))
    store.add(FAILING, Failure("no"))
    assert expected_seconds([LENET.with_seed(1), LENET.with_seed(2)], store) == 4.0
    assert expected_seconds([dataclasses.replace(LENET, recipe="digits:epochs=2")], store) == pytest.approx(
        4.0, rel=0.1
    )
