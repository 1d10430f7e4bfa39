"""Tickets on disk: what was saved comes back, and no file, however damaged or hostile, does anything but one error."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save as to_safetensors
from safetensors.torch import save_file
from torch import nn

import disbud
from disbud import Origin, Ticket, TicketError
from disbud.origin import Start

DESCRIPTION = "disbud.ticket"


def ticket_of(density: float = 0.3) -> Ticket:
    g = torch.Generator().manual_seed(3)
    masks = {
        name: torch.rand(shape, generator=g) < density
        for name, shape in {"conv.weight": (5, 3, 3, 3), "b": (7, 11), "scalar": ()}.items()
    }
    origin = Origin(
        "snip", {"rounds": 1, "temperature": 0.5}, 0.7, 5, {"batches": 1}, "ab" * 32, (Origin("x"),)
    )
    return Ticket(masks, origin)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "a.ticket.safetensors"
    ticket_of().save(path)
    return path


def same(a: Ticket, b: Ticket) -> bool:
    return a == b and a.origin == b.origin and a.start == b.start and list(a.masks) == list(b.masks)


def test_what_was_saved_comes_back(saved: Path) -> None:
    assert same(Ticket.load(saved), ticket_of())


@given(st.lists(st.integers(0, 5), min_size=0, max_size=4), st.integers(0, 2**32))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_shape_comes_back(tmp_path: Path, shape: list[int], seed: int) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    Ticket({"w": mask}).save(tmp_path / "t")
    assert torch.equal(Ticket.load(tmp_path / "t").masks["w"], mask)


def test_a_ticket_takes_a_bit_a_weight(tmp_path: Path) -> None:
    ticket = Ticket({f"layer{i}.weight": torch.ones(1000, 1000).bool() for i in range(8)})
    ticket.save(tmp_path / "t")
    assert os.path.getsize(tmp_path / "t") <= 8_000_000 / 8 + 2000


def test_saving_leaves_nothing_half_written(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(TicketError, match=r"a\.ticket\.safetensors.*No space left"):
        ticket_of(0.9).save(saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_a_folder_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(TicketError, match="cannot be written"):
        ticket_of().save(tmp_path / "nowhere" / "t")


def mutated(content: bytes, data: st.DataObject) -> bytes:
    """A damaged copy: bytes flipped, cut, inserted, repeated, the header's length or a word of its JSON changed."""
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "drop", "length", "word", "append"]))
    place = data.draw(st.integers(0, len(content) - 1))
    if kind == "flip":
        return (
            content[:place] + bytes([content[place] ^ data.draw(st.integers(1, 255))]) + content[place + 1 :]
        )
    if kind == "cut":
        return content[:place]
    if kind == "insert":
        return content[:place] + data.draw(st.binary(min_size=1, max_size=9)) + content[place:]
    if kind == "drop":
        return content[:place] + content[place + data.draw(st.integers(1, 40)) :]
    if kind == "length":
        return struct.pack("<Q", data.draw(st.integers(0, 2**64 - 1))) + content[8:]
    if kind == "append":
        return content + data.draw(st.binary(min_size=1, max_size=100))
    words = [b"U8", b"shape", b"[7,11]", b"null", b"snip", b"0.7", b'"', b"{", b"}", b"[", b"1", b":", b"\\"]
    word = data.draw(st.sampled_from([w for w in words if w in content]))
    replacement = data.draw(
        st.sampled_from([*words, b"NaN", b"1e999", b"-1", b"F64", b"99999999999999999999"])
    )
    return content.replace(word, replacement, data.draw(st.integers(1, 3)))


@given(st.data())
@settings(max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mutated_file_is_one_clear_error_or_the_same_ticket(saved: Path, data: st.DataObject) -> None:
    path = saved.parent / "mutated"
    path.write_bytes(mutated(saved.read_bytes(), data))
    try:
        loaded = Ticket.load(path)
    except TicketError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)
    else:
        assert same(loaded, ticket_of())


def forged(path: Path, change: Callable[[dict], object], reword: Callable[[str], str] = str) -> Path:
    """A file that is well-formed and carries the right checksum, but says something else."""
    with safe_open(path, framework="numpy") as file:
        description = json.loads(file.metadata()[DESCRIPTION])
        packed = {name: file.get_tensor(name) for name, _ in description["masks"]}
    change(description)
    text = reword(json.dumps(description, sort_keys=True))
    digest = hashlib.sha256(text.encode())
    for bits in packed.values():
        digest.update(bits.tobytes())
    target = path.parent / "forged"
    target.write_bytes(to_safetensors(packed, {DESCRIPTION: text, "disbud.sha256": digest.hexdigest()}))
    return target


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda d: d.update(format_version=2), "format_version: 2"),
        (lambda d: d.update(format_version="1"), "format_version: should be int"),
        (lambda d: d.update(masks="all"), "masks: should be list"),
        (lambda d: d["masks"][0].append(1), r"masks\[0\]: should be a name and a shape"),
        (lambda d: d["masks"].append(["ghost", [3]]), "masks: the description and the tensors"),
        (lambda d: d["masks"].pop(), "masks: the description and the tensors"),
        (lambda d: d["masks"].append(d["masks"][0]), "comes twice"),
        (lambda d: d["masks"][1][1].append(10**15), r"masks\.b: .* needs .* bytes"),
        (lambda d: d["masks"][1].__setitem__(1, [-7, -11]), "negative size"),
        (lambda d: d["masks"][1].__setitem__(1, [7.0, 11]), r"masks\.b: should be int"),
        (lambda d: d["origin"].update(sparsity=float("inf")), "Infinity"),
        (lambda d: d["origin"].update(sparsity="much"), r"origin\.sparsity: should be a finite number"),
        (lambda d: d["origin"].update(settings={"a": [{"b": float("nan")}]}), "NaN"),
        (lambda d: d["origin"].update(seed=1.5), r"origin\.seed: should be int"),
        (lambda d: d["origin"].update(method=None), r"origin\.method: should be str"),
        (lambda d: d["origin"].pop("version"), "origin: the fields should be"),
        (lambda d: d["origin"]["parents"].append(3), r"origin\.parents\[1\]: should be dict"),
        (lambda d: d.update(start={"file": "../../etc/passwd", "sha256": "0" * 64}), r"start\.file"),
        (lambda d: d.update(start={"file": "/etc/passwd", "sha256": "0" * 64}), r"start\.file"),
        (lambda d: d.update(start={"file": "w", "sha256": "short"}), r"start\.sha256"),
        (lambda d: d.update(extra=1), "unexpected fields"),
        (lambda d: d["origin"].update(method="\ud800"), "cannot be read as JSON"),
    ],
)
def test_a_forged_file_names_the_field(saved: Path, change: object, field: str) -> None:
    with pytest.raises(TicketError, match=field):
        Ticket.load(forged(saved, change))


def test_numbers_that_overflow_to_infinity_are_refused(saved: Path) -> None:
    path = forged(
        saved, lambda d: None, lambda text: text.replace('"temperature": 0.5', '"temperature": 1e999')
    )
    with pytest.raises(TicketError, match=r"origin\.settings: holds the number inf"):
        Ticket.load(path)


def test_deep_nesting_is_one_error(saved: Path) -> None:
    deep: list[object] = []
    for _ in range(900):
        deep = [deep]
    with pytest.raises(TicketError, match="forged"):
        Ticket.load(forged(saved, lambda d: d["origin"].update(parents=deep)))


def test_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(TicketError, match="there is no such file"):
        Ticket.load(tmp_path / "none")
    with pytest.raises(TicketError, match=str(tmp_path)):
        Ticket.load(tmp_path)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(TicketError, match="not a whole safetensors file"):
        Ticket.load(tmp_path / "text")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(TicketError, match="empty"):
        Ticket.load(tmp_path / "empty")
    torch.save(nn.Linear(2, 2), tmp_path / "pickled.pt")
    with pytest.raises(TicketError, match=r"pickled\.pt"):
        Ticket.load(tmp_path / "pickled.pt")
    save_file({"w": torch.ones(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(TicketError, match="not a ticket"):
        Ticket.load(tmp_path / "weights.safetensors")


def test_loading_for_a_model_names_file_and_parameter(tmp_path: Path) -> None:
    disbud.prune(nn.Linear(4, 4), "magnitude", sparsity=0.5).save(tmp_path / "t")
    Ticket.load(tmp_path / "t", model=nn.Linear(4, 4))
    with pytest.raises(TicketError, match=r"/t: .*weight is 5x4 in the model and 4x4"):
        Ticket.load(tmp_path / "t", model=nn.Linear(4, 5))


class TestStart:
    """A ticket that must start from given weights."""

    @pytest.fixture
    def started(self, tmp_path: Path) -> Path:
        source = nn.BatchNorm1d(3)
        with torch.no_grad():
            source.weight.fill_(2.5)
            source.running_mean.fill_(7.0)  # type: ignore[union-attr]
        save_file(source.state_dict(), tmp_path / "trained.safetensors")
        digest = hashlib.sha256((tmp_path / "trained.safetensors").read_bytes()).hexdigest()
        Ticket({"weight": torch.ones(3).bool()}, start=Start("trained.safetensors", digest)).save(
            tmp_path / "t"
        )
        return tmp_path / "t"

    def test_weights_and_buffers_are_loaded(self, started: Path) -> None:
        model = nn.BatchNorm1d(3)
        Ticket.load(started).start_(model)
        assert model.weight.tolist() == [2.5] * 3
        assert model.running_mean.tolist() == [7.0] * 3  # type: ignore[union-attr]

    def test_other_weights_are_refused(self, started: Path) -> None:
        save_file(nn.BatchNorm1d(3).state_dict(), started.parent / "trained.safetensors")
        with pytest.raises(TicketError, match=r"trained\.safetensors: these are not the weights"):
            Ticket.load(started).start_(nn.BatchNorm1d(3))

    def test_missing_weights_are_one_error(self, started: Path) -> None:
        (started.parent / "trained.safetensors").unlink()
        with pytest.raises(TicketError, match="cannot be read"):
            Ticket.load(started).start_(nn.BatchNorm1d(3))

    def test_weights_of_another_model_are_refused(self, started: Path) -> None:
        model = nn.BatchNorm1d(4)
        before = model.weight.clone()
        with pytest.raises(TicketError, match="do not fit the model"):
            Ticket.load(started).start_(model)
        assert torch.equal(model.weight, before)
