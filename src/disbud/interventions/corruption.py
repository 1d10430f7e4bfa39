"""Other data to prune with: labels and images robbed of what they say, or of their number."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from disbud.errors import DisbudError, unknown_name
from disbud.interventions.orders import random_orders
from disbud.seeds import generator, normal, order, whole

_CHUNK = 1 << 24  # values whose order is drawn in one go


def random_labels(x: Tensor, y: Tensor, seed: int, *, labels: str = "permuted") -> tuple[Tensor, Tensor]:
    """Labels independent of the images.

    "permuted" hands the labels round among the examples, so each class has as many as before and a method that looks
    at ten examples a class still finds them. "drawn" is what Su et al. 2020 released: each label uniform over the
    classes, so the counts of classes vary.
    """
    _check_labels("random-labels", y)
    stream = generator(seed, "intervention", "random-labels")
    if labels == "permuted":
        return x, y[order(len(y), stream).to(y.device)]
    if labels != "drawn":
        raise unknown_name("way to make random labels, labels=", labels, ("permuted", "drawn"))
    classes = y.unique()
    return x, classes[whole(len(classes), (len(y),), stream).to(y.device)]


def permuted_pixels(x: Tensor, y: Tensor, seed: int, *, channels: str = "together") -> tuple[Tensor, Tensor]:
    """Each image's pixels by a permutation of its own.

    "together" moves a pixel with all its channels, so colours stay; "mixed" permutes all values of an image whatever
    their channel, as the code released by Su et al. 2020 does. Rows of numbers, without channels, are permuted whole.
    """
    if channels not in ("together", "mixed"):
        raise unknown_name("way to permute pixels, channels=", channels, ("together", "mixed"))
    if x.dim() < 2:
        raise DisbudError(f"permuted-pixels: inputs of shape {tuple(x.shape)} have no pixels")
    together = channels == "together" and x.dim() > 2
    images = x.flatten(2) if together else x.flatten(1).unsqueeze(1)
    stream = generator(seed, "intervention", "permuted-pixels")
    moved = [
        part.gather(
            2, random_orders(len(part), part.shape[2], stream).to(x.device).unsqueeze(1).expand(part.shape)
        )
        for part in images.split(max(1, _CHUNK // max(1, images[0].numel())))
    ]
    return torch.cat(moved).view(x.shape), y


def labels_and_pixels(
    x: Tensor, y: Tensor, seed: int, *, labels: str = "permuted", channels: str = "together"
) -> tuple[Tensor, Tensor]:
    """Random labels and permuted pixels at once: the corrupted data of Su et al. 2020, who shuffle pixels only so."""
    return permuted_pixels(*random_labels(x, y, seed, labels=labels), seed, channels=channels)


def half_data(x: Tensor, y: Tensor, seed: int, *, fraction: float = 0.5) -> tuple[Tensor, Tensor]:
    """A random part of each class, in the order it came; of a class at least one example, halves rounded up."""
    _check_labels("half-data", y)
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction < 1:
        raise DisbudError(
            f"half-data: fraction is the part to keep, a number between 0 and 1, not {fraction!r}"
        )
    places = order(len(y), generator(seed, "intervention", "half-data"))
    shuffled = y.cpu()[places]
    chosen = []
    for label in shuffled.unique():
        of_class = places[shuffled == label]
        count = math.floor(Fraction(repr(float(fraction))) * len(of_class) + Fraction(1, 2))
        chosen.append(of_class[: max(1, count)])
    kept = torch.cat(chosen).sort().values.to(y.device)
    return x[kept.to(x.device)], y[kept]


def noise(x: Tensor, y: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Gaussian images with the data's mean and standard deviation in each channel; the labels stay.

    The channel is the second axis where an example has more than one axis; rows of numbers count as one channel.
    """
    if not x.is_floating_point():
        raise DisbudError(
            f"noise: inputs are {x.dtype}, and noise is not whole; normalise them first, x.float() / 255"
        )
    if not torch.isfinite(x).all():
        raise DisbudError("noise: the inputs hold NaN or infinite values, so they have no mean")
    images = x.flatten(2) if x.dim() > 2 else x.reshape(len(x), 1, -1)
    values = images.transpose(0, 1).flatten(1).double()
    mean, std = values.mean(1), values.std(1, correction=0)
    drawn = normal(images.shape, generator(seed, "intervention", "noise")).to(x.device)
    gaussian = drawn * std.view(-1, 1).to(drawn) + mean.view(-1, 1).to(drawn)
    return gaussian.view(x.shape).to(x.dtype), y


def _check_labels(name: str, y: Tensor) -> None:
    if y.dim() != 1 or y.is_floating_point() or y.is_complex():
        raise DisbudError(
            f"{name} needs one class label an example, whole numbers of shape ({len(y)},); "
            f"these targets are {y.dtype} of shape {tuple(y.shape)}"
        )
