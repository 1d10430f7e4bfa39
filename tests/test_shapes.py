"""`shapes`: the same pixels everywhere, drawn in whole numbers, each image on its own, and hard enough."""

from __future__ import annotations

import ast
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy._core import _multiarray_umath as numpy_core
from scipy.ndimage import distance_transform_edt

import disbud.data
from disbud.data import counter, drawing, outlines
from disbud.data.catalogue import CATALOGUE
from disbud.data.counter import Stream, mix
from disbud.data.drawing import Canvas, draw
from disbud.data.outlines import COSINE, OUTLINES, SINE, SINE_BITS, TURN, UNIT
from disbud.errors import DisbudError

torch.set_num_threads(1)

# Whoever changes a pixel changes these, and raises the revision of the entry `shapes`.
FINGERPRINTS = {
    "shapes:train=100,test=50": ("830623cd755f1409556cb7519aad63935f4491102e52cf6da4c808e5b8693928"),
    "shapes:size=16,train=100,test=50,classes=16": (
        "092daf0aa5a1fd2f93b3e40258227e23a6981c5cd95c71abb675f7d3a113ca29"
    ),
    "shapes:size=8,channels=1,train=64,test=64": (
        "6c74b72a7e86d422cddcd7daaf9fab2aff33b8e002a22f01a689d24c6845d446"
    ),
    "shapes:size=64,train=40,test=20,difficulty=1": (
        "885647cbb0b9bfff51a199e71855982475619e05cda00b15da73c391df25d686"
    ),
    "shapes:size=27,train=40,test=20,difficulty=0": (
        "10a79e903a713cc0131c5e66e0bd2ce23ce7f52cf112edbb584783e81f425995"
    ),
}


def test_the_pixels_are_the_committed_ones() -> None:
    assert CATALOGUE["shapes"].revision == 1
    assert {spec: disbud.data.load(spec).fingerprint for spec in FINGERPRINTS} == FINGERPRINTS


def test_the_pixels_are_the_same_without_vector_instructions() -> None:
    used = [name for name in numpy_core.__cpu_dispatch__ if numpy_core.__cpu_features__[name]]
    code = (
        "import json, sys, disbud.data; from numpy._core._multiarray_umath import __cpu_features__ as on\n"
        f"print(json.dumps([[disbud.data.load(s).fingerprint for s in {list(FINGERPRINTS)}],"
        f" [name for name in {used} if on[name]]]))"
    )
    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(used)}
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    prints, still_on = json.loads(output)
    assert still_on == []
    assert prints == list(FINGERPRINTS.values())


@pytest.mark.parametrize("module", [counter, outlines, drawing])
def test_no_floating_point_is_in_the_code_that_draws(module: object) -> None:
    tree = ast.parse(Path(str(getattr(module, "__file__", ""))).read_text())
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Div)
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float))
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        assert "float" not in name
        assert name not in {"sqrt", "sin", "cos", "mean", "hypot", "divide", "true_divide", "random"}


def test_every_array_that_is_drawn_with_is_of_whole_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()

    def watch(frame: object, event: str, _: object) -> object:
        if "disbud/data" in frame.f_code.co_filename:  # type: ignore[attr-defined]
            values = frame.f_locals.values()  # type: ignore[attr-defined]
            seen.update(value.dtype.kind for value in values if isinstance(value, np.ndarray))
        return watch

    sys.settrace(watch)  # type: ignore[arg-type]
    try:
        draw(1, np.arange(32), np.arange(32) % len(OUTLINES), Canvas(16, 3, 50))
    finally:
        sys.settrace(None)
    assert seen == {"i", "u", "b"}


# the stream


def test_the_stream_is_splitmix64() -> None:
    # the first outputs of SplitMix64 from state 1234567, as published with its reference implementation
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    state = 1234567 + np.arange(1, 5, dtype=np.uint64) * counter._GAMMA
    assert mix(state).tolist() == published


def test_the_stream_gives_the_same_words_however_they_are_asked_for() -> None:
    images = np.array([0, 1, 5, 10**9])
    words = Stream(3, images).words(24)
    assert len(np.unique(words)) == words.size
    step_by_step = Stream(3, images)
    assert np.array_equal(np.hstack([step_by_step.words(1) for _ in range(24)]), words)
    assert np.array_equal(Stream(3, images[2:3]).words(24), words[2:3])
    octets = Stream(3, images).octets(21)
    expected = [
        [(int(words[i, k // 8]) >> (8 * (k % 8))) & 255 for k in range(21)] for i in range(len(images))
    ]
    assert octets.tolist() == expected
    assert not np.any(Stream(4, images).words(24) == words)


def test_draws_cover_their_range_evenly() -> None:
    stream = Stream(0, np.arange(20000))
    for low, high in ((-3, 3), (0, 99), (5, 5)):
        values, counts = np.unique(stream.between(low, high), return_counts=True)
        assert values.tolist() == list(range(low, high + 1))
        expected = 20000 / len(values)
        assert np.abs(counts - expected).max() < 5 * math.sqrt(expected) + 1
    limits = stream.between(0, 10)
    drawn = stream.between(-limits, limits)
    assert np.all(np.abs(drawn) <= limits)
    assert np.array_equal(Stream(2, limits).several(3, 0, 9)[:, 0], Stream(2, limits).between(0, 9))


# the outlines


def test_the_sine_table_is_right_to_the_last_bit() -> None:
    exact = [math.sin(2 * math.pi * step / TURN) * 2**SINE_BITS for step in range(TURN)]
    assert np.abs(SINE - np.array(exact)).max() <= 0.5 + 1e-9
    exact = [math.cos(2 * math.pi * step / TURN) * 2**SINE_BITS for step in range(TURN)]
    assert np.abs(COSINE - np.array(exact)).max() <= 0.5 + 1e-9


def plane(reach: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    axis = np.arange(-reach, reach + 1, step, dtype=np.int32)
    return np.broadcast_to(axis, (len(axis),) * 2), np.broadcast_to(axis[:, None], (len(axis),) * 2)


@pytest.mark.parametrize("name", OUTLINES)
def test_an_outline_is_a_signed_distance_near_its_edge(name: str) -> None:
    step = 8
    distance = OUTLINES[name](*plane(1600, step))
    inside = distance < 0
    assert not inside[[0, -1]].any()
    assert not inside[:, [0, -1]].any()
    # to the middle of the nearest cell on the other side: half a step too far
    measured = np.where(inside, -distance_transform_edt(inside), distance_transform_edt(~inside)) * step
    measured -= np.sign(measured) * step / 2
    near = np.abs(distance) < 80
    off = np.abs(measured - distance)[near]
    assert np.median(off) < 16
    assert np.quantile(off, 0.9) < 64  # all but the corners; a pixel is 64 to 120 wide at 32 pixels


def test_outlines_fit_the_frame_and_differ_from_each_other_in_any_position() -> None:
    u, v = plane(1400, 20)
    sharpest = []
    for name, outline in OUTLINES.items():
        inside = outline(u, v) < 0
        assert np.hypot(u, v)[inside].max() < 1.4 * UNIT, name
        assert 0.1 < inside.sum() * 400 / UNIT**2 < 3.2, name
        sharpest.append(inside)
    turned = []
    for step in range(0, TURN, TURN // 32):
        c, s = SINE[(step + TURN // 4) % TURN], SINE[step]
        frame = (
            ((u * c + v * s) >> SINE_BITS).astype(np.int32),
            ((v * c - u * s) >> SINE_BITS).astype(np.int32),
        )
        turned.append([outline(*frame) < 0 for outline in OUTLINES.values()])
    for (i, one), (j, other) in itertools.combinations(enumerate(sharpest), 2):
        shared = max((one & turn[j]).sum() / (one | turn[j]).sum() for turn in turned)
        assert shared < 0.9, (list(OUTLINES)[i], list(OUTLINES)[j], other.sum())


def test_32_bits_hold_every_distance() -> None:
    u, v = plane(7000, 100)
    for name, outline in OUTLINES.items():
        wide = outline(u.astype(np.int64), v.astype(np.int64))
        assert np.array_equal(outline(u, v), wide), name
        assert np.abs(wide).max() * (128 * drawing.PIXEL * 42 // 100) < 2**31, name


# the images


def test_an_image_does_not_depend_on_how_many_are_asked_for() -> None:
    few, many = (
        disbud.data.load("shapes:size=16,train=35,test=10"),
        disbud.data.load("shapes:size=16,train=90"),
    )
    assert torch.equal(few.train.images, many.train.images[:35])
    assert torch.equal(few.train.labels, many.train.labels[:35])
    assert torch.equal(few.test.images, many.test.images[:10])
    kinds = np.arange(200) % 10
    canvas = Canvas(16, 3, 50)
    chosen = np.array([150, 3, 77])
    assert np.array_equal(
        draw(9, chosen, kinds[chosen], canvas), draw(9, np.arange(200), kinds, canvas)[chosen]
    )


def test_the_seed_the_split_and_the_settings_decide_the_pixels() -> None:
    base = disbud.data.load("shapes:size=16,train=50,test=50")
    assert disbud.data.load("shapes:size=16,train=50,test=50").fingerprint == base.fingerprint
    others = [
        disbud.data.load("shapes:size=16,train=50,test=50", seed=1).train.images,
        disbud.data.load("shapes:size=16,train=50,test=50,difficulty=0.49").train.images,
        base.test.images,
    ]
    for other in others:
        assert int((other != base.train.images).flatten(1).any(dim=1).sum()) == 50
    assert (
        len({image.numpy().tobytes() for split in (base.train, base.test) for image in split.images}) == 100
    )
    assert not torch.equal(base.train.labels, base.test.labels)


def test_every_run_of_images_shows_each_class_once() -> None:
    labels = disbud.data.load("shapes:size=8,classes=7,train=700,test=10").train.labels.reshape(-1, 7)
    assert torch.equal(labels.sort(dim=1).values, torch.arange(7).expand(100, 7))
    assert len({tuple(run.tolist()) for run in labels}) > 90
    assert torch.bincount(labels[:, 0], minlength=7).min() > 4


def test_difficulty_takes_contrast_away_and_puts_grain_in() -> None:
    kinds = np.zeros(600, dtype=np.int64)  # discs: their middle is inside, the corners of the image are not
    grain, contrast = [], []
    for hundredths in (0, 50, 100):
        pixels = draw(3, np.arange(600), kinds, Canvas(32, 3, hundredths)).astype(int)
        grain.append(float(np.abs(np.diff(pixels, axis=3)).mean()))
        middle, corner = pixels[..., 14:18, 14:18].mean(axis=(2, 3)), pixels[..., :4, :4].mean(axis=(2, 3))
        contrast.append(float(np.abs(middle - corner).max(axis=1).mean()))
    assert grain == sorted(grain)
    assert grain[1] > 2 * grain[0]
    assert contrast == sorted(contrast, reverse=True)


def test_the_plain_images_show_what_their_labels_say() -> None:
    plain = disbud.data.load("shapes:size=24,train=320,test=320,difficulty=0,classes=16")
    assert plain.class_names == tuple(OUTLINES)
    agreement = torch.zeros(16)
    for image, label in zip(plain.train.images.long(), plain.train.labels.tolist(), strict=True):
        border = torch.cat([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], dim=1)
        shown = (image - border.median(dim=1).values[:, None, None]).abs().amax(dim=0) > 35
        agreement[label] += float(_best_overlap(shown.numpy(), label) > 0.6) / 20
    assert float(agreement.min()) > 0.7


def _best_overlap(shown: np.ndarray, label: int) -> float:
    """The largest share that a drawn patch has with its outline, laid on its centre of mass and turned."""
    rows, columns = np.nonzero(shown)
    if not len(rows):
        return 0.0
    radius = math.sqrt(len(rows) / _area(label))
    best = 0.0
    base = _centre(label)
    for tilt in range(-60, 61, 20):
        c, s = math.cos(tilt * math.tau / TURN), math.sin(tilt * math.tau / TURN)
        y, x = np.mgrid[:24, :24].astype(float)
        x, y = (x - columns.mean()) / radius * UNIT, (y - rows.mean()) / radius * UNIT
        u, v = (c * x + s * y + base[0]).astype(np.int32), (c * y - s * x + base[1]).astype(np.int32)
        inside = list(OUTLINES.values())[label](u, v) < 0
        best = max(best, (inside & shown).sum() / (inside | shown).sum())
    return best


def _area(label: int) -> float:
    u, v = plane(1400, 20)
    return float((list(OUTLINES.values())[label](u, v) < 0).sum()) * 400 / UNIT**2


def _centre(label: int) -> tuple[float, float]:
    u, v = plane(1400, 20)
    inside = list(OUTLINES.values())[label](u, v) < 0
    return float(u[inside].mean()), float(v[inside].mean())


def test_no_linear_classifier_can_read_them() -> None:
    dataset = disbud.data.load("shapes:size=16,train=4000,test=1000")
    x, y = (dataset.normalise(split.images).flatten(1).double() for split in (dataset.train, dataset.test))
    targets = torch.nn.functional.one_hot(dataset.train.labels).double() - 0.1
    weights = torch.linalg.solve(x.T @ x + 1000 * torch.eye(x.shape[1], dtype=torch.float64), x.T @ targets)
    accuracy = ((y @ weights).argmax(dim=1) == dataset.test.labels).double().mean()
    assert 0.08 < float(accuracy) < 0.3


@pytest.mark.parametrize("size", [8, 9, 16, 33, 128])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_is_drawn_with_all_of_its_range(size: int, channels: int) -> None:
    dataset = disbud.data.load(f"shapes:size={size},channels={channels},train=32,test=16,classes=16")
    images = dataset.train.images
    assert images.shape == (32, channels, size, size)
    assert dataset.train.images.float().std(dim=(1, 2, 3)).min() > 4
    assert 90 < images.float().mean() < 165
    assert int(images.max()) - int(images.min()) > 150


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("size=7", "size=7: size is a whole number from 8 to 128"),
        ("size=16.0", r"size=16\.0"),
        ("size=129", "from 8 to 128"),
        ("channels=2", "channels is 1"),
        ("classes=17", "classes is a whole number from 2 to 16"),
        ("classes=1", "from 2 to 16"),
        ("train=9", "train is a whole number from 10"),
        ("test=true", "test=True"),
        ("difficulty=1.5", r"difficulty=1\.5: difficulty is a number from 0"),
        ("difficulty=hard", "difficulty='hard'"),
        ("dificulty=0.5", "did you mean 'difficulty'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: str, message: str) -> None:
    with pytest.raises(DisbudError, match=message):
        disbud.data.load(f"shapes:{settings}")
