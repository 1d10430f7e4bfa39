"""The cache makes each entry once, whole or not at all, whoever asks and whatever happens to the maker."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from disbud.artifacts import cache_folder, canonical, digest, get_or_make
from disbud.errors import DisbudError

KEY = {"what": "squares", "of": [1, 2, 3]}

# A maker in a process of its own: it notes its start outside the cache, writes half, waits, writes the rest.
MAKER = """
import sys, time
from pathlib import Path
from disbud.artifacts import get_or_make
cache, log, wait = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
def make(folder):
    (folder / "half.txt").write_text("half")
    with log.open("a") as file:
        file.write("made\\n")
    time.sleep(wait)
    (folder / "rest.txt").write_text("rest")
folder = get_or_make({"what": "squares", "of": [1, 2, 3]}, make, cache=cache)
print((folder / "rest.txt").read_text())
"""


def maker(cache: Path, log: Path, *, wait: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MAKER, str(cache), str(log), str(wait)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


class Squares:
    """A maker that counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "deep").mkdir()
        (folder / "deep" / "squares.bin").write_bytes(bytes([1, 4, 9]))
        (folder / "note.txt").write_text("squares")


def test_an_entry_is_made_once_and_read_afterwards(tmp_path: Path) -> None:
    make = Squares()
    first = get_or_make(KEY, make, cache=tmp_path)
    again = get_or_make({"of": (1, 2, 3), "what": "squares"}, make, cache=tmp_path)
    assert first == again
    assert make.calls == 1
    assert (first / "deep" / "squares.bin").read_bytes() == bytes([1, 4, 9])
    assert get_or_make({**KEY, "of": [1, 2]}, make, cache=tmp_path) != first
    assert make.calls == 2


def _truncate(entry: Path) -> None:
    os.truncate(entry / "deep" / "squares.bin", 2)


def _flip_a_bit(entry: Path) -> None:
    (entry / "deep" / "squares.bin").write_bytes(bytes([1, 4, 8]))


def _lose_a_file(entry: Path) -> None:
    (entry / "note.txt").unlink()


def _gain_a_file(entry: Path) -> None:
    (entry / "stray.txt").write_text("stray")


def _lose_the_manifest(entry: Path) -> None:
    (entry / "manifest.json").unlink()


def _spoil_the_manifest(entry: Path) -> None:
    (entry / "manifest.json").write_text("[1, 2")


def _replace_the_manifest(entry: Path) -> None:
    (entry / "manifest.json").write_text("[]")


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _flip_a_bit,
        _lose_a_file,
        _gain_a_file,
        _lose_the_manifest,
        _spoil_the_manifest,
        _replace_the_manifest,
    ],
)
def test_a_damaged_entry_is_made_again(tmp_path: Path, damage: object) -> None:
    make = Squares()
    entry = get_or_make(KEY, make, cache=tmp_path)
    assert callable(damage)
    damage(entry)
    assert get_or_make(KEY, make, cache=tmp_path) == entry
    assert make.calls == 2
    assert sorted(path.name for path in entry.iterdir()) == ["deep", "manifest.json", "note.txt"]
    assert (entry / "deep" / "squares.bin").read_bytes() == bytes([1, 4, 9])


def test_no_reader_sees_half_an_entry(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        for number in range(300):
            (folder / str(number)).write_text("x")

    def watch() -> None:
        while not made.is_set():
            if entry.exists():
                seen.append(len(list(entry.iterdir())))

    entry, made, seen = tmp_path / digest(KEY), threading.Event(), list[int]()
    watcher = threading.Thread(target=watch)
    watcher.start()
    get_or_make(KEY, make, cache=tmp_path)
    time.sleep(0.02)
    made.set()
    watcher.join()
    assert set(seen) == {301}


def test_of_processes_that_ask_at_once_one_makes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    processes = [maker(tmp_path / "cache", log, wait=0.5) for _ in range(3)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert outputs == ["rest\n"] * 3
    assert log.read_text() == "made\n"


def test_the_entry_of_a_killed_maker_is_made_again(tmp_path: Path) -> None:
    cache, log = tmp_path / "cache", tmp_path / "log"
    killed = maker(cache, log, wait=600)
    until = time.monotonic() + 60
    while not log.exists() and time.monotonic() < until:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    assert [path.name for path in cache.rglob("half.txt")] == ["half.txt"]  # it did stop in the middle
    assert not (cache / digest(KEY)).exists()
    assert maker(cache, log, wait=0).communicate(timeout=60)[0] == "rest\n"
    assert sorted(path.name for path in cache.iterdir()) == [digest(KEY), f"{digest(KEY)}.lock"]


def test_a_failing_maker_leaves_nothing_and_its_error_passes(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise FileNotFoundError(errno.ENOENT, "no such file", "photos/cat.png")

    with pytest.raises(FileNotFoundError, match="cat"):
        get_or_make(KEY, make, cache=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{digest(KEY)}.lock"]
    with pytest.raises(DisbudError, match="nothing was made"):
        get_or_make(KEY, lambda folder: None, cache=tmp_path)
    assert (get_or_make(KEY, Squares(), cache=tmp_path) / "note.txt").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_full_disk_is_an_error_that_says_so(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "big.bin").symlink_to("/dev/full")
        (folder / "big.bin").write_bytes(b"more than fits")

    with pytest.raises(DisbudError, match=r"disk is full.*DISBUD_CACHE"):
        get_or_make(KEY, make, cache=tmp_path)


def test_a_cache_that_cannot_be_written_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DisbudError, match=r"cannot be written: Not a directory.*DISBUD_CACHE"):
        get_or_make(KEY, Squares(), cache=tmp_path / "file" / "cache")
    with pytest.raises(DisbudError, match="cannot be written: File exists"):
        get_or_make(KEY, Squares(), cache=tmp_path / "file")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a file system that takes no new folder")
def test_a_read_only_file_system_is_an_error_that_says_so() -> None:
    with pytest.raises(DisbudError, match="the cache /proc/disbud cannot be written"):
        get_or_make(KEY, Squares(), cache="/proc/disbud")


def test_a_whole_entry_needs_no_right_to_write(tmp_path: Path) -> None:
    make = Squares()
    entry = get_or_make(KEY, make, cache=tmp_path)
    (tmp_path / f"{digest(KEY)}.lock").unlink()
    assert get_or_make(KEY, make, cache=tmp_path) == entry
    assert [path.name for path in tmp_path.iterdir()] == [entry.name]  # not even the lock was written


def test_the_folder_comes_from_the_call_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISBUD_CACHE", str(tmp_path / "from environment"))
    assert cache_folder() == tmp_path / "from environment"
    assert cache_folder(tmp_path / "given") == tmp_path / "given"
    monkeypatch.delenv("DISBUD_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "disbud"


@pytest.mark.parametrize("bad", [{"x": float("nan")}, {"x": {1, 2}}, {"x": b"bytes"}])
def test_a_key_is_json(bad: dict[str, object]) -> None:
    with pytest.raises(DisbudError, match="no JSON value"):
        canonical(bad)  # type: ignore[arg-type]
