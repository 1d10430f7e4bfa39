"""VGG as the pruning papers train it on CIFAR: convolutions, global average pooling, one linear layer."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from torch import nn

from disbud.models.sizes import scaled

# Convolutions in each block (Simonyan & Zisserman 2015, table 1: A, B, D, E).
BLOCKS: Final[dict[int, tuple[int, ...]]] = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
WIDTHS: Final = (64, 128, 256, 512, 512)


def vgg(
    *, depth: int, batch_norm: bool, classes: int, input_shape: tuple[int, ...], width: float
) -> nn.Sequential:
    """The layers of open_lth's, SynFlow's and Su et al.'s VGG: four max-poolings, convolutions with biases.

    They average 2x2 maps at 32 pixels, 4x4 at 64; pooling globally is the same and takes other sizes too.
    """
    n_in = input_shape[0]
    features: list[nn.Module] = []
    for block, (count, base) in enumerate(zip(BLOCKS[depth], WIDTHS, strict=True)):
        if block > 0:
            features.append(nn.MaxPool2d(2))
        n_out = scaled(base, width)
        for _ in range(count):
            features.append(nn.Conv2d(n_in, n_out, 3, padding=1))
            if batch_norm:
                features.append(nn.BatchNorm2d(n_out))
            features.append(nn.ReLU())
            n_in = n_out
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            features=nn.Sequential(*features),
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Linear(n_in, classes),
        )
    )
