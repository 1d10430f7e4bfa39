"""The Dataset value: images and labels as tensors, their classes, and what a model needs to read them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from disbud.errors import DisbudError, unknown_name
from disbud.seeds import generator, order

_CHUNK = 512  # images read at once, where a data set may be a file larger than memory


@dataclass(frozen=True, eq=False)
class Split:
    """Images, uint8 [N, C, H, W], and their labels, int64 [N].

    >>> import disbud.data, torch
    >>> split = disbud.data.Split(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]))
    >>> len(split)
    2
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.ndim != 4 or images.dtype != torch.uint8 or images.numel() == 0:
            raise DisbudError(
                f"images of a split are uint8 [N, C, H, W], at least one, not {_kind(images)}; "
                "disbud.data.from_tensors takes floating point too"
            )
        if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
            raise DisbudError(
                f"labels of a split are int64, one for each of {len(images)} images, not {_kind(labels)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> Split:
        """The examples at those positions, in that order."""
        return Split(self.images[indices], self.labels[indices])

    def to(self, device: str | torch.device) -> Split:
        """The same examples on that device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images to train on and to test on. `mean` and `std` are those of train / 255, for each channel.

    >>> import disbud.data
    >>> dataset = disbud.data.load("digits")
    >>> dataset.input_shape, dataset.classes
    ((1, 8, 8), 10)
    >>> images, labels = next(iter(dataset.batches(32)))
    >>> images.shape, images.dtype, labels.shape
    (torch.Size([32, 1, 8, 8]), torch.float32, torch.Size([32]))
    """

    name: str
    train: Split
    test: Split
    classes: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, name: str, *, train: Split, test: Split, class_names: tuple[str, ...]) -> Dataset:
        """The data set of two splits, with mean and standard deviation taken from the first.

        >>> import disbud.data
        >>> digits = disbud.data.load("digits")
        >>> swapped = disbud.data.Dataset.of(
        ...     "swapped", train=digits.test, test=digits.train, class_names=digits.class_names
        ... )
        >>> len(swapped.train)
        359
        """
        if train.images.shape[1:] != test.images.shape[1:]:
            raise DisbudError(
                f"{name}: training images are {_shape(train)} and test images {_shape(test)}; make them alike"
            )
        for split, where in ((train, "training"), (test, "test")):
            low, high = int(split.labels.min()), int(split.labels.max())
            if low < 0 or high >= len(class_names):
                raise DisbudError(
                    f"{name}: {where} labels go from {low} to {high}; with {len(class_names)} classes "
                    f"they lie between 0 and {len(class_names) - 1}"
                )
        mean, std = _moments(train.images)
        return cls(name, train, test, len(class_names), class_names, mean, std)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content, images and labels of both splits, whatever the name."""
        state = hashlib.sha256()
        for split in (self.train, self.test):
            state.update(repr(tuple(split.images.shape)).encode())
            for chunk in split.images.split(_CHUNK):
                state.update(chunk.cpu().contiguous().numpy().data)
            state.update(split.labels.cpu().contiguous().numpy().astype("<i8").data)
        return state.hexdigest()

    def __str__(self) -> str:
        shape = "x".join(str(side) for side in self.input_shape)
        return (
            f"{self.name}: {self.classes} classes, {len(self.train):,} training and {len(self.test):,} test "
            f"images of {shape}, fingerprint {self.fingerprint[:12]}"
        )

    def to(self, device: str | torch.device) -> Dataset:
        """The same data set with its tensors on that device."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))

    def normalise(self, images: Tensor) -> Tensor:
        """Images as float32 with mean 0 and standard deviation 1 over the training set, for each channel.

        >>> import disbud.data
        >>> dataset = disbud.data.load("digits")
        >>> images = dataset.normalise(dataset.train.images)
        >>> abs(round(images.mean().item(), 3)), round(images.std().item(), 3)
        (0.0, 1.0)
        """
        scale = torch.tensor([1 / (255 * std) for std in self.std], device=images.device)
        shift = torch.tensor(
            [-m / std for m, std in zip(self.mean, self.std, strict=True)], device=images.device
        )
        return images.float() * scale[:, None, None] + shift[:, None, None]

    def example(self) -> Tensor:
        """A batch of one input, all zeros, on the data set's device: what a tracer asks for."""
        return torch.zeros(1, *self.input_shape, device=self.train.images.device)

    def batches(
        self,
        batch_size: int = 100,
        *,
        split: Literal["train", "test"] = "train",
        seed: int = 0,
        shuffle: bool = True,
    ) -> Batches:
        """Normalised batches, in an order that the seed decides; every pass over them gives the same ones.

        The last batch may be smaller. `shuffle=False` keeps the order of the split.
        """
        if split not in ("train", "test"):
            raise unknown_name("split called", split, ("train", "test"))
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise DisbudError(
                f"batch_size={batch_size!r}: a batch holds a whole number of images, at least 1"
            )
        return Batches(
            self, self.train if split == "train" else self.test, batch_size, seed if shuffle else None
        )

    def validation(self, fraction: float = 0.1, seed: int = 0) -> Dataset:
        """The training set cut in two: most to train on, a stratified part in the place of the test set.

        >>> import disbud.data
        >>> dataset = disbud.data.load("digits").validation(0.1)
        >>> len(dataset.train), len(dataset.test)
        (1293, 145)
        """
        kept, drawn = stratified(self.train.labels, fraction, generator(seed, "split", "validation"))
        name = f"{self.name} (validation)"
        train, test = self.train.select(kept), self.train.select(drawn)
        return Dataset.of(name, train=train, test=test, class_names=self.class_names)


class Batches:
    """Normalised batches of a split that can be gone over again and again, always in the same order.

    >>> import disbud.data
    >>> batches = disbud.data.load("digits").batches(100, split="test")
    >>> len(batches), sum(len(labels) for images, labels in batches)
    (4, 359)
    """

    def __init__(self, dataset: Dataset, split: Split, batch_size: int, seed: int | None) -> None:
        self._dataset, self._split, self._batch_size, self._seed = dataset, split, batch_size, seed

    def __len__(self) -> int:
        return -(-len(self._split) // self._batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        count, device = len(self._split), self._split.labels.device
        if self._seed is None:
            chosen = torch.arange(count, device=device)
        else:
            chosen = order(count, generator(self._seed, "order")).to(device)
        for indices in chosen.split(self._batch_size):
            batch = self._split.select(indices)
            yield self._dataset.normalise(batch.images), batch.labels


def stratified(labels: Tensor, fraction: float, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Positions kept and positions drawn, the fraction drawn from each class and both in the order they had.

    A class gives at least one example and keeps at least one; a class of one keeps it.
    """
    if not 0 < fraction < 1:
        raise DisbudError(
            f"a fraction of {fraction} cannot be split off; give a number between 0 and 1, such as 0.1"
        )
    labels = labels.cpu()
    drawn = torch.zeros(len(labels), dtype=torch.bool, device="cpu")
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        count = min(max(1, math.floor(fraction * len(members) + 0.5)), len(members) - 1)
        drawn[members[order(len(members), draws)[:count]]] = True
    if not drawn.any():
        raise DisbudError(
            f"{len(labels)} examples, one a class, cannot be split; two of a class are the least"
        )
    return (~drawn).nonzero().flatten(), drawn.nonzero().flatten()


def _moments(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of images / 255, from sums of whole numbers: the same on every machine."""
    channels = images.shape[1]
    count = images.numel() // channels
    sums, squares = [0] * channels, [0] * channels
    for chunk in images.split(_CHUNK):
        for channel in range(channels):
            # in float64 whole numbers below 2^53 add up exactly, in whatever order they are taken
            values = chunk[:, channel].double().flatten()
            sums[channel] += int(values.sum())
            squares[channel] += int(values.dot(values))
    means = tuple(total / (count * 255) for total in sums)
    spreads = (math.sqrt(count * q - s * s) / (count * 255) for s, q in zip(sums, squares, strict=True))
    return means, tuple(spread or 1.0 for spread in spreads)  # a constant channel is only centred


def _shape(split: Split) -> str:
    return "x".join(str(side) for side in split.images.shape[1:])


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
