"""Folders of image files: what is read, how it is cut, and what is said of a file that is amiss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import disbud.data.decode
from disbud.data import load
from disbud.errors import DisbudError

torch.set_num_threads(1)


def pixels(seed: int, height: int = 12, width: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def fill(root: Path, *, count: int = 5, classes: tuple[str, ...] = ("cat", "dog"), seed: int = 0) -> None:
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for at in range(count):
            Image.fromarray(pixels(seed + 100 * label + at)).save(root / name / f"{at}.png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    fill(tmp_path / "photos")
    return tmp_path / "photos"


def test_images_of_a_folder_come_as_they_are(photos: Path, tmp_path: Path) -> None:
    dataset = load(f"folder:{photos},size=12", cache=tmp_path / "cache")
    assert dataset.class_names == ("cat", "dog")
    assert (len(dataset.train), len(dataset.test)) == (8, 2)
    every = {
        (label, at): pixels(100 * label + at).transpose(2, 0, 1) for label in range(2) for at in range(5)
    }
    for split in (dataset.train, dataset.test):
        for image, label in zip(split.images, split.labels.tolist(), strict=True):
            matches = [key for key, value in every.items() if np.array_equal(image.numpy(), value)]
            assert [key[0] for key in matches] == [label]
            del every[matches[0]]
    assert not every
    other = load(f"folder:{photos},size=12", seed=1, cache=tmp_path / "cache")
    assert other.fingerprint != dataset.fingerprint
    assert len(list((tmp_path / "cache").glob("*.lock"))) == 1  # the split is drawn from one decoded entry


@pytest.mark.parametrize("test", ["test", "val"])
def test_a_test_folder_is_the_test_set(tmp_path: Path, test: str) -> None:
    fill(tmp_path / "photos" / "train", count=3)
    fill(tmp_path / "photos" / test, count=2, seed=50)
    (tmp_path / "photos" / "train" / ".hidden").mkdir()
    (tmp_path / "photos" / "train" / "cat" / "notes.txt").write_text("no image")
    dataset = load(f"folder:{tmp_path / 'photos'},size=12", cache=tmp_path / "cache")
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.test.labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(dataset.test.images[1].numpy(), pixels(51).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("train", "test"), [("Train", "Test"), ("TRAINING", "testing"), ("training", "Valid"), ("train", "VAL")]
)
def test_the_folders_of_the_splits_may_be_called_as_is_usual(tmp_path: Path, train: str, test: str) -> None:
    fill(tmp_path / "photos" / train, count=3)
    fill(tmp_path / "photos" / test, count=2, seed=50)
    dataset = load(f"folder:{tmp_path / 'photos'},size=12", cache=tmp_path / "cache")
    assert dataset.class_names == ("cat", "dog")
    assert (len(dataset.train), len(dataset.test)) == (6, 4)


def test_the_test_images_are_taken_before_those_for_validation(tmp_path: Path) -> None:
    for at, name in enumerate(("Val", "train", "Test")):
        fill(tmp_path / "photos" / name, count=at + 1)
    dataset = load(f"folder:{tmp_path / 'photos'},size=12", cache=tmp_path / "cache")
    assert (len(dataset.train), len(dataset.test)) == (4, 6)


def test_a_class_may_have_the_name_of_a_split(tmp_path: Path) -> None:
    fill(tmp_path / "photos", classes=("Train", "car", "plane"))
    dataset = load(f"folder:{tmp_path / 'photos'},size=12", cache=tmp_path / "cache")
    assert dataset.class_names == ("Train", "car", "plane")


@pytest.mark.parametrize("names", [("Test", "validation"), ("test", "train")])
def test_splits_are_not_taken_for_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Without a training split, or with images that lie in it under no class."""
    fill(tmp_path / "photos", classes=names)
    with pytest.raises(DisbudError, match=f"{names[0]} and {names[1]} are names of splits, .*train/CLASS"):
        load(f"folder:{tmp_path / 'photos'},size=12", cache=tmp_path / "cache")


def test_two_folders_that_could_be_the_training_split_are_refused(tmp_path: Path) -> None:
    for name in ("train", "training"):
        fill(tmp_path / "photos" / name)
    with pytest.raises(DisbudError, match="train and training could both be the training split"):
        load(f"folder:{tmp_path / 'photos'},size=12", cache=tmp_path / "cache")


def test_images_are_decoded_once_and_again_when_a_file_changes(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, cache = f"folder:{photos},size=12", tmp_path / "cache"
    first = load(spec, cache=cache)
    with monkeypatch.context() as patch:
        patch.setattr(disbud.data.decode, "decode", None)
        patch.setattr("disbud.data.folder.decode", None)
        assert load(spec, cache=cache).fingerprint == first.fingerprint
        with pytest.raises(TypeError, match="not callable"):
            load(f"{spec},channels=1", cache=cache)
    Image.fromarray(pixels(999)).save(photos / "cat" / "0.png")
    assert load(spec, cache=cache).fingerprint != first.fingerprint


def test_a_damaged_entry_is_decoded_again_and_a_caller_cannot_damage_it(photos: Path, tmp_path: Path) -> None:
    spec, cache = f"folder:{photos},size=12", tmp_path / "cache"
    first = load(spec, cache=cache)
    [stored] = cache.rglob("train-images.npy")
    content = stored.read_bytes()
    memory = np.load(stored, mmap_mode="r+")
    memory[0, 0, 0, 0] ^= 255
    memory.flush()
    assert stored.read_bytes() != content
    assert load(spec, cache=cache).fingerprint == first.fingerprint
    assert stored.read_bytes() == content


def test_opened_images_are_mapped_and_private(tmp_path: Path) -> None:
    fill(tmp_path / "photos" / "train")
    fill(tmp_path / "photos" / "test")
    spec, cache = f"folder:{tmp_path / 'photos'},size=12", tmp_path / "cache"
    dataset = load(spec, cache=cache)
    fingerprint = dataset.fingerprint
    assert str(next(cache.rglob("train-images.npy"))) in Path("/proc/self/maps").read_text()
    stored = {path: path.read_bytes() for path in cache.rglob("*.npy")}
    dataset.train.images.zero_()
    assert {path: path.read_bytes() for path in cache.rglob("*.npy")} == stored
    assert load(spec, cache=cache).fingerprint == fingerprint


def test_other_sizes_are_cut_square_from_the_middle_and_resized(tmp_path: Path) -> None:
    for at, name in enumerate(("one", "two")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for copy in range(2):
            wide = np.zeros((20, 60, 3), dtype=np.uint8)
            wide[:, 20:40] = (200, 100 * at, 50)  # only the middle is coloured
            Image.fromarray(wide).save(tmp_path / "photos" / name / f"{copy}.png")
    dataset = load(f"folder:{tmp_path / 'photos'},size=10", cache=tmp_path / "cache")
    assert dataset.input_shape == (3, 10, 10)
    for image, label in zip(dataset.train.images, dataset.train.labels.tolist(), strict=True):
        colour = torch.tensor([200, 100 * label, 50], dtype=torch.uint8)[:, None, None]
        assert torch.equal(
            image[:, :, 1:-1], colour.expand(3, 10, 8)
        )  # the outermost columns blend into the rest
    grey = load(f"folder:{tmp_path / 'photos'},size=10,channels=1", cache=tmp_path / "cache")
    assert grey.input_shape == (1, 10, 10)
    assert grey.train.images[0, :, :, 1:-1].unique().tolist() == [65]  # .299 red + .114 blue, cut off


def test_images_of_every_mode_become_colour_or_grey_and_stand_upright(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    fill(root, count=1)
    image = Image.fromarray(pixels(7))
    image.convert("P").save(root / "cat" / "palette.png")
    image.convert("RGBA").save(root / "cat" / "alpha.png")
    image.convert("L").save(root / "cat" / "grey.png")
    image.convert("CMYK").save(root / "cat" / "print.jpg")
    image.convert("1").save(root / "cat" / "bits.png")
    turned = np.zeros((12, 12, 3), dtype=np.uint8)
    turned[:6] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(turned).save(root / "dog" / "1.png", exif=exif)
    for channels in (1, 3):
        dataset = load(
            f"folder:{root},size=12,channels={channels},test_fraction=0.01", cache=tmp_path / "cache"
        )
        assert dataset.input_shape == (channels, 12, 12)
    images = torch.cat([dataset.train.images, dataset.test.images])
    flipped = torch.from_numpy(turned[::-1].copy()).permute(2, 0, 1)
    assert any(torch.equal(image, flipped) for image in images)


def broken_png(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def no_image(path: Path) -> None:
    path.write_bytes(b"\x80\x04\x95 not an image")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def deep(path: Path) -> None:
    Image.fromarray(np.full((12, 12), 40000, dtype=np.uint16)).save(path)


@pytest.mark.parametrize("spoil", [broken_png, no_image, empty, deep])
def test_an_image_that_cannot_be_read_is_named(photos: Path, tmp_path: Path, spoil: object) -> None:
    bad = photos / "dog" / "3.png"
    assert callable(spoil)
    spoil(bad)
    with pytest.raises(DisbudError, match=f"{bad} is no image that can be read"):
        load(f"folder:{photos},size=12", cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.npy"))
    Image.fromarray(pixels(3)).save(bad)
    assert load(f"folder:{photos},size=12", cache=tmp_path / "cache").classes == 2


def test_folders_that_make_no_data_set_are_refused(tmp_path: Path) -> None:
    root, cache = tmp_path / "photos", tmp_path / "cache"
    root.mkdir()
    with pytest.raises(DisbudError, match="holds no class folders"):
        load(f"folder:{root}", cache=cache)
    fill(root, classes=("cat",))
    with pytest.raises(DisbudError, match="is the only class"):
        load(f"folder:{root}", cache=cache)
    (root / "dog").mkdir()
    with pytest.raises(DisbudError, match=r"class folder .*dog holds no image"):
        load(f"folder:{root}", cache=cache)
    fill(tmp_path / "split" / "train")
    fill(tmp_path / "split" / "test", classes=("cat", "horse"))
    with pytest.raises(DisbudError, match="no training image is of class 'horse'"):
        load(f"folder:{tmp_path / 'split'}", cache=cache)
    with pytest.raises(DisbudError, match="size is a whole number from 8"):
        load(f"folder:{root},size=4", cache=cache)


def test_without_pillow_the_error_says_what_to_install(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(DisbudError, match="pip install pillow"):
        load(f"folder:{photos}", cache=tmp_path / "cache")
