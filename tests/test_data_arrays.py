"""A data set of one's own arrays is one's own no more: it is copied, however the array lies in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from disbud.data import from_tensors


def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)


def labels() -> NDArray[np.int64]:
    return np.arange(40) % 4


@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_what_is_written_to_the_array_afterwards_changes_nothing(kind: str) -> None:
    made = torch.from_numpy if kind == "tensor" else np.asarray
    given = [made(part()) for part in (images, labels, images, labels)]
    dataset = from_tensors(given[0], given[1], test_images=given[2], test_labels=given[3])
    for part in given:
        part[:] = 0
    for split in (dataset.train, dataset.test):
        assert np.array_equal(split.images.numpy(), images())
        assert np.array_equal(split.labels.numpy(), labels())


def lying(array: NDArray[np.generic], how: str) -> NDArray[np.generic]:
    """The same array, otherwise in memory."""
    if how == "backwards":
        return array[::-1].copy()[::-1]
    if how == "columns first":
        return np.asfortranarray(array)
    if how == "read only":
        array.setflags(write=False)
        return array
    return array.astype(array.dtype.newbyteorder(">"))


@pytest.mark.parametrize("how", ["backwards", "columns first", "read only", "big end first"])
def test_an_array_may_lie_in_memory_as_it_likes(how: str) -> None:
    expected = from_tensors(images(), labels()).fingerprint
    assert from_tensors(lying(images(), how), lying(labels(), how)).fingerprint == expected
    floats = images().astype(np.float64) / 255
    assert from_tensors(lying(floats, how), lying(labels(), how)).fingerprint == expected
