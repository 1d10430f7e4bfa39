"""The 1,797 handwritten digits of 8x8 pixels that come with scikit-learn (Alpaydin and Kaynak 1998)."""

from __future__ import annotations

import torch

from disbud.data.dataset import Dataset, Split
from disbud.data.request import Request
from disbud.data.tensors import split_off_test
from disbud.errors import DisbudError


def digits(request: Request, *, test_fraction: object) -> Dataset:
    """Scikit-learn's digits, their 17 levels spread over those of uint8, split from the seed."""
    request.no_argument()
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise DisbudError("the data set digits comes with scikit-learn: pip install scikit-learn") from error
    bunch = load_digits()
    levels = torch.from_numpy(bunch.images).to(torch.int32)
    images = ((levels * 255 + 8) // 16).to(torch.uint8).unsqueeze(1)
    examples = Split(images, torch.from_numpy(bunch.target).to(torch.int64))
    names = tuple(str(digit) for digit in range(10))
    return split_off_test(request.spec, examples, names, test_fraction=test_fraction, seed=request.seed)
