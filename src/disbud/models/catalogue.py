"""The models disbud knows by name, with their papers and settings; read without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from disbud.catalogue import Entry, Value


@dataclass(frozen=True)
class ModelEntry(Entry):
    """A named network: what fixes it within its family, its paper's input, the smallest image it can take.

    `fixed` goes to the function beside the settings and is not for the user to change. `smallest` is the
    least height and width; None says that an input of any shape will do.

    >>> from disbud.models import CATALOGUE
    >>> CATALOGUE["vgg16-bn"].smallest, CATALOGUE["lenet-5"].input_shape
    (16, (1, 28, 28))
    """

    fixed: Mapping[str, Value] = field(default_factory=dict)
    input_shape: tuple[int, ...] = (3, 32, 32)
    smallest: int | None = 1


_COMMON: dict[str, Value] = {"width": 1.0, "init": "kaiming-normal"}


def _dense() -> list[ModelEntry]:
    function = "disbud.models.mlp:mlp"
    activation: dict[str, Value] = {"activation": "relu"}
    return [
        ModelEntry(
            "mlp",
            "fully connected, any hidden sizes (hidden=300+100), relu, tanh, gelu or silu",
            function,
            {"hidden": (300, 100), **activation, **_COMMON},
            smallest=None,
        ),
        ModelEntry(
            "lenet-300-100",
            "fully connected, 300 and 100 hidden units (LeCun et al. 1998); 266,200 weights on 28x28",
            function,
            {**activation, **_COMMON},
            fixed={"hidden": (300, 100)},
            input_shape=(1, 28, 28),
            smallest=None,
        ),
    ]


def _convolutional() -> list[ModelEntry]:
    lenet = ModelEntry(
        "lenet-5",
        "two 5x5 convolutions (20, 50), 500 hidden units: the Caffe form that SNIP prunes (Lee et al. 2019)",
        "disbud.models.convnets:lenet5",
        _COMMON,
        input_shape=(1, 28, 28),
        smallest=16,
    )
    frankle = [
        ModelEntry(
            f"conv-{depth}",
            f"{depth} 3x3 convolutions, then 256-256 linear, without BatchNorm (Frankle & Carbin 2019)",
            "disbud.models.convnets:conv",
            _COMMON,
            fixed={"depth": depth},
            smallest=2 ** (depth // 2),
        )
        for depth in (2, 4, 6)
    ]
    vggs = [
        ModelEntry(
            f"vgg{depth}{'-bn' if norm else ''}",
            f"VGG-{depth} {'with' if norm else 'without'} BatchNorm, CIFAR form: {depth - 3} convolutions, "
            "global average pooling, one linear layer (Simonyan & Zisserman 2015)",
            "disbud.models.vgg:vgg",
            _COMMON,
            fixed={"depth": depth, "batch_norm": norm},
            smallest=16,
        )
        for depth in (11, 13, 16, 19)
        for norm in (False, True)
    ]
    return [lenet, *frankle, *vggs]


def _residual() -> list[ModelEntry]:
    stable: dict[str, Value] = {"stable": False}
    note = {32: "; width=2 is the net of Su et al. 2020"}
    cifar = [
        ModelEntry(
            f"resnet{depth}",
            f"ResNet-{depth} for CIFAR, widths 16/32/64, 1x1 shortcuts (He et al. 2016){note.get(depth, '')}",
            "disbud.models.resnet:cifar_resnet",
            {"shortcut": "conv", **_COMMON, **stable},
            fixed={"depth": depth},
        )
        for depth in (20, 32, 44, 56, 110)
    ]
    imagenet = [
        ModelEntry(
            f"resnet{depth}",
            f"ResNet-{depth}, widths 64 to 512, stem cifar, tiny (64 pixels) or imagenet (He et al. 2016)",
            "disbud.models.resnet:imagenet_resnet",
            {"stem": "cifar", **_COMMON, **stable},
            fixed={"depth": depth},
        )
        for depth in (18, 34, 50)
    ]
    function = "disbud.models.wideresnet:wideresnet"
    wide = [
        ModelEntry(
            "wideresnet",
            "Wide ResNet of any depth 6n + 4 and widening factor (Zagoruyko & Komodakis 2016)",
            function,
            {"depth": 28, "factor": 10, **_COMMON, **stable},
        ),
        *(
            ModelEntry(
                f"wrn-{depth}-{factor}",
                f"Wide ResNet, {depth} layers, {factor} times the width (Zagoruyko & Komodakis 2016)",
                function,
                {**_COMMON, **stable},
                fixed={"depth": depth, "factor": factor},
            )
            for depth, factor in ((16, 8), (28, 10))
        ),
    ]
    return [*cifar, *imagenet, *wide]


CATALOGUE: dict[str, ModelEntry] = {
    entry.name: entry for entry in [*_dense(), *_convolutional(), *_residual()]
}
