"""From the bytes of an image file to pixels of the size and channels asked for, by Pillow."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from disbud.errors import DisbudError

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Form:
    """What images become: `size` pixels square (None: as they are), grey (1 channel) or colour (3)."""

    size: int | None
    channels: int


def decode(content: bytes, where: str, form: Form) -> Pixels:
    """The image as [C, H, W], upright; unless it has the size asked, its middle is cut square and resized."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise DisbudError(f"{where}: image files are read by Pillow: pip install pillow") from error
    try:
        with Image.open(io.BytesIO(content)) as opened:
            if opened.mode.startswith(("I", "F")):
                raise ValueError(f"its pixels, of mode {opened.mode}, have more than 8 bits")
            upright = ImageOps.exif_transpose(opened)
            image = upright.convert("RGB" if form.channels == 3 else "L")
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DisbudError(
            f"{where} is no image that can be read ({error}); repair, convert or remove it"
        ) from error
    if form.size is not None and image.size != (form.size, form.size):
        image = ImageOps.fit(image, (form.size, form.size), method=Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels.transpose(2, 0, 1) if form.channels == 3 else pixels[None]
