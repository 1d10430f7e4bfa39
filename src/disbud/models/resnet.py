"""Residual networks: ResNet-20 to -110 for CIFAR, and ResNet-18, -34, -50; named as in torchvision."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Literal

from torch import Tensor, nn

from disbud.errors import unknown_name
from disbud.models.branches import branch_scale, scaled_by
from disbud.models.sizes import scaled

Shortcut = Literal["conv", "identity"]
Stem = Literal["cifar", "tiny", "imagenet"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, times `scale`, added to the shortcut."""

    expansion: Final = 1

    def __init__(self, n_in: int, width: int, *, stride: int, shortcut: nn.Module, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.conv1 = nn.Conv2d(n_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, after its last activation."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu2(scaled_by(self.scale, out) + self.downsample(x))  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """A 3x3 convolution, which has the stride (as in torchvision), between two 1x1; times `scale`, and the shortcut."""

    expansion: Final = 4

    def __init__(self, n_in: int, width: int, *, stride: int, shortcut: nn.Module, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.conv1 = nn.Conv2d(n_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, self.expansion * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.expansion * width)
        self.downsample = shortcut
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, after its last activation."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu3(scaled_by(self.scale, out) + self.downsample(x))  # type: ignore[no-any-return]


STAGES: Final[dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
}


def cifar_resnet(
    *, depth: int, classes: int, input_shape: tuple[int, ...], width: float, shortcut: Shortcut, stable: bool
) -> nn.Sequential:
    """ResNet-(6n+2): three stages of n basic blocks, widths 16, 32, 64 (He et al. 2016, section 4.2).

    shortcut="conv", a 1x1 convolution with BatchNorm wherever the shape changes, is what the pruning papers'
    code builds; "identity" subsamples and fills with zeros, without weights (option A of He et al.). stable=True
    divides each residual branch by the square root of the number of blocks (Hayou et al. 2021, Stable ResNet).
    """
    if shortcut not in ("conv", "identity"):
        raise unknown_name("shortcut", str(shortcut), ("conv", "identity"))
    n_in, count = scaled(16, width), (depth - 2) // 6
    scale = branch_scale(stable, blocks=3 * count)
    layers = _convolution(input_shape[0], n_in, 3, stride=1)
    for i, base in enumerate((16, 32, 64)):
        stage = _stage(
            BasicBlock,
            n_in,
            scaled(base, width),
            count=count,
            stride=min(i + 1, 2),
            shortcut=shortcut,
            scale=scale,
        )
        layers[f"layer{i + 1}"], n_in = stage, scaled(base, width)
    return _classified(layers, n_in, classes)


def imagenet_resnet(
    *, depth: int, classes: int, input_shape: tuple[int, ...], width: float, stem: Stem, stable: bool
) -> nn.Sequential:
    """ResNet-18, -34 or -50: four stages, widths 64 to 512 (He et al. 2016, table 1), behind a stem.

    "imagenet" is a 7x7 convolution of stride 2 and a max-pooling; "cifar" a 3x3 of stride 1 and no pooling,
    which SynFlow's code keeps for Tiny-ImageNet too. "tiny" is the 3x3 with stride 2: the stages then see at
    64 pixels the maps that they see at 32 on CIFAR, at a quarter of the cost. `stable` is as for `cifar_resnet`.
    """
    n_in = scaled(64, width)
    if stem == "imagenet":
        layers = _convolution(input_shape[0], n_in, 7, stride=2)
        layers["maxpool"] = nn.MaxPool2d(3, 2, 1)
    elif stem in ("cifar", "tiny"):
        layers = _convolution(input_shape[0], n_in, 3, stride=2 if stem == "tiny" else 1)
    else:
        raise unknown_name("stem", str(stem), ("cifar", "tiny", "imagenet"))
    block, counts = STAGES[depth]
    scale = branch_scale(stable, blocks=sum(counts))
    for i, count in enumerate(counts):
        n_out = scaled(64 * 2**i, width)
        layers[f"layer{i + 1}"] = _stage(
            block, n_in, n_out, count=count, stride=min(i + 1, 2), shortcut="conv", scale=scale
        )
        n_in = n_out * block.expansion
    return _classified(layers, n_in, classes)


def _convolution(n_in: int, n_out: int, kernel: int, *, stride: int) -> OrderedDict[str, nn.Module]:
    return OrderedDict(
        conv1=nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, bias=False),
        bn1=nn.BatchNorm2d(n_out),
        relu=nn.ReLU(),
    )


def _stage(
    block: type[BasicBlock] | type[Bottleneck],
    n_in: int,
    width: int,
    *,
    count: int,
    stride: int,
    shortcut: Shortcut,
    scale: float,
) -> nn.Sequential:
    """`count` blocks, the first of which takes the stride and the change of channels."""
    n_out = width * block.expansion
    blocks: list[nn.Module] = []
    for _ in range(count):
        way = _shortcut(shortcut, n_in, n_out, stride=stride)
        blocks.append(block(n_in, width, stride=stride, shortcut=way, scale=scale))
        n_in, stride = n_out, 1
    return nn.Sequential(*blocks)


def _shortcut(kind: Shortcut, n_in: int, n_out: int, *, stride: int) -> nn.Module:
    if stride == 1 and n_in == n_out:
        return nn.Identity()
    if kind == "conv":
        return nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))
    # Pooling over one pixel subsamples; padding (N, C, H, W) by 3d rules appends n_out - n_in zero channels.
    return nn.Sequential(nn.AvgPool2d(1, stride), nn.ConstantPad3d((0, 0, 0, 0, 0, n_out - n_in), 0.0))


def _classified(layers: OrderedDict[str, nn.Module], n_in: int, classes: int) -> nn.Sequential:
    layers.update(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(n_in, classes))
    return nn.Sequential(layers)
