"""Hub data sets: local Parquet files of the hub's schemas, and the real client against a local hub."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from disbud.data import Dataset, load
from disbud.errors import DisbudError

datasets = pytest.importorskip("datasets", reason="the extra hub is not installed")
parquet = pytest.importorskip("pyarrow.parquet")
pyarrow = pytest.importorskip("pyarrow")

torch.set_num_threads(1)

Rows = Sequence[Mapping[str, object]]


def pixels(seed: int, size: int = 32, channels: int = 3) -> np.ndarray:
    shape = (size, size, 3) if channels == 3 else (size, size)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(seed: int, size: int = 32, channels: int = 3) -> dict[str, object]:
    content = io.BytesIO()
    Image.fromarray(pixels(seed, size, channels)).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": f"{seed}.png"}


def write(path: Path, rows: Rows, *, features: object = None) -> None:
    """A Parquet file as the hub has it: with `features`, its schema says what each column means."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(list(rows))
    if features is not None:
        table = table.cast(features.arrow_schema)  # type: ignore[attr-defined]
    parquet.write_table(table, path)


def cifar10(root: Path, *, train: int = 20, test: int = 10) -> None:
    names = [f"thing {label}" for label in range(10)]
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    for split, count, start in (("train", train, 0), ("test", test, 1000)):
        rows = [{"img": png(start + at), "label": at % 10} for at in range(count)]
        half = count // 2
        for part, chunk in enumerate((rows[:half], rows[half:])):
            write(root / "plain_text" / f"{split}-0000{part}-of-00002.parquet", chunk, features=features)


def check_cifar10(dataset: Dataset) -> None:
    assert dataset.class_names == tuple(f"thing {label}" for label in range(10))
    assert dataset.train.labels.tolist() == [at % 10 for at in range(20)]
    for split, start in ((dataset.train, 0), (dataset.test, 1000)):
        for at, image in enumerate(split.images):
            assert np.array_equal(image.numpy(), pixels(start + at).transpose(2, 0, 1))


# local Parquet files


def test_cifar10_from_its_parquet_files(tmp_path: Path) -> None:
    cifar10(tmp_path / "cifar10")
    dataset = load(f"cifar10:source={tmp_path / 'cifar10'}", cache=tmp_path / "cache")
    check_cifar10(dataset)
    assert load(f"hf:{tmp_path / 'cifar10'}", cache=tmp_path / "cache").fingerprint == dataset.fingerprint
    assert not list((tmp_path / "cache").rglob("*.arrow"))  # nothing of the reading stays behind


def test_cifar100_is_read_by_its_fine_labels(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "img": datasets.Image(),
            "fine_label": datasets.ClassLabel(names=[f"fine {label}" for label in range(4)]),
            "coarse_label": datasets.ClassLabel(names=["a", "b"]),
        }
    )
    for split in ("train", "test"):
        rows = [{"img": png(at), "fine_label": at % 4, "coarse_label": at % 2} for at in range(8)]
        write(tmp_path / "c" / f"{split}-00000-of-00001.parquet", rows, features=features)
    dataset = load(f"cifar100:source={tmp_path / 'c'}", cache=tmp_path / "cache")
    assert dataset.class_names == ("fine 0", "fine 1", "fine 2", "fine 3")
    assert dataset.train.labels.tolist() == [0, 1, 2, 3] * 2
    with pytest.raises(
        DisbudError, match=r"could be \['fine_label', 'coarse_label'\]; set label= to one of img, fine"
    ):
        load(f"hf:{tmp_path / 'c'}", cache=tmp_path / "cache")
    coarse = load(f"hf:{tmp_path / 'c'},label=coarse_label", cache=tmp_path / "cache")
    assert coarse.class_names == ("a", "b")


def test_mnist_is_grey_and_tiny_imagenet_has_its_test_images_in_valid(tmp_path: Path) -> None:
    for split in ("train", "test"):
        rows = [{"image": png(at, 28, 1), "label": at % 10} for at in range(10)]
        write(tmp_path / "mnist" / "mnist" / f"{split}-00000-of-00001.parquet", rows)
    for name in ("mnist", "fashion-mnist"):
        dataset = load(f"{name}:source={tmp_path / 'mnist'}", cache=tmp_path / "cache")
        assert dataset.input_shape == (1, 28, 28)
        assert np.array_equal(dataset.train.images[3, 0].numpy(), pixels(3, 28, 1))
        assert dataset.class_names == tuple("0123456789")  # the schema names none
    for split in ("train", "valid"):
        rows = [{"image": png(at, 64, 1 + 2 * (at % 2)), "label": at % 2} for at in range(4)]
        write(tmp_path / "tiny" / "data" / f"{split}-00000-of-00001.parquet", rows)
    dataset = load(f"tiny-imagenet:source={tmp_path / 'tiny'}", cache=tmp_path / "cache")
    assert dataset.input_shape == (3, 64, 64)
    assert np.array_equal(dataset.test.images[0, 1].numpy(), pixels(0, 64, 1))  # grey among colour


def test_words_as_labels_other_columns_and_a_drawn_test_set(tmp_path: Path) -> None:
    words = ["owl", "bat", "ant"]
    rows = [{"photo": png(at, 10), "kind": words[at % 3], "id": at} for at in range(30)]
    write(tmp_path / "zoo" / "train.parquet", rows)
    spec = f"hf:{tmp_path / 'zoo'},image=photo,label=kind,test=null"
    dataset = load(spec, cache=tmp_path / "cache")
    assert dataset.class_names == ("ant", "bat", "owl")
    assert torch.bincount(dataset.test.labels).tolist() == [2, 2, 2]
    for image, label in zip(dataset.test.images, dataset.test.labels.tolist(), strict=True):
        [at] = [at for at in range(30) if np.array_equal(pixels(at, 10).transpose(2, 0, 1), image.numpy())]
        assert words[at % 3] == dataset.class_names[label]
    assert load(spec, seed=1, cache=tmp_path / "cache").fingerprint != dataset.fingerprint
    with pytest.raises(DisbudError, match="image column could be none; set image= to one of photo, kind, id"):
        load(f"hf:{tmp_path / 'zoo'},test=null", cache=tmp_path / "cache")
    with pytest.raises(DisbudError, match="there is no column 'foto'"):
        load(f"hf:{tmp_path / 'zoo'},image=foto,test=null", cache=tmp_path / "cache")
    with pytest.raises(DisbudError, match=r"no file named test-\*\.parquet"):
        load(f"hf:{tmp_path / 'zoo'}", cache=tmp_path / "cache")


def test_files_are_read_once_and_again_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cifar10(tmp_path / "here")
    cache = tmp_path / "cache"
    first = load(f"hf:{tmp_path / 'here'}", cache=cache)
    (tmp_path / "here").rename(tmp_path / "there")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "datasets", None)  # any use of it would be an ImportError
        assert load(f"hf:{tmp_path / 'there'}", cache=cache).fingerprint == first.fingerprint
        with pytest.raises(DisbudError, match=r"pip install 'disbud\[hub\]'"):
            load(f"hf:{tmp_path / 'there'},size=16", cache=cache)
    cifar10(tmp_path / "there", test=20)
    assert len(load(f"hf:{tmp_path / 'there'}", cache=cache).test) == 20


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"image": png(0), "label": 0}, {"image": {"bytes": b"no", "path": None}, "label": 1}],
            "train, row 1 is no",
        ),
        ([{"image": {"bytes": None, "path": "/etc/hosts"}, "label": 0}], "row 0: there are no bytes"),
        (
            [{"image": png(0, 16), "label": 0}, {"image": png(0, 17), "label": 1}],
            "row 1 is of 17x17.*16x16.*size=64",
        ),
        ([{"image": png(0), "label": -1}], "neither all words nor all numbers"),
        ([{"image": png(0), "label": 0.5}], "neither all words nor all numbers"),
        ([{"image": png(0), "label": None}], "neither all words nor all numbers"),
        ([{"image": png(0), "img": png(0), "label": 1}], r"could be \['image', 'img'\]"),
    ],
)
def test_rows_that_are_amiss_are_named(tmp_path: Path, rows: Rows, message: str) -> None:
    write(tmp_path / "bad" / "train-0.parquet", rows)
    with pytest.raises(DisbudError, match=message):
        load(f"hf:{tmp_path / 'bad'},test=null", cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_a_label_that_only_the_test_images_have_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "bad" / "train-0.parquet", [{"image": png(at), "label": at % 2} for at in range(4)])
    write(tmp_path / "bad" / "test-0.parquet", [{"image": png(0), "label": 2}])
    with pytest.raises(DisbudError, match="test, row 0: label 2 is none of the 2 classes"):
        load(f"hf:{tmp_path / 'bad'}", cache=tmp_path / "cache")


def test_a_file_that_is_no_parquet_and_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "train-0.parquet").write_bytes(b"\x80\x04no parquet")
    with pytest.raises(DisbudError, match="Parquet files cannot be read"):
        load(f"hf:{tmp_path / 'bad'},test=null", cache=tmp_path / "cache")
    with pytest.raises(DisbudError, match="no such folder"):
        load(f"hf:{tmp_path / 'nowhere'}", cache=tmp_path / "cache")


# the hub itself


COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARD = b"""---
configs:
- config_name: plain_text
  data_files:
  - {split: train, path: plain_text/train-*}
  - {split: test, path: plain_text/test-*}
---
"""


class Hub(http.server.ThreadingHTTPServer):
    """What the client asks of one repository; `stalled` is set when half a file was sent, and no more is.

    Its main branch moves on, to a commit without files, as soon as a client has asked for it.
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files = {
            path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.parquet")
        }
        self.files["README.md"] = CARD
        self.stall, self.stalled = False, threading.Event()
        self.head = COMMIT


class _Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        files = self.server.files
        repository = "/api/datasets/uoft-cs/cifar10"
        file = path.removeprefix(f"/datasets/uoft-cs/cifar10/resolve/{COMMIT}/")
        if path == repository or path.startswith(f"{repository}/revision/"):
            commit = COMMIT if path.endswith(COMMIT) else self.server.head
            self.server.head = "f" * 40
            siblings = [{"rfilename": name} for name in files]
            self._send(json.dumps({"id": "uoft-cs/cifar10", "sha": commit, "siblings": siblings}).encode())
        elif path.startswith(f"{repository}/tree/{COMMIT}"):
            folder = path.removeprefix(f"{repository}/tree/{COMMIT}").strip("/")
            self._send(json.dumps(_listing(files, folder)).encode())
        elif file in files:
            digest = hashlib.sha1(files[file]).hexdigest()
            self._send(files[file], etag=digest, stall=self.server.stall and file.endswith(".parquet"))
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    do_HEAD = do_GET

    def _send(self, content: bytes, *, etag: str = "", stall: bool = False) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{etag}"')
        self.end_headers()
        if self.command == "GET" and stall:
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.server.stalled.set()
            threading.Event().wait(60)
        elif self.command == "GET":
            self.wfile.write(content)


def _listing(files: Mapping[str, bytes], folder: str) -> list[dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    for name, content in files.items():
        if name.startswith(folder):
            head, below, _ = name[len(folder) :].strip("/").partition("/")
            path = f"{folder}/{head}".strip("/")
            size = 0 if below else len(content)
            found[path] = {
                "type": "directory" if below else "file",
                "path": path,
                "size": size,
                "oid": "0" * 40,
            }
    return list(found.values())


@contextmanager
def serving(root: Path) -> Iterator[Hub]:
    with Hub(root) as hub:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


CLIENT = """
import sys, torch
torch.set_num_threads(1)
import disbud.data
dataset = disbud.data.load("cifar10", cache=sys.argv[1])
print(dataset.fingerprint, "datasets" in sys.modules)
"""


def client(hub: str, home: Path) -> subprocess.Popen[str]:
    """A process that loads cifar10 from the hub at that address, with downloads and cache in `home`."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub,
        "HF_HOME": str(home / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    command = [sys.executable, "-c", CLIENT, str(home / "cache")]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_a_download_from_the_hub_survives_a_kill_and_is_read_offline_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cifar10(tmp_path / "repository")
    with serving(tmp_path / "repository") as hub:
        address = f"http://127.0.0.1:{hub.server_port}"
        hub.stall = True
        killed = client(address, tmp_path)
        try:
            assert hub.stalled.wait(60), "the client asked for no file"
        finally:
            killed.kill()
            killed.communicate()
        assert not list((tmp_path / "cache").rglob("about.json"))
        hub.stall, hub.head = False, COMMIT
        output, errors = client(address, tmp_path).communicate(timeout=100)
        assert output.endswith(" True\n"), errors
    offline, errors = client("http://127.0.0.1:9", tmp_path).communicate(timeout=100)
    assert offline.split() == [output.split()[0], "False"], errors
    dataset = load("cifar10", cache=tmp_path / "cache")
    check_cifar10(dataset)
    assert dataset.fingerprint == output.split()[0]
    [about] = (tmp_path / "cache").rglob("about.json")
    assert json.loads(about.read_text())["source"] == {"name": "uoft-cs/cifar10", "commit": COMMIT}
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", refuse)
    assert load("cifar10", cache=tmp_path / "cache").fingerprint == dataset.fingerprint
    with pytest.raises(DisbudError, match="could not be fetched"):  # another revision is another entry
        load("cifar10:revision=v2", cache=tmp_path / "cache")


def refuse(*_: object, **__: object) -> object:
    raise ConnectionError("no route to the hub")


def test_a_hub_that_cannot_be_reached_is_an_error_that_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", refuse)
    with pytest.raises(
        DisbudError, match=r"nobody/nothing could not be fetched.*no route.*folder of its Parquet"
    ):
        load("hf:nobody/nothing", cache=tmp_path / "cache")


def test_a_folder_has_no_revisions(tmp_path: Path) -> None:
    cifar10(tmp_path / "folder")
    with pytest.raises(DisbudError, match="a folder of Parquet files has no revision"):
        load(f"hf:{tmp_path / 'folder'},revision=v2", cache=tmp_path / "cache")
