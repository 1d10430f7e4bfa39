"""Small convolutional networks with linear layers behind them: LeNet-5, and Conv-2, -4 and -6."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from disbud.models.sizes import scaled


def lenet5(*, classes: int, input_shape: tuple[int, ...], width: float) -> nn.Sequential:
    """LeNet-5 as Caffe has it, the one SNIP calls LeNet-5-Caffe: 430,500 weights on 28x28."""
    n_in, height, wide = input_shape
    first, second, hidden = scaled(20, width), scaled(50, width), scaled(500, width)
    # An unpadded 5x5 convolution takes 4 off each side, the pooling halves it; twice.
    height, wide = (((side - 4) // 2 - 4) // 2 for side in (height, wide))
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(n_in, first, 5),
            act1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(first, second, 5),
            act2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(second * height * wide, hidden),
            act3=nn.ReLU(),
            fc2=nn.Linear(hidden, classes),
        )
    )


def conv(*, depth: int, classes: int, input_shape: tuple[int, ...], width: float) -> nn.Sequential:
    """Conv-2, -4 or -6 of Frankle & Carbin 2019, figure 2: pairs of 3x3 convolutions, pooled, then 256-256.

    On 32x32 they have 4.3, 2.4 and 2.3 million weights. The figure prints 1.7 for Conv-6, which its own
    layers (256 channels of 4x4 into 256 units) do not give.
    """
    n_in, height, wide = input_shape
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(1, depth + 1):
        n_out = scaled(64 * 2 ** ((i - 1) // 2), width)
        layers[f"conv{i}"] = nn.Conv2d(n_in, n_out, 3, padding=1)
        layers[f"act{i}"] = nn.ReLU()
        n_in = n_out
        if i % 2 == 0:
            layers[f"pool{i // 2}"] = nn.MaxPool2d(2)
            height, wide = height // 2, wide // 2
    layers["flatten"] = nn.Flatten()
    n_in, hidden = n_in * height * wide, scaled(256, width)
    for i in (1, 2):
        layers[f"fc{i}"] = nn.Linear(n_in, hidden)
        layers[f"act{depth + i}"] = nn.ReLU()
        n_in = hidden
    layers["fc3"] = nn.Linear(n_in, classes)
    return nn.Sequential(layers)
