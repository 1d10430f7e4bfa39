"""Data sets as values: splits, moments, fingerprints, batches, augmentation, and a user's own tensors."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from disbud.data import CATALOGUE, POLICIES, Dataset, Split, augment, from_tensors, load
from disbud.errors import DisbudError

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


def images_and_labels(count: int = 60, classes: int = 4) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (count, 3, 8, 8), generator=draws, dtype=torch.uint8)
    return images, torch.arange(count) % classes


# digits


def test_digits_are_those_of_scikit_learn(digits: Dataset) -> None:
    from sklearn.datasets import load_digits

    theirs = load_digits()
    images = torch.cat([digits.train.images, digits.test.images])
    labels = torch.cat([digits.train.labels, digits.test.labels])
    assert len(images) == len(theirs.images) == 1797
    levels = (images.double() * 16 / 255).round().long()  # the 17 levels come back
    ours = {(*image.flatten().tolist(), label) for image, label in zip(levels, labels.tolist(), strict=True)}
    assert ours == {
        (*image.astype(int).ravel().tolist(), label)
        for image, label in zip(theirs.images, theirs.target.tolist(), strict=True)
    }
    assert int(images.min()) == 0
    assert int(images.max()) == 255


def test_the_split_of_digits_is_stratified_and_drawn_from_the_seed(digits: Dataset) -> None:
    every = torch.bincount(digits.train.labels) + torch.bincount(digits.test.labels)
    wanted = (every * 0.2 + 0.5).floor().long()
    assert torch.equal(torch.bincount(digits.test.labels), wanted)
    assert load("digits").fingerprint == digits.fingerprint
    assert load("digits", seed=1).fingerprint != digits.fingerprint
    assert len(load("digits:test_fraction=0.5").test) == pytest.approx(1797 / 2, abs=5)


# the value


def test_mean_and_standard_deviation_are_those_of_the_training_images() -> None:
    images, labels = images_and_labels(700)
    images[:, 2] = 17
    dataset = from_tensors(images, labels)
    scaled = dataset.train.images.double() / 255
    assert dataset.mean == pytest.approx(scaled.mean(dim=(0, 2, 3)).tolist(), rel=1e-12)
    assert dataset.std[:2] == pytest.approx(scaled.std(dim=(0, 2, 3), correction=0)[:2].tolist(), rel=1e-9)
    assert dataset.std[2] == 1  # constant: there is nothing to divide by
    normal = dataset.normalise(dataset.train.images)
    assert normal.dtype == torch.float32
    assert torch.allclose(normal.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(normal.std(dim=(0, 2, 3))[:2], torch.ones(2), atol=1e-3)
    assert dataset.input_shape == (3, 8, 8)
    assert dataset.example().shape == (1, 3, 8, 8)


def test_the_fingerprint_is_that_of_the_content() -> None:
    images, labels = images_and_labels()
    reference = from_tensors(images, labels, test_images=images, test_labels=labels)
    prints = {reference.fingerprint}
    for where in range(4):
        parts = [images.clone(), labels.clone(), images.clone(), labels.clone()]
        parts[where].view(-1)[7] = 1 - int(parts[where].view(-1)[7] == 1)
        changed = from_tensors(parts[0], parts[1], test_images=parts[2], test_labels=parts[3])
        prints.add(changed.fingerprint)
    swapped = images.reshape(60, 3, 4, 16)
    prints.add(from_tensors(swapped, labels, test_images=swapped, test_labels=labels).fingerprint)
    assert len(prints) == 6
    strided = images.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
    same = from_tensors(strided, labels.int(), test_images=images, test_labels=labels, name="another name")
    assert same.fingerprint == reference.fingerprint
    assert same.to("cpu").fingerprint == reference.fingerprint


def test_validation_is_a_stratified_part_of_the_training_images(digits: Dataset) -> None:
    held = digits.validation(0.25, seed=3)
    assert held.classes == digits.classes
    found = sorted(image.numpy().tobytes() for part in (held.train, held.test) for image in part.images)
    assert found == sorted(image.numpy().tobytes() for image in digits.train.images)
    wanted = (torch.bincount(digits.train.labels) * 0.25 + 0.5).floor().long()
    assert torch.equal(torch.bincount(held.test.labels), wanted)
    assert digits.validation(0.25, seed=3).fingerprint == held.fingerprint
    assert digits.validation(0.25, seed=4).fingerprint != held.fingerprint
    assert held.mean != digits.mean  # what is held out has no part in the normalisation
    with pytest.raises(DisbudError, match="between 0 and 1"):
        digits.validation(1.0)


def test_a_class_of_one_stays_in_training_and_no_class_is_emptied() -> None:
    images, _ = images_and_labels(7)
    labels = torch.tensor([0, 1, 1, 2, 2, 2, 2])
    held = from_tensors(images, labels, test_images=images, test_labels=labels).validation(0.9)
    assert torch.bincount(held.train.labels).tolist() == [1, 1, 1]
    assert torch.bincount(held.test.labels, minlength=3).tolist() == [0, 1, 3]
    alone = from_tensors(images[:2], labels[:2], test_images=images, test_labels=labels % 2)
    with pytest.raises(DisbudError, match="two of a class"):
        alone.validation()


def test_it_prints_what_a_person_wants_to_know(digits: Dataset) -> None:
    assert str(digits) == (
        "digits: 10 classes, 1,438 training and 359 test images of 1x8x8, "
        f"fingerprint {digits.fingerprint[:12]}"
    )


def test_a_split_refuses_what_is_no_images_and_labels() -> None:
    images, labels = images_and_labels()
    with pytest.raises(DisbudError, match="uint8"):
        Split(images.float(), labels)
    with pytest.raises(DisbudError, match="at least one"):
        Split(images[:0], labels[:0])
    with pytest.raises(DisbudError, match="one for each of 60 images"):
        Split(images, labels[:-1])
    with pytest.raises(DisbudError, match="int64"):
        Split(images, labels.int())


# batches


def test_batches_come_again_in_the_same_order_that_the_seed_decides(digits: Dataset) -> None:
    batches = digits.batches(100, seed=1)
    first, again = list(batches), list(batches)
    assert len(batches) == len(first) == 15
    assert [len(labels) for _, labels in first] == [100] * 14 + [38]
    for (x, y), (x2, y2) in zip(first, again, strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)
    labels = torch.cat([y for _, y in first])
    other = torch.cat([y for _, y in digits.batches(100, seed=2)])
    assert not torch.equal(labels, other)
    assert torch.equal(labels.sort().values, digits.train.labels.sort().values)
    shown = torch.cat([x for x, _ in first]).sum(dim=(1, 2, 3)).sort().values
    assert torch.allclose(shown, digits.normalise(digits.train.images).sum(dim=(1, 2, 3)).sort().values)


def test_unshuffled_batches_keep_the_order_of_the_split(digits: Dataset) -> None:
    batches = list(digits.batches(50, split="test", shuffle=False))
    assert torch.equal(torch.cat([y for _, y in batches]), digits.test.labels)
    assert torch.equal(torch.cat([x for x, _ in batches]), digits.normalise(digits.test.images))


def test_batches_refuse_what_makes_no_sense(digits: Dataset) -> None:
    with pytest.raises(DisbudError, match="did you mean 'train'"):
        digits.batches(split="trian")  # type: ignore[arg-type]
    with pytest.raises(DisbudError, match="at least 1"):
        digits.batches(0)


def test_the_global_generators_are_left_alone(digits: Dataset) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    before = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())
    load("digits", seed=3).validation()
    load("shapes:size=8,train=20,test=20")
    images, _ = next(iter(digits.batches()))
    augment(images, "crop-flip", generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]


# augmentation


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_flip_mirrors_about_half_of_the_images_and_alters_no_other() -> None:
    images, _ = images_and_labels(200)
    moved = augment(images, "flip", generator=draws())
    same = (moved == images).flatten(1).all(dim=1)
    mirrored = (moved == images.flip(-1)).flatten(1).all(dim=1)
    assert bool((same ^ mirrored).all())
    assert 70 < int(mirrored.sum()) < 130
    assert augment(images, "none", generator=draws()) is images


@pytest.mark.parametrize("padding", [1, 2, 3])
def test_a_crop_is_a_window_of_the_image_among_zeros(padding: int) -> None:
    images, _ = images_and_labels(300)
    images = images.clamp(min=1)
    moved = augment(images, "crop-flip", generator=draws(), padding=padding)
    seen = set()
    for image, result in zip(functional.pad(images, (padding,) * 4), moved, strict=True):
        windows = {
            (down, across, flipped)
            for down in range(2 * padding + 1)
            for across in range(2 * padding + 1)
            for flipped in (False, True)
            if torch.equal(_window(image, down, across, flipped=flipped), result)
        }
        assert len(windows) == 1
        seen |= windows
    assert len(seen) > 0.8 * 2 * (2 * padding + 1) ** 2  # every place is drawn, both ways round


def _window(image: Tensor, down: int, across: int, *, flipped: bool) -> Tensor:
    window = image[:, down : down + 8, across : across + 8]
    return window.flip(-1) if flipped else window


def test_augmentation_is_the_generators_and_the_same_for_bytes_and_floats() -> None:
    images, _ = images_and_labels()
    moved = augment(images, "crop-flip", generator=draws(3))
    assert torch.equal(moved, augment(images, "crop-flip", generator=draws(3)))
    assert not torch.equal(moved, augment(images, "crop-flip", generator=draws(4)))
    assert torch.equal(augment(images.float(), "crop-flip", generator=draws(3)), moved.float())
    assert torch.equal(augment(images, "crop-flip", generator=draws(3), padding=1), moved)  # an eighth of 8
    assert moved.dtype == torch.uint8
    still = augment(images, "crop-flip", generator=draws(3), padding=0)
    assert torch.equal(still.sort(dim=-1).values, images.sort(dim=-1).values)


def test_augmentation_refuses_what_it_cannot_do() -> None:
    images, _ = images_and_labels()
    assert POLICIES == ("none", "flip", "crop-flip")
    with pytest.raises(DisbudError, match="did you mean 'crop-flip'"):
        augment(images, "crop_flip", generator=draws())
    with pytest.raises(DisbudError, match="N, C, H, W"):
        augment(images[0], "flip", generator=draws())
    with pytest.raises(DisbudError, match="padding=-1"):
        augment(images, "crop-flip", generator=draws(), padding=-1)


# a user's own tensors


def test_floats_from_0_to_1_become_bytes_and_arrays_are_tensors() -> None:
    images, labels = images_and_labels()
    whole = from_tensors(images, labels)
    assert from_tensors(images.float() / 255, labels).fingerprint == whole.fingerprint
    assert from_tensors(images.numpy(), labels.numpy().astype(np.int16)).fingerprint == whole.fingerprint
    assert from_tensors(images, labels, seed=1).fingerprint != whole.fingerprint
    named = from_tensors(images, labels, class_names=["a", "b", "c", "d"])
    assert named.class_names == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(60, 8, 8)}, r"N, C, H, W.*unsqueeze"),
        ({"images": torch.zeros(60, 32, 32, 3)}, "channels last"),
        ({"images": torch.zeros(0, 3, 8, 8)}, "at least one"),
        ({"images": torch.full((60, 3, 8, 8), 255.0)}, "divide by 255"),
        ({"images": torch.full((60, 3, 8, 8), -0.5)}, "undo their normalisation"),
        ({"images": torch.full((60, 3, 8, 8), torch.nan)}, "between 0 and 1, not nan"),
        ({"images": torch.zeros(60, 3, 8, 8, dtype=torch.int64)}, "uint8, or floating point"),
        ({"labels": torch.arange(59)}, "60 images and labels of"),
        ({"labels": torch.zeros(60)}, r"whole numbers.*long\(\)"),
        ({"labels": torch.zeros(60, dtype=torch.bool)}, "whole numbers"),
        ({"labels": torch.nn.functional.one_hot(torch.arange(60) % 4)}, r"argmax\(1\)"),
        ({"labels": torch.arange(60) % 4 - 1}, "-1 is among the labels"),
        ({"labels": (torch.arange(60) % 4) * 2}, "no training image is of class 1"),
        ({"labels": torch.arange(60) % 4 + 10**12}, "no training image is of class 0"),
        ({"labels": torch.full((60,), 3)}, "needs two classes"),
        ({"class_names": ["a", "b"]}, "3 is among the labels and there are 2 class names"),
        ({"class_names": list("abcde")}, "no training image is of class 4"),
        ({"test_images": torch.zeros(2, 3, 8, 8)}, "go together"),
        (
            {"test_images": torch.zeros(2, 1, 8, 8), "test_labels": torch.arange(2)},
            "3x8x8 and test images 1x8x8",
        ),
        ({"test_images": torch.zeros(2, 3, 8, 8), "test_labels": torch.tensor([0, 4])}, "from 0 to 4"),
        ({"test_fraction": 1}, "test_fraction=1"),
    ],
)
def test_tensors_that_are_amiss_are_refused(change: dict[str, object], message: str) -> None:
    images, labels = images_and_labels()
    with pytest.raises(DisbudError, match=message):
        from_tensors(**{"images": images, "labels": labels, "name": "mine", **change})  # type: ignore[arg-type]


# names


def test_the_catalogue_is_read_without_torch() -> None:
    code = "import sys, disbud.data as d; print(sorted(d.CATALOGUE), {'torch', 'numpy'} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.endswith(" set()\n")
    for name in CATALOGUE:
        assert repr(name) in output


def test_every_entry_has_a_function_and_a_summary() -> None:
    for name, entry in CATALOGUE.items():
        assert entry.name == name
        assert callable(entry.load())
        assert 20 < len(entry.summary) < 110


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digit", "no data set 'digit'; did you mean 'digits'"),
        ("cifar-10", "did you mean 'cifar10'"),
        ("foldr:./photos", "no data set 'foldr'; did you mean 'folder'"),
        ("digits:test_fracton=0.3", "called 'test_fracton'; did you mean 'test_fraction'"),
        ("digits:test_fraction=2", "test_fraction=2: test_fraction is a number between 0 and 1"),
        ("digits:big", "digits takes settings only"),
        ("folder", "names no folder"),
        ("folder:/nowhere/at/all", "there is no folder /nowhere/at/all"),
        ("hf", "names no data set"),
        ("cifar10:train=3", "train=3: train is a word"),
        ("cifar10:size=0", "size=0: size is a whole number from 8"),
        ("mnist:channels=2", r"channels is 1 \(grey\) or 3"),
        ("no_such_module_here:make", "names no function"),
    ],
)
def test_a_wrong_name_or_setting_is_answered_with_what_would_do(spec: str, message: str) -> None:
    with pytest.raises(DisbudError, match=message):
        load(spec)


OWN = """
import torch
import disbud.data

def pair(count=40, classes=4):
    return torch.zeros(count, 1, 8, 8), torch.arange(count) % classes

def four(seed):
    images = torch.full((8, 1, 8, 8), seed, dtype=torch.uint8)
    return images, torch.arange(8) % 2, images, torch.arange(8) % 2

def whole():
    return disbud.data.load("digits")

def neither():
    return [1, 2, 3]
"""


def test_a_function_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_data_sets.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    pair = load("own_data_sets:pair,count=20")
    assert (pair.name, len(pair.train), len(pair.test), pair.classes) == (
        "own_data_sets:pair,count=20",
        16,
        4,
        4,
    )
    assert int(load("own_data_sets:four", seed=7).train.images.max()) == 7
    assert int(load("own_data_sets:four,seed=9", seed=7).train.images.max()) == 9
    assert load("own_data_sets:whole").fingerprint == load("digits").fingerprint
    with pytest.raises(DisbudError, match="returned list; it should return"):
        load("own_data_sets:neither")
    with pytest.raises(DisbudError, match=r"pair\(count=40, classes=4\) cannot be called with .*'size'"):
        load("own_data_sets:pair,size=9")
