"""The data sets disbud knows by name, readable without importing torch."""

from __future__ import annotations

from collections.abc import Mapping

from disbud.catalogue import Entry, Value

_HUB: Mapping[str, Value] = {
    "train": "train",
    "test": "test",
    "image": None,
    "label": None,
    "size": None,
    "channels": 3,
    "config": None,
    "revision": None,
}


def _preset(name: str, summary: str, source: str, **settings: Value) -> Entry:
    return Entry(name, summary, "disbud.data.hub:preset", {"source": source, **_HUB, **settings})


_ENTRIES = (
    Entry(
        "digits",
        "1,797 handwritten digits of 8x8 pixels, bundled with scikit-learn; split by the seed",
        "disbud.data.digits:digits",
        {"test_fraction": 0.2},
    ),
    Entry(
        "shapes",
        "2 to 16 shapes drawn on textured noise among clutter; any number, the same on every machine",
        "disbud.data.shapes:shapes",
        {"size": 32, "channels": 3, "classes": 10, "train": 20000, "test": 10000, "difficulty": 0.5},
    ),
    Entry(
        "folder",
        "folder:PATH, images as PATH/CLASS/*.png or PATH/train/CLASS/*.png with PATH/test/CLASS/*.png",
        "disbud.data.folder:folder",
        {"size": 32, "channels": 3, "test_fraction": 0.2},
    ),
    Entry(
        "hf",
        "hf:ORG/NAME of the Hugging Face hub, or hf:./FOLDER of train-*.parquet and test-*.parquet",
        "disbud.data.hub:hub",
        _HUB,
    ),
    _preset(
        "cifar10",
        "60,000 photographs of 32x32 pixels in 10 classes (Krizhevsky 2009)",
        "uoft-cs/cifar10",
        image="img",
        label="label",
        size=32,
    ),
    _preset(
        "cifar100",
        "60,000 photographs of 32x32 pixels in 100 classes (Krizhevsky 2009)",
        "uoft-cs/cifar100",
        image="img",
        label="fine_label",
        size=32,
    ),
    _preset(
        "mnist",
        "70,000 handwritten digits of 28x28 pixels (LeCun 1998)",
        "ylecun/mnist",
        image="image",
        label="label",
        size=28,
        channels=1,
    ),
    _preset(
        "fashion-mnist",
        "70,000 garments of 28x28 pixels in 10 classes (Xiao 2017)",
        "zalando-datasets/fashion_mnist",
        image="image",
        label="label",
        size=28,
        channels=1,
    ),
    _preset(
        "tiny-imagenet",
        "110,000 photographs of 64x64 pixels in 200 classes (Le and Yang 2015)",
        "zh-plus/tiny-imagenet",
        test="valid",
        image="image",
        label="label",
        size=64,
    ),
)

CATALOGUE: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}
