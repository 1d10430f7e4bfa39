"""The data set `shapes`: drawn in seconds, any size and number, the same pixels on every machine."""

from __future__ import annotations

import numpy as np
import torch

from disbud.data.counter import Stream
from disbud.data.dataset import Dataset, Split
from disbud.data.drawing import Canvas, draw
from disbud.data.outlines import OUTLINES
from disbud.data.request import Request
from disbud.data.settings import colours, whole
from disbud.errors import DisbudError
from disbud.seeds import derive

SIZES = (8, 128)
MOST = 10_000_000  # images of a split


def shapes(
    request: Request,
    *,
    size: object,
    channels: object,
    classes: object,
    train: object,
    test: object,
    difficulty: object,
) -> Dataset:
    """Images of the first `classes` outlines; `difficulty` goes from 0 (plain) to 1 (hard for a person)."""
    request.no_argument()
    if isinstance(difficulty, bool) or not isinstance(difficulty, int | float) or not 0 <= difficulty <= 1:
        raise DisbudError(
            f"difficulty={difficulty!r}: difficulty is a number from 0 (plain) to 1, in hundredths"
        )
    canvas = Canvas(
        size=whole("size", size, low=SIZES[0], high=SIZES[1]),
        channels=colours("channels", channels),
        difficulty=round(difficulty * 100),
    )
    kinds = whole("classes", classes, low=2, high=len(OUTLINES))
    counts = {
        name: whole(name, count, low=kinds, high=MOST) for name, count in (("train", train), ("test", test))
    }
    splits = {name: _split(request.seed, name, count, kinds, canvas) for name, count in counts.items()}
    return Dataset.of(request.spec, **splits, class_names=tuple(OUTLINES)[:kinds])


def _split(seed: int, name: str, count: int, classes: int, canvas: Canvas) -> Split:
    images = np.arange(count, dtype=np.int64)
    labels = _labels(derive(seed, "shapes", name, "labels"), count, classes)
    pixels = draw(derive(seed, "shapes", name, "pixels"), images, labels, canvas)
    return Split(torch.from_numpy(pixels), torch.from_numpy(labels))


def _labels(key: int, count: int, classes: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Every run of `classes` images shows each class once, in an order of its own."""
    runs = np.arange(-(-count // classes), dtype=np.int64)
    order = np.argsort(Stream(key, runs).words(classes), axis=1, kind="stable")
    return order.astype(np.int64).reshape(-1)[:count]
