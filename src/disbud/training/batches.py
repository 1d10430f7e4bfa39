"""A split of a data set as whole tensors on the device: order, batches, augmentation, normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from disbud.data import augment
from disbud.seeds import generator, order

if TYPE_CHECKING:
    from torch import Tensor, nn

    from disbud.data import Dataset


class Feed:
    """The images (as bytes) and labels of a split, on the device, and how batches are made of them."""

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        chosen = (dataset.train if split == "train" else dataset.test).to(device)
        self.images, self.labels = chosen.images, chosen.labels
        self.classes = dataset.classes
        self._dtype, self._memory_format = dtype, memory_format
        # What Dataset.normalise computes in float32, bit for bit, but with its constants made once.
        scale = [1 / (255 * deviation) for deviation in dataset.std]
        shift = [-centre / deviation for centre, deviation in zip(dataset.mean, dataset.std, strict=True)]
        self._scale, self._shift = (
            torch.tensor(row, dtype=torch.float32, device=device).view(-1, 1, 1) for row in (scale, shift)
        )

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, chosen: Tensor | slice, policy: str = "none", *stream: int) -> tuple[Tensor, Tensor]:
        """The chosen examples, augmented by the stream (seed, epoch, step), normalised."""
        images = self.images[chosen]
        if policy != "none":
            seed, *position = stream
            images = augment(images, policy, generator=generator(seed, "augmentation", *position))
        inputs = images.to(torch.float32, memory_format=self._memory_format)
        return inputs.mul_(self._scale).add_(self._shift).to(self._dtype), self.labels[chosen]


def input_type(model: nn.Module) -> torch.dtype:
    """The type of the model's weights; float32 where they are of several, of which the model takes care."""
    types = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    return types.pop() if len(types) == 1 else torch.float32


def epoch_batches(order: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    """The order cut into batches; the last is what is left over, unless that is one example among more.

    BatchNorm cannot take a batch of one, and one example would weigh as much as a whole batch.
    """
    batches = torch.split(order, batch_size)
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 and batch_size > 1 else batches


def order_of(count: int, seed: int, epoch: int, device: torch.device) -> Tensor:
    """The order of the examples in one epoch."""
    return order(count, generator(seed, "order", epoch)).to(device)
