"""What is drawn for data: by the sides of an image, and whatever torch's default device and type are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import disbud.data
from disbud.data import augment, from_tensors
from disbud.data.dataset import stratified
from disbud.training.batches import order_of


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def pixels(count: int, *shape: int) -> Tensor:
    """Images without a black pixel."""
    return torch.randint(1, 256, (count, *shape), generator=draws()).to(torch.uint8)


@pytest.mark.parametrize(
    ("height", "width", "down", "across"), [(16, 128, 2, 16), (40, 8, 5, 1), (4, 24, 1, 3)]
)
def test_an_image_is_shifted_along_each_axis_by_an_eighth_of_that_side(
    height: int, width: int, down: int, across: int
) -> None:
    images = pixels(400, 1, height, width)
    moved = augment(images, "crop-flip", generator=draws())
    black = moved == 0
    rows, columns = black.all(3).sum(2).flatten(), black.all(2).sum(2).flatten()
    assert (int(rows.max()), int(columns.max())) == (down, across)
    padded = functional.pad(images, (across, across, down, down))
    for image, result in zip(padded[:20], moved[:20], strict=True):
        assert any(
            torch.equal(window, result) or torch.equal(window.flip(-1), result)
            for top in range(2 * down + 1)
            for left in range(2 * across + 1)
            for window in [image[:, top : top + height, left : left + width]]
        )


@pytest.mark.parametrize("side", [8, 9, 32])
@pytest.mark.parametrize("count", [1, 17, 64])
def test_square_images_are_shifted_by_one_draw_for_both_axes(side: int, count: int) -> None:
    images, stream = pixels(count, 3, side, side), draws(5)
    padding = side // 8
    down, across = torch.randint(2 * padding + 1, (2, count), generator=stream).tolist()
    mirrored = (torch.rand(count, generator=stream) < 0.5).tolist()
    padded = functional.pad(images, (padding,) * 4)
    by_hand = [image[:, y : y + side, x : x + side] for image, y, x in zip(padded, down, across, strict=True)]
    expected = [
        image.flip(-1) if flipped else image for image, flipped in zip(by_hand, mirrored, strict=True)
    ]
    assert torch.equal(augment(images, "crop-flip", generator=draws(5)), torch.stack(expected))


LABELS = torch.arange(60) % 4
IMAGES = pixels(60, 1, 8, 8)
DRAWN: dict[str, Callable[[], object]] = {
    "flip": lambda: augment(IMAGES, "flip", generator=draws()),
    "crop-flip": lambda: augment(IMAGES, "crop-flip", generator=draws()),
    "order": lambda: order_of(50, 1, 2, torch.device("cpu")),
    "stratified": lambda: stratified(LABELS, 0.2, draws()),
    "shuffled batches": lambda: [y for _, y in from_tensors(IMAGES, LABELS).batches(7, seed=3)],
    "batches in order": lambda: [y for _, y in from_tensors(IMAGES, LABELS).batches(7, shuffle=False)],
    "validation": lambda: from_tensors(IMAGES.numpy(), LABELS.numpy()).validation(seed=2).fingerprint,
    "digits": lambda: disbud.data.load("digits").fingerprint,
    "shapes": lambda: disbud.data.load("shapes:size=8,train=20,test=20").fingerprint,
}


@pytest.mark.parametrize("name", DRAWN)
def test_draws_do_not_depend_on_torchs_default_device_and_type(name: str) -> None:
    expected = DRAWN[name]()
    with torch.device("meta"):
        assert same(DRAWN[name](), expected)
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert same(DRAWN[name](), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other
