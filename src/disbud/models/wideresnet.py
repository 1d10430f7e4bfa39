"""Wide ResNets: few layers, many channels, pre-activation blocks (Zagoruyko & Komodakis 2016)."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import Tensor, nn

from disbud.errors import DisbudError
from disbud.models.branches import branch_scale, scaled_by
from disbud.models.sizes import scaled, whole


class PreActivationBlock(nn.Module):
    """BatchNorm, ReLU, 3x3 convolution, twice, times `scale`; a shortcut with weights starts after the first ReLU."""

    def __init__(self, n_in: int, n_out: int, *, stride: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.bn1 = nn.BatchNorm2d(n_in)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        changes = stride != 1 or n_in != n_out
        self.downsample = nn.Conv2d(n_in, n_out, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, before any activation."""
        activated = self.relu1(self.bn1(x))
        out = self.conv2(self.relu2(self.bn2(self.conv1(activated))))
        shortcut = x if self.downsample is None else self.downsample(activated)
        return scaled_by(self.scale, out) + shortcut


def wideresnet(
    *, depth: int, factor: float, classes: int, input_shape: tuple[int, ...], width: float, stable: bool
) -> nn.Sequential:
    """WRN-depth-factor: three stages of (depth - 4) / 6 blocks, widths 16, 32, 64 times the factor.

    stable=True divides each residual branch by the square root of the number of blocks (Hayou et al. 2021).
    """
    count, rest = divmod(whole("depth", depth, least=10) - 4, 6)
    if rest:
        raise DisbudError(
            f"a Wide ResNet has 6n + 4 layers, such as {6 * count + 4} or {6 * count + 10}, not {depth}"
        )
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < math.inf:
        raise DisbudError(f"factor widens the stages: a number above 0, as in factor=10, not {factor!r}")
    n_in, scale = scaled(16, width), branch_scale(stable, blocks=3 * count)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(input_shape[0], n_in, 3, 1, 1, bias=False)
    )
    for i, base in enumerate((16, 32, 64)):
        n_out = scaled(base, factor * width)
        blocks = []
        for j in range(count):
            stride = 2 if i > 0 and j == 0 else 1
            blocks.append(PreActivationBlock(n_in, n_out, stride=stride, scale=scale))
            n_in = n_out
        layers[f"layer{i + 1}"] = nn.Sequential(*blocks)
    layers.update(
        bn=nn.BatchNorm2d(n_in),
        relu=nn.ReLU(),
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(n_in, classes),
    )
    return nn.Sequential(layers)
