"""A data set from a user's own tensors or arrays, checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from disbud.data.dataset import Dataset, Split, stratified
from disbud.data.settings import fraction
from disbud.errors import DisbudError
from disbud.seeds import generator

Array = Tensor | NDArray[np.generic]


def from_tensors(
    images: Array,
    labels: Array,
    *,
    test_images: Array | None = None,
    test_labels: Array | None = None,
    name: str = "tensors",
    class_names: Sequence[str] | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Dataset:
    """A data set from images [N, C, H, W] and labels [N]; without test images, a stratified part is drawn.

    Images are uint8, or floating point from 0 (black) to 1 (white), which are rounded to the 256 levels of
    uint8. Everything is copied: what is written to the arrays afterwards changes nothing here.

    >>> import disbud.data, torch
    >>> images, labels = torch.rand(40, 3, 8, 8), torch.arange(40) % 4
    >>> dataset = disbud.data.from_tensors(images, labels, name="noise")
    >>> len(dataset.train), len(dataset.test), dataset.classes
    (32, 8, 4)
    """
    if (test_images is None) != (test_labels is None):
        raise DisbudError(f"{name}: test_images and test_labels go together; give both, or neither")
    train = Split(_images(images, name), _labels(labels, name, len(images)))
    names = _class_names(train.labels, class_names, name)
    if test_images is not None and test_labels is not None:
        where = f"{name}, test"
        test = Split(_images(test_images, where), _labels(test_labels, where, len(test_images)))
        return Dataset.of(name, train=train, test=test, class_names=names)
    return split_off_test(name, train, names, test_fraction=test_fraction, seed=seed)


def split_off_test(
    name: str, examples: Split, class_names: tuple[str, ...], *, test_fraction: object, seed: int
) -> Dataset:
    """The data set whose test set is a stratified part of the examples, drawn from the seed."""
    share = fraction("test_fraction", test_fraction)
    kept, drawn = stratified(examples.labels, share, generator(seed, "split", "test"))
    return Dataset.of(name, train=examples.select(kept), test=examples.select(drawn), class_names=class_names)


def _own(given: Array) -> Tensor:
    """A copy, on the CPU where it is no tensor: arrays may lie backwards, be read-only or of the other byte order."""
    if isinstance(given, Tensor):
        return given.detach().clone()
    array = np.asarray(given)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def _images(given: Array, name: str) -> Tensor:
    images = _own(given)
    found = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
    if images.ndim != 4 or 0 in images.shape:
        hint = "; grey images need images.unsqueeze(1)" if images.ndim == 3 else ""
        raise DisbudError(f"{name}: images are [N, C, H, W], at least one, not {found}{hint}")
    if images.shape[1] > 4 and images.shape[3] in (1, 3, 4):
        raise DisbudError(f"{name}: {found} looks like channels last; give images.permute(0, 3, 1, 2)")
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise DisbudError(f"{name}: images are uint8, or floating point from 0 to 1, not {found}")
    low, high = images.min().item(), images.max().item()
    if not (low >= 0 and high <= 1):  # so that NaN is refused as well
        hint = (
            "; divide by 255"
            if low >= 0 and high <= 255
            else "; undo their normalisation, disbud does its own"
        )
        raise DisbudError(
            f"{name}: floating-point images lie between 0 and 1, not {low:g} and {high:g}{hint}"
        )
    return images.float().mul(255).round().to(torch.uint8)


def _labels(given: Array, name: str, count: int) -> Tensor:
    labels = _own(given)
    found = f"{str(labels.dtype).removeprefix('torch.')} {list(labels.shape)}"
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise DisbudError(
            f"{name}: labels are class numbers [N], not {found}; of one-hot rows take labels.argmax(1)"
        )
    if labels.shape != (count,):
        raise DisbudError(f"{name}: there are {count} images and labels of {found}; give one label an image")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DisbudError(f"{name}: labels are whole numbers, not {found}; convert them with labels.long()")
    return labels.long()


def _class_names(labels: Tensor, given: Sequence[str] | None, name: str) -> tuple[str, ...]:
    present = labels.unique().tolist()
    if present[0] < 0:
        raise DisbudError(f"{name}: {present[0]} is among the labels; classes are numbered from 0 up")
    if len(present) == 1:
        raise DisbudError(
            f"{name}: all {len(labels)} labels are {present[0]}; a classifier needs two classes"
        )
    classes = present[-1] + 1 if given is None else len(given)
    if present[-1] >= classes:
        raise DisbudError(f"{name}: {present[-1]} is among the labels and there are {classes} class names")
    if len(present) < classes:
        gap = next((at for at, label in enumerate(present) if at != label), len(present))
        raise DisbudError(
            f"{name}: no training image is of class {gap}, though there should be {classes} classes; number "
            "them without a gap, as labels.unique(return_inverse=True)[1] does"
        )
    return tuple(str(label) for label in range(classes)) if given is None else tuple(given)
