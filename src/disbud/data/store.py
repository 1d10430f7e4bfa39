"""Decoded images on disk: two arrays a split, opened as memory maps, and about.json on what they are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch

from disbud.data.dataset import Dataset, Split
from disbud.data.decode import Pixels
from disbud.data.request import Request
from disbud.data.tensors import split_off_test
from disbud.errors import DisbudError

REVISION = 1  # of what is written here: another one makes every entry anew


def write_split(folder: Path, name: str, count: int, examples: Iterable[tuple[str, Pixels, int]]) -> None:
    """Write `count` examples, each with the words that say where it came from, one after the other."""
    labels = np.full(count, -1, dtype="<i8")
    shape: tuple[int, ...] | None = None
    # Plain writes, not a memory map: on a full disk a map ends the process, a write raises an error.
    with open(folder / f"{name}-images.npy", "wb") as file:
        for at, (where, pixels, label) in enumerate(examples):
            if shape is None:
                shape = pixels.shape
                header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
                np.lib.format.write_array_header_1_0(file, header)
            if pixels.shape != shape:
                raise DisbudError(
                    f"{where} is of {_size(pixels.shape)} pixels, those before it of {_size(shape)}; "
                    "give one size to all, as in size=64"
                )
            file.write(pixels.tobytes())
            labels[at] = label
    np.save(folder / f"{name}-labels.npy", labels, allow_pickle=False)


def write_about(folder: Path, *, class_names: Iterable[str], source: Mapping[str, str | None]) -> None:
    """Write the names of the classes, and where the images came from."""
    about = {"class_names": list(class_names), "source": dict(source)}
    (folder / "about.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


def open_dataset(folder: Path, request: Request, *, test_fraction: object) -> Dataset:
    """The data set in that folder; without a test set, a stratified part of it is drawn from the seed."""
    names = tuple(json.loads((folder / "about.json").read_text(encoding="utf-8"))["class_names"])
    examples = _open_split(folder, "train")
    if (folder / "test-images.npy").exists():
        return Dataset.of(request.spec, train=examples, test=_open_split(folder, "test"), class_names=names)
    return split_off_test(request.spec, examples, names, test_fraction=test_fraction, seed=request.seed)


def _open_split(folder: Path, name: str) -> Split:
    # "c" maps copy on write: a caller who writes into the tensor changes no file
    images = np.load(folder / f"{name}-images.npy", mmap_mode="c", allow_pickle=False)
    labels = np.load(folder / f"{name}-labels.npy", allow_pickle=False)
    return Split(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)))


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[-1]}x{shape[-2]}"
