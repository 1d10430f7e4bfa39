"""The store: what comes back from it bit for bit, what is wanted of it, where it lies, and who may write it."""

from __future__ import annotations

import dataclasses
import importlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import disbud
from disbud import DisbudError, Ticket
from disbud.measures import Table
from disbud.study import Failure, Outcome, Record, Store, mixed, store_folder
from disbud.study.store import folder as folders
from disbud.study.store import schema
from disbud.study.store import weights as stored_weights
from disbud.study.store.objects import settled
from disbud.study.trial_measures import TRIAL_MEASURES
from disbud.ticket_file import encoded, start_of
from stored_trials import DENSE, LENET, dense_outcome, filled_store, lenet_outcome  # noqa: F401 - fixtures


def same(one: object, other: object) -> bool:
    assert isinstance(one, dict)
    assert isinstance(other, dict)
    return one.keys() == other.keys() and all(
        tensor.dtype == other[name].dtype and torch.equal(tensor, other[name]) for name, tensor in one.items()
    )


# What comes back


def test_a_trial_comes_back_as_it_was(tmp_path: Path, outcome: Outcome) -> None:
    with Store.open(tmp_path, write=True) as store:
        added = store.add(LENET, outcome, environment={"torch": "2.6.0"}, attempts=2)
    with Store.open(tmp_path) as store:
        (record,) = store.records([LENET, DENSE]).values()
        assert record == added == store.records()[LENET]
        assert (record.seconds, record.memory, record.attempts) == (outcome.seconds, outcome.memory, 2)
        assert (record.trial, record.environment, record.failed) == (LENET, {"torch": "2.6.0"}, False)
        assert store.outcome(record) == outcome
        ticket = store.ticket(record)
        assert ticket == outcome.ticket
        assert ticket is not None
        assert outcome.ticket is not None
        assert ticket.origin == outcome.ticket.origin
        assert same(store.weights(record), outcome.weights)


def test_failures_and_divergence_come_back(tmp_path: Path) -> None:
    wild = Outcome(
        0.1,
        float("inf"),
        ({"epoch": 1, "train_loss": 1.0, "test_loss": None, "test_accuracy": 0.1},),
        diverged="so",
    )
    with Store.open(tmp_path, write=True) as store:
        store.add(LENET, Failure("ValueError: no roots", "Traceback ..."), attempts=3)
        store.add(DENSE, wild)
        records = store.records()
        assert store.records([LENET])[LENET].failed
        assert (records[LENET].error, records[LENET].traceback) == ("ValueError: no roots", "Traceback ...")
        assert (records[LENET].accuracy, records[LENET].attempts) == (None, 3)
        with pytest.raises(DisbudError, match="failed: ValueError: no roots"):
            store.outcome(records[LENET])
        assert records[DENSE].loss == float("inf")
        assert store.outcome(records[DENSE]) == wild
        assert store.weights(records[DENSE]) is None
        store.add(LENET, wild)  # it worked when it was run again
        assert not store.records([LENET])[LENET].failed


def test_a_ticket_brings_the_weights_it_starts_from(tmp_path: Path, outcome: Outcome) -> None:
    model = disbud.models.build("lenet-300-100", input_shape=(1, 8, 8), seed=5)
    assert outcome.ticket is not None
    ticket = dataclasses.replace(outcome.ticket, start=start_of(model.state_dict()))
    with Store.open(tmp_path, write=True) as store:
        record = store.add(LENET, dataclasses.replace(outcome, ticket=ticket))
        assert store.gc().files == 0
        back = store.ticket(record)
    assert back is not None
    other = disbud.models.build("lenet-300-100", input_shape=(1, 8, 8), seed=6)
    back.start_(other)
    assert same(dict(other.state_dict()), dict(model.state_dict()))


def test_equal_results_are_one_file(tmp_path: Path, outcome: Outcome) -> None:
    assert outcome.ticket is not None
    assert len({encoded(outcome.ticket) for _ in range(64)}) > 1  # safetensors writes metadata in any order
    assert len({settled(encoded(outcome.ticket)) for _ in range(64)}) == 1
    with Store.open(tmp_path, write=True) as store:
        one, other = store.add(LENET, outcome), store.add(LENET.with_seed(2), outcome)
    assert (one.ticket, one.weights) == (other.ticket, other.weights)
    assert len(list((tmp_path / "objects").glob("*/*"))) == 2
    assert Ticket.load(next((tmp_path / "objects").glob(f"*/{one.ticket}.safetensors"))) == outcome.ticket


def test_weights_take_no_more_room_than_what_is_kept(outcome: Outcome) -> None:
    assert outcome.weights is not None
    assert outcome.ticket is not None
    content = stored_weights.encoded(outcome.weights, outcome.ticket)
    kept = outcome.ticket.kept + sum(
        t.numel() for name, t in outcome.weights.items() if name.endswith("bias")
    )
    assert 4 * kept < len(content) < 4 * kept + 1024


def test_odd_weights_come_back_bit_for_bit() -> None:
    mask = torch.tensor([[True, False], [False, True]])
    ticket = Ticket({"a": mask, "b": mask, "gone": mask})
    shared = torch.tensor([[float("nan"), 0.0], [0.0, -0.0]])
    weights = {
        "a": shared, "b": torch.tensor([[1.0, -0.0], [0.0, 2.0]]), "tied": shared,
        "half": torch.ones(2, dtype=torch.bfloat16), "count": torch.tensor(7), "none": torch.zeros(0, 3),
    }  # fmt: skip
    back = stored_weights.decoded(stored_weights.encoded(weights, ticket), ticket)
    assert back.keys() == weights.keys()
    for name, tensor in weights.items():
        assert back[name].dtype == tensor.dtype
        assert back[name].shape == tensor.shape
        assert (
            back[name].contiguous().view(-1).view(torch.uint8).tolist()
            == tensor.view(-1).view(torch.uint8).tolist()
        )


def test_measures_are_records_of_their_own(filled: Path) -> None:
    with Store.open(filled, write=True) as store:
        record = store.records([LENET])[LENET]
        store.add_measure(record, "cost", revision=1, result=Table(("a",), [(1,)]))
        store.add_measure(record, "cost", revision=2, result=Table(("a",), [(2,)], {"of": float("inf")}))
        store.add_measure(record, "paths", revision=1, result=Failure("ValueError: no paths"))
        assert store.measured([record]) == {
            (record.identity, "cost", 1): None,
            (record.identity, "cost", 2): None,
            (record.identity, "paths", 1): "ValueError: no paths",
        }
        read = store.records([LENET])[LENET]
    assert read.measures == {"cost": {"columns": ["a"], "rows": [[2]], "summary": {"of": None}}}


def test_what_a_measure_found_before_does_not_stand_for_what_it_finds_now(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(filled, write=True) as store:
        record = store.records([LENET])[LENET]
        for name in ("cost", "paths"):
            store.add_measure(record, name, revision=1, result=Table(("a",), [(1,)]))
        store.add_measure(record, "cost", revision=2, result=Failure("ValueError: no roots"))
        read = store.records([LENET])[LENET]
        assert read.measures.keys() == {"paths"}
        assert read.measure_errors == {"cost": "ValueError: no roots"}
        known = dataclasses.replace(TRIAL_MEASURES["paths"], revision=2)
        monkeypatch.setitem(TRIAL_MEASURES, "paths", known)
        read = store.records([LENET])[LENET]
        assert read.measures == {}
        assert "taken by revision 1 of paths, which is at 2 now" in read.measure_errors["paths"]
        store.add_measure(record, "paths", revision=2, result=Table(("a",), [(3,)]))
        assert store.records([LENET])[LENET].measures["paths"]["rows"] == [[3]]


def test_the_same_trial_written_otherwise_is_the_same_record(tmp_path: Path, outcome: Outcome) -> None:
    one = dataclasses.replace(LENET, method="grasp")
    other = dataclasses.replace(LENET, method="grasp:temperature=200.0")
    with Store.open(tmp_path, write=True) as store:
        store.add(one, outcome)
        assert store.records([other])[other].trial == other
        assert store.records([dataclasses.replace(LENET, method="grasp:temperature=100.0")]) == {}


def test_records_can_be_read_without_the_functions_of_ones_own(
    tmp_path: Path, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "gone_tomorrow.py"
    module.write_text("import own_methods\nlargest = own_methods.largest\n")
    monkeypatch.syspath_prepend(tmp_path)
    trial = dataclasses.replace(LENET, method="gone_tomorrow:largest")
    with Store.open(tmp_path / "store", write=True) as store:
        store.add(trial, outcome)
    module.unlink()
    monkeypatch.delitem(sys.modules, "gone_tomorrow")
    with Store.open(tmp_path / "store") as store:
        (record,) = store.all()
    assert record.trial == trial
    with pytest.raises(DisbudError, match="names no function"):
        dataclasses.replace(trial)


def test_another_source_of_a_function_is_another_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from disbud.study import identity_of

    module = tmp_path / "edited_later.py"
    module.write_text(
        "import own_methods\ndef mine(model, batches):\n    return own_methods.largest(model, batches)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    trial = dataclasses.replace(LENET, method="edited_later:mine")
    before = identity_of(trial)
    assert identity_of(trial) == before
    with module.open("a") as file:
        file.write("\n# edited\n")
    assert identity_of(trial) == before  # what would run is still what was loaded
    importlib.reload(sys.modules["edited_later"])
    assert identity_of(trial) != before
    assert identity_of(dataclasses.replace(trial)) != before


def test_a_function_that_was_typed_in_is_refused() -> None:
    script = (
        "from disbud import DisbudError\n"
        "from disbud.study import Trial\n"
        "def mine(model, batches): ...\n"
        "try:\n"
        "    Trial('lenet-300-100', 'digits', 'digits', '__main__:mine', 0.9)\n"
        "except DisbudError as error:\n"
        "    print(error)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "__main__:mine stands in no file; write it into a module" in ended.stdout


def test_a_result_is_kept_under_the_identity_that_it_was_run_as(tmp_path: Path, outcome: Outcome) -> None:
    with Store.open(tmp_path, write=True) as store:
        added = store.add(LENET, outcome, identity="6e1f")
        assert added.identity == "6e1f"
        assert store.records([LENET]) == {}
        assert store.records({LENET: "6e1f", DENSE: "6e20"}) == {LENET: added}


def test_a_failure_has_no_environment(tmp_path: Path, outcome: Outcome) -> None:
    with Store.open(tmp_path, write=True) as store:
        store.add(LENET, outcome, environment={"threads": 1})
        store.add(DENSE, Failure("killed"))
        records = store.records()
    assert records[DENSE].environment == {}
    assert mixed(records.values()) == {}


def test_mixed_environments_can_be_asked_for() -> None:
    here = {"torch": "2.13", "cpu": "AVX2", "host": "a"}
    records = [Record(LENET, "1", environment=here), Record(DENSE, "2", environment=here | {"cpu": "AVX512"})]
    assert mixed(records) == {"cpu": ("AVX2", "AVX512")}
    assert mixed([*records[:1], Record(LENET, "3", environment=here | {"host": "b"})]) == {}


# What is wanted


def test_what_no_study_asks_for_can_be_forgotten_and_its_files_freed(filled: Path) -> None:
    with Store.open(filled, write=True) as store:
        store.note_study("mine", "name = 'mine'", [LENET])
        store.note_study("mine", "name = 'mine'", [LENET.with_seed(2)])  # more seeds of the same
        assert len(store.studies()["mine"].trials) == 2
        assert [record.trial for record in store.unwanted()] == [DENSE]
        (filled / "objects" / "ab").mkdir(exist_ok=True)
        (filled / "objects" / "ab" / ".half.part").write_bytes(b"12345")
        assert store.gc().bytes == 5  # left by a crash
        store.forget(store.unwanted())
        freed = store.gc()
        assert (freed.files, freed.bytes > 100_000) == (1, True)
        (record,) = store.all()
        assert store.weights(record) is not None
        store.note_study(
            "mine", "name = 'mine'\nseeds = 9", [DENSE]
        )  # the file was edited: what it no longer asks for
        assert [record.trial for record in store.unwanted()] == [LENET]
        store.forget_study("mine")
        assert store.studies() == {}


def test_a_trial_can_be_forgotten_by_the_beginning_of_its_identity(filled: Path) -> None:
    with Store.open(filled, write=True) as store:
        first, second = (record.identity for record in store.all())
        assert store.identity(first[:16]) == first
        with pytest.raises(DisbudError, match="no trial of the store has an identity that begins with 'x'"):
            store.identity("x")
        with pytest.raises(DisbudError, match="2 identities begin with ''"):
            store.identity("")
        store.forget([store.identity(first[:16])])
        assert [record.identity for record in store.all()] == [second]


# Where it lies


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("DISBUD_STORE", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert store_folder() == Path("/home/me/.local/share/disbud/store")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert store_folder() == Path("/data/disbud/store")
    monkeypatch.setenv("DISBUD_STORE", "~/mine")
    assert store_folder() == Path("/home/me/mine")
    assert store_folder("/else") == Path("/else")


def test_a_network_file_system_gets_a_rollback_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"server:/x {tmp_path}/far nfs4 rw 0 0\n/dev/vda / ext4 rw 0 0\nme@host: {tmp_path}/a\\040b fuse.sshfs rw 0 0\n"
    )
    assert folders.is_on_a_network(tmp_path / "far" / "store", mounts)
    assert folders.is_on_a_network(tmp_path / "a b", mounts)
    assert not folders.is_on_a_network(tmp_path / "farther", mounts)
    for network, mode in ((False, "wal"), (True, "delete")):
        monkeypatch.setattr(schema, "is_on_a_network", lambda _, network=network: network)
        with Store.open(tmp_path / mode, write=True) as store:
            assert store._connection.execute("PRAGMA journal_mode").fetchone()[0] == mode
            assert store._connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL


def test_where_nothing_was_stored_there_is_nothing_to_read(tmp_path: Path) -> None:
    with Store.open(tmp_path / "nowhere") as store:
        assert store.records([LENET]) == {}
        assert store.studies() == {}
        with pytest.raises(
            DisbudError, match=r"opened to be read; open it with Store.open\(folder, write=True\)"
        ):
            store.forget([])
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(DisbudError, match="used within its context"):
        store.all()


def test_one_driver_at_a_time_and_readers_any_time(tmp_path: Path, outcome: Outcome) -> None:
    with Store.open(tmp_path, write=True) as store:
        with pytest.raises(
            DisbudError, match=rf"being written by process {os.getpid()} on {platform.node()} since 2"
        ):
            Store.open(tmp_path, write=True).__enter__()
        store.add(LENET, outcome)
        with Store.open(tmp_path) as reader:
            assert list(reader.records()) == [LENET]
            store.add(DENSE, Failure("no"))
            assert set(reader.records()) == {LENET, DENSE}
    with Store.open(tmp_path, write=True) as store:
        assert len(store.all()) == 2
