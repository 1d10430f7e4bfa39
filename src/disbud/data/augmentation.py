"""Random crops and mirror images of a whole batch at once, drawn from a generator, without a data loader."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from disbud.errors import DisbudError, unknown_name
from disbud.seeds import uniform, whole

POLICIES = ("none", "flip", "crop-flip")


def augment(images: Tensor, policy: str, *, generator: torch.Generator, padding: int | None = None) -> Tensor:
    """A batch [N, C, H, W] of any type, its images mirrored or not and cropped after zeros are put around.

    `none` gives the batch back, `flip` mirrors half of it, `crop-flip` also shifts each image by up to
    `padding` pixels (when not given an eighth of its height and of its width, so 4 at 32 pixels, as in He
    2016). The same generator state gives the same result on every device; draws are made on the CPU.

    >>> import disbud.data, torch
    >>> batch = torch.arange(2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
    >>> moved = disbud.data.augment(batch, "crop-flip", generator=torch.Generator().manual_seed(0))
    >>> moved.shape == batch.shape, torch.equal(moved, batch)
    (True, False)
    """
    if policy not in POLICIES:
        raise unknown_name("augmentation", policy, POLICIES)
    if images.ndim != 4:
        raise DisbudError(f"augment takes a batch [N, C, H, W], not {list(images.shape)}")
    if padding is not None and padding < 0:
        raise DisbudError(f"padding={padding}: an image is padded by 0 pixels or more")
    if policy == "crop-flip":
        images = _crop(images, padding, generator)
    if policy in ("flip", "crop-flip"):
        mirrored = uniform((len(images),), generator) < 0.5
        images = torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(-1), images)
    return images


def _crop(images: Tensor, padding: int | None, generator: torch.Generator) -> Tensor:
    count, _, height, width = images.shape
    above, beside = (max(1, side // 8) if padding is None else padding for side in (height, width))
    padded = functional.pad(images, (beside, beside, above, above))
    every_crop = padded.unfold(2, height, 1).unfold(
        3, width, 1
    )  # a view: [N, C, down, across, height, width]
    down, across = (whole(2 * most + 1, (count,), generator).to(images.device) for most in (above, beside))
    return every_crop[torch.arange(count, device=images.device), :, down, across]
