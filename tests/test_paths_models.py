"""Effective paths of what published models are made of, against the explicit graph of path_oracle."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import disbud
from path_check import DENSITIES, at_random, check
from path_models import CUSTOM


def _after_first(*more: nn.Module) -> Callable[[], nn.Module]:
    """A convolution to 4 channels of 5 x 6, what is given, and a linear layer that reads all of what comes out."""

    def build() -> nn.Module:
        layers = nn.Sequential(nn.Conv2d(2, 4, (2, 1)), nn.ReLU(), *more, nn.Flatten())
        return layers.append(nn.Linear(layers(MAP).shape[1], 2))

    return build


def _thrice() -> nn.Module:
    shared = nn.Conv2d(3, 3, 3, padding=1)
    return nn.Sequential(shared, nn.ReLU(), nn.MaxPool2d(2), shared, nn.Flatten(2), nn.Linear(4, 2))


# torch warns that it copies the input where "same" padding is longer at one end.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
MAP = torch.zeros(1, 2, 6, 6)
SEQUENTIAL: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "max pool, padded": (_after_first(nn.MaxPool2d(3, 2, 1)), MAP),
    "max pool, ceil": (_after_first(nn.MaxPool2d(2, 2, ceil_mode=True)), MAP),
    "max pool, ceil and padded": (_after_first(nn.MaxPool2d(3, 3, 1, ceil_mode=True)), MAP),
    "max pool, last window left out": (_after_first(nn.MaxPool2d(2, 3, 1, ceil_mode=True)), MAP),
    "max pool, dilated": (_after_first(nn.MaxPool2d((2, 3), 1, dilation=(3, 2))), MAP),
    "average pool, padded": (_after_first(nn.AvgPool2d(3, 2, 1)), MAP),
    "average pool, ceil": (_after_first(nn.AvgPool2d((3, 2), 2, 1, ceil_mode=True)), MAP),
    "average pool, gaps": (_after_first(nn.AvgPool2d(1, 3)), MAP),
    "adaptive average pool": (_after_first(nn.AdaptiveAvgPool2d((3, 4))), MAP),
    "adaptive average pool, upwards": (_after_first(nn.AdaptiveAvgPool2d((7, None))), MAP),
    "adaptive max pool": (_after_first(nn.AdaptiveMaxPool2d((2, 4))), MAP),
    "one pixel": (_after_first(nn.MaxPool2d(5), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 1, 1)), MAP),
    "strided, taps unused": (_after_first(nn.Conv2d(4, 3, 3, 4, 2), nn.Tanh()), MAP),
    "same padding": (_after_first(nn.Conv2d(4, 3, (2, 4), padding="same", dilation=(1, 2))), MAP),
    "valid padding": (_after_first(nn.Conv2d(4, 3, 2, padding="valid")), MAP),
    "circular padding": (_after_first(nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular")), MAP),
    "reflected padding": (_after_first(nn.Conv2d(4, 3, 3, 2, (2, 1), padding_mode="reflect")), MAP),
    "repeated padding": (_after_first(nn.Conv2d(4, 3, 3, padding=1, padding_mode="replicate")), MAP),
    "depthwise separable": (
        _after_first(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1)), MAP),
    "depthwise, two outputs each": (_after_first(nn.Conv2d(4, 8, 3, padding=1, groups=4)), MAP),
    "channel shuffle": (_after_first(nn.Conv2d(4, 4, 1, groups=2), nn.ChannelShuffle(2), nn.Conv2d(4, 4, 1, groups=2)),
                        MAP),
    "pixel shuffle": (_after_first(nn.PixelShuffle(2), nn.Conv2d(1, 2, 3)), MAP),
    "upsampled": (_after_first(nn.MaxPool2d(3), nn.Upsample(scale_factor=3), nn.Conv2d(4, 3, 3, 2)), MAP),
    "zero padding": (_after_first(nn.ZeroPad2d((1, 0, 2, 3)), nn.Conv2d(4, 2, 3)), MAP),
    "transposed": (_after_first(nn.ConvTranspose2d(4, 3, 3, 2, 1, output_padding=1, dilation=2)), MAP),
    "transposed, grouped": (_after_first(nn.ConvTranspose2d(4, 6, (2, 3), (3, 1), (0, 1), groups=2)), MAP),
    "transposed, clipped": (_after_first(nn.ConvTranspose2d(4, 2, 3, 1, 2), nn.MaxPool2d(2)), MAP),
    "norms and activations": (
        _after_first(nn.GroupNorm(2, 4), nn.PReLU(), nn.Conv2d(4, 4, 2), nn.InstanceNorm2d(4), nn.LeakyReLU(),
                     nn.Conv2d(4, 3, 2), nn.BatchNorm2d(3), nn.Hardswish(), nn.Dropout2d()), MAP),
    "fully convolutional": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 1)), MAP),
    "global average at the end": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)), MAP),
    "one layer, three times": (_thrice, torch.zeros(1, 3, 4, 4)),
    "sigmoids": (
        lambda: nn.Sequential(nn.Linear(7, 6), nn.Sigmoid(), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Sigmoid(),
                              nn.Linear(5, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 3), nn.Softmax(1)),
        torch.zeros(1, 7)),
    "one dimension": (
        lambda: nn.Sequential(nn.Conv1d(2, 4, 3, groups=2), nn.MaxPool1d(3, 2, 1), nn.ConvTranspose1d(4, 3, 3, 2),
                              nn.AvgPool1d(2, ceil_mode=True), nn.AdaptiveMaxPool1d(3), nn.Flatten(), nn.Linear(9, 2)),
        torch.zeros(1, 2, 9)),
    "three dimensions": (
        lambda: nn.Sequential(nn.Conv3d(2, 3, (1, 2, 2), padding=(0, 1, 0)), nn.MaxPool3d((1, 2, 2)),
                              nn.ConvTranspose3d(3, 2, 2), nn.AvgPool3d(2), nn.Flatten(), nn.Linear(4, 2)),
        torch.zeros(1, 2, 3, 3, 3)),
}  # fmt: skip
MODELS = {**SEQUENTIAL, **CUSTOM}


@pytest.mark.parametrize("name", MODELS)
def test_random_tickets(name: str) -> None:
    factory, example = MODELS[name]
    model = factory()
    check(model, None, example)
    for density, seed in DENSITIES[1:]:
        check(model, at_random(model, density, seed), example)


@pytest.mark.parametrize("name", MODELS)
def test_an_empty_layer(name: str) -> None:
    factory, example = MODELS[name]
    model = factory()
    for empty in range(len(disbud.prunable(model))):
        check(model, at_random(model, 0.7, 3, empty=empty), example)
