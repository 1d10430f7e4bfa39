"""Interventions on the data: what they take away, what they leave, each against chance."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from torch import Tensor

import disbud
from disbud import DisbudError
from disbud.interventions import on_data

SIGMAS = 6
Batches = list[tuple[Tensor, Tensor]]


def examples(count: int = 600, classes: int = 6, size: int = 8) -> tuple[Tensor, Tensor]:
    """Images of three channels with different means, and class counts that differ."""
    stream = torch.Generator().manual_seed(0)
    y = (
        torch.rand(count, generator=stream).square() * classes
    ).long() * 2 + 3  # labels need not count from zero
    x = torch.randn(count, 3, size, size, generator=stream) * torch.tensor([1.0, 2, 0.5]).view(3, 1, 1)
    return x + torch.tensor([0.0, 5, -3]).view(3, 1, 1) + y.view(-1, 1, 1, 1) / 10, y


def changed(x: Tensor, y: Tensor, text: str, seed: int = 1) -> tuple[Tensor, Tensor]:
    return on_data([(x, y)], text, seed=seed)[0]


@pytest.mark.parametrize("text", ["random-labels", "labels-and-pixels"])
def test_permuted_labels_agree_by_chance_and_keep_the_class_counts(text: str) -> None:
    x, y = examples()
    new_x, new_y = changed(x, y, text)
    counts = torch.stack([(y == label).sum() for label in y.unique()]).double()
    assert torch.equal(new_y.sort().values, y.sort().values)
    mean = float((counts**2).sum() / len(y))
    # sum_i [y_i = y_order(i)] (Hoeffding 1951)
    same = (y[:, None] == y[None]).double()
    centred = same - same.mean(0) - same.mean(1, keepdim=True) + same.mean()
    deviation = math.sqrt(float((centred**2).sum()) / (len(y) - 1))
    assert abs(int((new_y == y).sum()) - mean) <= SIGMAS * deviation < len(y) - mean
    assert torch.equal(new_x, x) == (text == "random-labels")


@pytest.mark.parametrize("text", ["random-labels:labels=drawn", "labels-and-pixels:labels=drawn"])
def test_drawn_labels_agree_by_chance_and_are_uniform(text: str) -> None:
    x, y = examples()
    _, new_y = changed(x, y, text)
    classes = y.unique()
    assert torch.equal(new_y.unique(), classes)
    share = 1 / len(classes)
    deviation = SIGMAS * math.sqrt(len(y) * share * (1 - share))
    assert abs(int((new_y == y).sum()) - len(y) * share) <= deviation
    for label in classes:
        assert abs(int((new_y == label).sum()) - len(y) * share) <= deviation
    assert max(int((y == label).sum()) for label in classes) - len(y) * share > deviation


def test_random_labels_come_in_all_orders_alike() -> None:
    y = torch.tensor([0, 0, 1, 2])
    found = Counter(
        tuple(changed(y.float()[:, None], y, "random-labels", seed)[1].tolist()) for seed in range(1200)
    )
    possible = set(itertools.permutations(y.tolist()))
    assert found.keys() == possible
    # Chi-square with 11 degrees of freedom: a false alarm of 1e-7.
    assert sum((found[one] - 100) ** 2 / 100 for one in possible) < 54.4


@pytest.mark.parametrize("text", ["permuted-pixels", "labels-and-pixels"])
def test_permuted_pixels_move_whole_pixels_of_each_image_by_itself(text: str) -> None:
    x, y = examples(60)
    # Numbers that say where a value was: channel, then position.
    x = (torch.arange(3).view(3, 1) * 1000 + torch.arange(64)).float().view(1, 3, 8, 8).repeat(60, 1, 1, 1)
    new_x, new_y = changed(x, y, text)
    assert torch.equal(new_y, y) == (text == "permuted-pixels")
    position = (new_x % 1000).long().flatten(2)
    assert torch.equal((new_x // 1000).long(), torch.arange(3).view(1, 3, 1, 1).expand(60, 3, 8, 8))
    assert torch.equal(position[:, 0], position[:, 1])
    assert torch.equal(position[:, 0], position[:, 2])
    assert torch.equal(position[:, 0].sort(1).values, torch.arange(64).expand(60, 64))
    assert len(position[:, 0].unique(dim=0)) == 60, "each image has an order of its own"
    # One pixel of an image stays in its place on average, Poisson(1).
    stayed = int((position[:, 0] == torch.arange(64)).sum())
    assert abs(stayed - 60) <= SIGMAS * math.sqrt(60)
    # Every place is taken from every place.
    assert abs(float(position[:, 0].double().mean(0).std()) - math.sqrt((64**2 - 1) / 12 / 60)) < 1


def test_mixed_channels_permute_all_values_of_an_image() -> None:
    x, y = examples(60)
    new_x, _ = changed(x, y, "permuted-pixels:channels=mixed")
    assert torch.equal(new_x.flatten(1).sort(1).values, x.flatten(1).sort(1).values)
    assert not torch.equal(new_x.flatten(2).sort(2).values, x.flatten(2).sort(2).values)
    together, _ = changed(x, y, "permuted-pixels")
    assert torch.equal(together.flatten(2).sort(2).values, x.flatten(2).sort(2).values)


def test_permuted_pixels_of_other_inputs() -> None:
    x = torch.arange(24).view(2, 12)
    assert torch.equal(changed(x, torch.zeros(2), "permuted-pixels")[0].sort(1).values, x)
    sound = torch.arange(24.0).view(2, 3, 4)
    assert torch.equal(changed(sound, torch.zeros(2), "permuted-pixels")[0].sort(2).values, sound)
    with pytest.raises(DisbudError, match=r"inputs of shape \(4,\) have no pixels"):
        changed(torch.rand(4), torch.zeros(4), "permuted-pixels")


def test_permuted_pixels_in_parts_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = examples(50)
    monkeypatch.setattr("disbud.interventions.corruption._CHUNK", 3 * 64 * 7)
    new_x, _ = changed(x, y, "permuted-pixels")
    assert torch.equal(new_x.flatten(2).sort(2).values, x.flatten(2).sort(2).values)
    assert not (new_x == x).flatten(1).all(1).any()


@pytest.mark.parametrize(("text", "fraction"), [("half-data", 0.5), ("half-data:fraction=0.1", 0.1)])
def test_half_data_keeps_that_part_of_each_class_as_it_is(text: str, fraction: float) -> None:
    x, y = examples()
    new_x, new_y = changed(x, y, text)
    for label in y.unique():
        count = int((y == label).sum())
        assert int((new_y == label).sum()) == max(1, math.floor(fraction * count + 0.5))
    places = [int((x == one).flatten(1).all(1).nonzero()) for one in new_x]
    assert places == sorted(places), "in the order they came"
    assert torch.equal(y[places], new_y)
    other, _ = changed(x, y, text, seed=2)
    shared = sum(bool((other == one).flatten(1).all(1).any()) for one in new_x)
    mean, deviation = fraction * len(new_x), math.sqrt(len(new_x) * fraction * (1 - fraction))
    assert abs(shared - mean) <= SIGMAS * deviation < len(new_x) - mean


def test_half_data_keeps_one_of_a_rare_class() -> None:
    y = torch.tensor([0] * 100 + [1])
    assert changed(torch.rand(101, 2), y, "half-data:fraction=0.1")[1].bincount().tolist() == [10, 1]
    for odd in ("0", "1", "half", "true", "-0.5"):
        with pytest.raises(DisbudError, match="fraction is the part to keep, a number between 0 and 1"):
            changed(torch.rand(101, 2), y, f"half-data:fraction={odd}")


def test_noise_keeps_labels_and_the_channels_moments_and_nothing_else() -> None:
    x, y = examples()
    new_x, new_y = changed(x, y, "noise")
    assert torch.equal(new_y, y)
    assert new_x.shape == x.shape
    before, after = (part.transpose(0, 1).flatten(1).double() for part in (x, new_x))
    count = before.shape[1]
    deviation = before.std(1)
    assert ((after.mean(1) - before.mean(1)).abs() <= SIGMAS * deviation / math.sqrt(count)).all()
    assert ((after.std(1) / deviation - 1).abs() <= SIGMAS / math.sqrt(2 * count)).all()
    kurtosis = ((after - after.mean(1, keepdim=True)) ** 4).mean(1) / after.var(1) ** 2
    assert ((kurtosis - 3).abs() <= SIGMAS * math.sqrt(24 / count)).all()
    for a, b in zip(before, after, strict=True):
        assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) <= SIGMAS / math.sqrt(count)
    by_class = [float(new_x[y == label].mean()) for label in (3, 13)]
    was = [float(x[y == label].mean()) for label in (3, 13)]
    assert abs(by_class[0] - by_class[1]) < abs(was[0] - was[1]) / 2


def test_noise_of_other_inputs() -> None:
    rows = torch.rand(300, 20).mul(3).add(torch.arange(20.0))
    new, _ = changed(rows, torch.zeros(300), "noise")
    assert abs(float(new.mean() - rows.mean())) <= SIGMAS * float(rows.std()) / math.sqrt(rows.numel())
    flat = torch.full((5, 2, 3), 7.0)
    assert torch.equal(changed(flat, torch.zeros(5), "noise")[0], flat)
    assert changed(rows.bfloat16(), torch.zeros(300), "noise")[0].dtype == torch.bfloat16
    with pytest.raises(DisbudError, match=r"inputs are torch.uint8.*normalise them first"):
        changed((rows * 9).byte(), torch.zeros(300), "noise")
    with pytest.raises(DisbudError, match="hold NaN or infinite values"):
        changed(torch.full((5, 2), math.nan), torch.zeros(5), "noise")


def test_labels_must_be_classes_where_classes_are_counted() -> None:
    x = torch.rand(6, 3)
    for text in ("random-labels", "half-data", "labels-and-pixels"):
        for y in (torch.rand(6), torch.zeros(6, 2).long()):
            with pytest.raises(DisbudError, match="needs one class label an example"):
                changed(x, y, text)


def test_batches_come_back_in_the_size_they_came_in() -> None:
    x, y = examples(23)
    given = list(zip(x.split(5), y.split(5), strict=True))
    outcome = on_data(given, "random-labels", seed=3)
    assert [len(part) for part, _ in outcome] == [5, 5, 5, 5, 3]
    whole = changed(x, y, "random-labels", seed=3)
    assert torch.equal(torch.cat([part for part, _ in outcome]), x)
    assert torch.equal(torch.cat([part for _, part in outcome]), whole[1])


def test_a_method_prunes_with_the_outcome() -> None:
    x, y = examples(120)
    y = (y - 3) // 2
    stream = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 6))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(6, 192, generator=stream))
    tickets = [
        disbud.prune(model, "snip", sparsity=0.9, batches=on_data([(x, y)], text), examples_per_class=None)
        for text in ("random-labels", "permuted-pixels", "noise", "half-data")
    ]
    clean = disbud.prune(model, "snip", sparsity=0.9, batches=[(x, y)], examples_per_class=None)
    assert all(ticket.kept == clean.kept for ticket in tickets)
    assert all(ticket != clean for ticket in tickets)
    assert len({ticket.origin.evidence["sha256"] for ticket in [clean, *tickets]}) == 5
