"""The data set `folder:PATH`: image files, one folder a class."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from disbud.artifacts import Json, get_or_make
from disbud.data.dataset import Dataset
from disbud.data.decode import Form, Pixels, decode
from disbud.data.request import Request
from disbud.data.settings import colours, fraction, whole
from disbud.data.store import REVISION, open_dataset, write_about, write_split
from disbud.errors import DisbudError

Classes: TypeAlias = Mapping[str, Sequence[Path]]  # image files by class name

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".gif", ".tif", ".tiff"})
# The usual names of a split's folder, in capitals or not; of several test sets the first is taken.
_TRAINS = ("train", "training")
_TESTS = ("test", "testing", "val", "validation", "valid")


def folder(request: Request, *, size: object, channels: object, test_fraction: object) -> Dataset:
    """The images under PATH/CLASS, or PATH/train/CLASS and PATH/test/CLASS, decoded once into the cache."""
    form = Form(whole("size", size, low=8, high=4096), colours("channels", channels))
    fraction("test_fraction", test_fraction)
    if request.argument is None:
        raise DisbudError(f"{request.spec!r} names no folder; write folder:PATH, as in folder:photos,size=64")
    root = Path(request.argument).expanduser()
    splits = _splits(root)
    names = sorted(splits["train"])
    foreign = sorted(set(splits.get("test", ())) - set(names))
    if foreign:
        raise DisbudError(f"{root}: no training image is of class {foreign[0]!r}, which the test images show")
    if len(names) < 2:
        raise DisbudError(f"{root}: {names} is the only class; a classifier needs two folders of images")

    def make(part: Path) -> None:
        for split, classes in splits.items():
            count = sum(len(files) for files in classes.values())
            write_split(part, split, count, _decoded(classes, names, form))
        write_about(part, class_names=names, source={"folder": str(root.absolute())})

    key: dict[str, Json] = {
        "content": "images of a folder",
        "revision": REVISION,
        "files": _listing(root, splits),
        "size": form.size,
        "channels": form.channels,
    }
    return open_dataset(get_or_make(key, make, cache=request.cache), request, test_fraction=test_fraction)


def _splits(root: Path) -> dict[str, Classes]:
    if not root.is_dir():
        raise DisbudError(f"there is no folder {root}; folder:PATH needs PATH/CLASS/*.png")
    trains, tests = _called(root, _TRAINS), _called(root, _TESTS)
    if len(trains) > 1:
        raise DisbudError(
            f"{root}: {trains[0].name} and {trains[1].name} could both be the training split; rename one"
        )
    if trains:
        return {"train": _classes(trains[0]), **({"test": _classes(tests[0])} if tests else {})}
    classes = _classes(root)
    if all(name.lower() in (*_TRAINS, *_TESTS) for name in classes):
        raise DisbudError(
            f"{root}: {' and '.join(classes)} are names of splits, not of classes; put images as "
            f"{root}/train/CLASS/*.png and {root}/test/CLASS/*.png"
        )
    return {"train": classes}


def _called(root: Path, names: Sequence[str]) -> list[Path]:
    """The folders of those names that hold folders of classes, the first name first.

    A folder of images alone is a class, whatever its name.
    """
    folders = _folders(root)
    return [
        folder for name in names for folder in folders if folder.name.lower() == name and _folders(folder)
    ]


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _classes(root: Path) -> Classes:
    found: dict[str, Sequence[Path]] = {}
    for place in _folders(root):
        files = sorted(
            path for path in place.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file()
        )
        if not files:
            raise DisbudError(
                f"the class folder {place} holds no image ({', '.join(sorted(_SUFFIXES))}); remove it"
            )
        found[place.name] = files
    if not found:
        raise DisbudError(f"{root} holds no class folders; put images as {root}/CLASS/*.png")
    return found


def _decoded(classes: Classes, names: Sequence[str], form: Form) -> Iterator[tuple[str, Pixels, int]]:
    for label, name in enumerate(names):
        for path in classes.get(name, ()):
            yield str(path), decode(path.read_bytes(), str(path), form), label


def _listing(root: Path, splits: Mapping[str, Classes]) -> str:
    """SHA-256 over the name and content of every image: a file added, moved, renamed or edited changes it."""
    state = hashlib.sha256()
    for split, classes in splits.items():
        for files in classes.values():
            for path in files:
                with open(path, "rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
                state.update(f"{split}\0{path.relative_to(root).as_posix()}\0{content}\n".encode())
    return state.hexdigest()
