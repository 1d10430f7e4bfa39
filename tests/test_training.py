"""The loop does what a plain loop by hand does, stays on the ticket, and repeats itself bit for bit."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import disbud
from disbud import Recipe, Ticket, TicketError
from disbud.data import Dataset, from_tensors
from disbud.origin import Start
from disbud.parameters import parameters
from disbud.seeds import generator, global_streams
from disbud.training import Divergence, Result, evaluate, losses
from disbud.training.batches import Feed, epoch_batches, order_of


def data(count: int = 90, size: int = 8, channels: int = 1) -> Dataset:
    """Images whose class is in their brightness, so that there is something to learn."""
    draws = generator(0, "test data")
    labels = torch.arange(count) % 3
    noise = torch.randint(0, 120, (count, channels, size, size), generator=draws)
    images = (noise + 60 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    return from_tensors(images, labels, name="tiny", test_fraction=0.2)


def network(*, dropout: float = 0.0, norm: bool = True, seed: int = 0, channels: int = 1) -> nn.Sequential:
    with global_streams(seed, "init"):
        return nn.Sequential(
            nn.Conv2d(channels, 4, 3, bias=False),
            nn.BatchNorm2d(4) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(144, 3),
        )


def a_ticket(model: nn.Module, density: float = 0.3) -> Ticket:
    draws = generator(0, "mask")
    found = parameters(model)
    masks = {
        name: torch.rand(found[name].shape, generator=draws) < density for name in ("0.weight", "5.weight")
    }
    return Ticket.from_masks(masks, model=model)


RECIPE = Recipe(epochs=3, batch_size=16, lr=0.05, schedule="cosine")


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def by_hand(
    model: nn.Module, dataset: Dataset, recipe: Recipe, ticket: Ticket | None
) -> list[tuple[float, float]]:
    """A plain loop with torch's own scheduler; the mean training loss and the test accuracy of each epoch."""
    optimizer = torch.optim.SGD(
        model.parameters(), lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=1e-2
    )
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2], gamma=recipe.gamma)
    masks = {} if ticket is None else {model.get_parameter(name): mask for name, mask in ticket.masks.items()}
    for weight, mask in masks.items():
        weight.data *= mask
    inputs, labels = dataset.normalise(dataset.train.images), dataset.train.labels
    curve = []
    for epoch in range(recipe.epochs):
        model.train()
        losses = []
        for chosen in torch.randperm(len(labels), generator=generator(7, "order", epoch)).split(
            recipe.batch_size
        ):
            logits = model(inputs[chosen])
            losses += [F.cross_entropy(logits, labels[chosen]).item()] * len(chosen)
            optimizer.zero_grad()
            F.cross_entropy(logits, labels[chosen], label_smoothing=recipe.label_smoothing).backward()
            for weight, mask in masks.items():
                weight.grad *= mask
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
        scheduler.step()
        model.eval()
        with torch.no_grad():
            right = model(dataset.normalise(dataset.test.images)).argmax(1) == dataset.test.labels
        curve.append((sum(losses) / len(losses), right.double().mean().item()))
    return curve


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("pruned", ["dense", "on a ticket"])
def test_it_is_the_plain_loop_bit_for_bit(pruned: str, smoothing: float) -> None:
    recipe = Recipe(
        epochs=3,
        batch_size=16,
        lr=0.05,
        nesterov=True,
        weight_decay=1e-2,
        schedule="step",
        milestones=(1, 2),
        gamma=0.5,
        label_smoothing=smoothing,
        clip_norm=0.5,
    )
    model, hand, dataset = network(), network(), data()
    ticket = a_ticket(model) if pruned == "on a ticket" else None
    result = disbud.train(model, dataset, ticket=ticket, recipe=recipe, seed=7)
    curve = by_hand(hand, dataset, recipe, ticket)
    assert same(model, hand)
    assert [row.train_loss for row in result.curve] == pytest.approx([loss for loss, _ in curve], rel=1e-12)
    assert [row.test_accuracy for row in result.curve] == [accuracy for _, accuracy in curve]
    assert [row.lr for row in result.curve] == pytest.approx([0.05, 0.025, 0.0125])
    assert result.accuracy == result.curve[-1].test_accuracy > 0.5
    assert result.loss == result.curve[-1].test_loss


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_and_adamw_are_torchs(name: str) -> None:
    model, hand, dataset = network(norm=False), network(norm=False), data()
    recipe = Recipe(epochs=1, batch_size=72, optimizer=name, lr=0.01, momentum=0.8, weight_decay=0.1)
    disbud.train(model, dataset, recipe=recipe)
    make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    optimizer = make(hand.parameters(), lr=0.01, betas=(0.8, 0.999), weight_decay=0.1)
    order = order_of(72, 0, 0, torch.device("cpu"))
    F.cross_entropy(
        hand(dataset.normalise(dataset.train.images[order])), dataset.train.labels[order]
    ).backward()
    optimizer.step()
    assert same(model, hand)


def test_a_ticket_is_started_from_its_own_weights_and_kept() -> None:
    start, model, dataset = network(seed=3), network(), data()
    ticket = a_ticket(model)
    expected = disbud.train(start, dataset, ticket=ticket, recipe=RECIPE)
    assert disbud.train(network(), dataset, ticket=ticket, recipe=RECIPE) != expected
    for name, mask in ticket.masks.items():
        assert not start.get_parameter(name)[~mask].any()
        assert start.get_parameter(name)[mask].all()


def test_starting_weights_are_loaded_from_the_tickets_file(tmp_path: object) -> None:
    from hashlib import sha256
    from pathlib import Path

    from safetensors.torch import save

    folder, dataset = Path(str(tmp_path)), data()
    content = save({name: value.clone() for name, value in network(seed=3).state_dict().items()})
    (folder / "start.safetensors").write_bytes(content)
    start = Start("start.safetensors", sha256(content).hexdigest(), str(folder))
    ticket = a_ticket(network())
    from_file = disbud.train(network(), dataset, ticket=replace(ticket, start=start), recipe=RECIPE)
    assert from_file == disbud.train(network(seed=3), dataset, ticket=ticket, recipe=RECIPE)
    assert from_file != disbud.train(network(), dataset, ticket=ticket, recipe=RECIPE)


def test_a_ticket_of_another_model_is_refused_before_anything_changes() -> None:
    model, before = network(), network()
    other = Ticket.from_masks({"0.weight": torch.ones(5, 1, 3, 3)})
    with pytest.raises(TicketError):
        disbud.train(model, data(), ticket=other, recipe=RECIPE)
    assert same(model, before)


def random_states() -> list[object]:
    keys = np.random.get_state()[1]
    return [torch.get_rng_state().tolist(), random.getstate(), keys.tolist()]  # type: ignore[union-attr]


@pytest.mark.parametrize("augment", ["none", "flip", "crop-flip"])
def test_a_run_follows_from_its_seed_and_leaves_the_global_streams_alone(augment: str) -> None:
    recipe, dataset = replace(RECIPE, augment=augment), data()

    def run(seed: int) -> tuple[nn.Module, Result]:
        model = network(dropout=0.5)
        return model, disbud.train(model, dataset, recipe=recipe, seed=seed)

    with global_streams(1, "test"):
        before = random_states()
        first, result = run(0)
        assert random_states() == before
    with global_streams(2, "test"):
        again, repeated = run(0)
    other, different = run(1)
    assert same(first, again)
    assert result == repeated
    assert not same(first, other)
    assert result != different


def test_dropout_differs_from_step_to_step_and_draws_from_every_global_stream() -> None:
    seen: list[tuple[float, float, float]] = []

    class Watcher(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                seen.append((torch.rand(1).item(), float(np.random.rand()), random.random()))
            return x

    model = nn.Sequential(Watcher(), *network())
    disbud.train(model, data(), recipe=RECIPE)
    assert len(seen) == 3 * 5
    for stream in zip(*seen, strict=True):
        assert len(set(stream)) == len(seen)
    first = list(seen)
    seen.clear()
    disbud.train(nn.Sequential(Watcher(), *network()), data(), recipe=RECIPE)
    assert seen == first


def test_augmentation_changes_the_training_images_only() -> None:
    dataset = data()
    plain, moved = network(), network()
    disbud.train(plain, dataset, recipe=RECIPE)
    disbud.train(moved, dataset, recipe=replace(RECIPE, augment="crop-flip"))
    assert not same(plain, moved)
    feed = Feed(dataset, "train", device=torch.device("cpu"))
    chosen = torch.arange(20)
    assert torch.equal(feed.batch(chosen)[0], dataset.normalise(dataset.train.images[chosen]))
    first = feed.batch(chosen, "crop-flip", 0, 1, 2)[0]
    assert torch.equal(first, feed.batch(chosen, "crop-flip", 0, 1, 2)[0])
    for stream in ((1, 1, 2), (0, 2, 2), (0, 1, 3)):
        assert not torch.equal(first, feed.batch(chosen, "crop-flip", *stream)[0])


def test_every_example_comes_once_an_epoch_in_another_order() -> None:
    orders = [order_of(50, 0, epoch, torch.device("cpu")) for epoch in range(2)]
    assert all(order.sort().values.tolist() == list(range(50)) for order in orders)
    assert not torch.equal(*orders)


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [
        (64, 16, [16] * 4),
        (66, 16, [16, 16, 16, 16, 2]),
        (65, 16, [16] * 4),
        (3, 1, [1, 1, 1]),
        (1, 16, [1]),
        (5, 16, [5]),
    ],
)
def test_a_last_batch_of_one_is_left_out_where_there_are_more(
    count: int, batch_size: int, sizes: list[int]
) -> None:
    assert [len(batch) for batch in epoch_batches(torch.arange(count), batch_size)] == sizes


def test_batch_norm_over_single_pixels_trains_with_one_example_left_over() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
    dataset = data()
    assert len(dataset.train) % 71 == 1
    disbud.train(model, dataset, recipe=replace(RECIPE, batch_size=71))


def test_a_loss_that_is_not_finite_ends_the_run_with_a_record() -> None:
    model, dataset = network(norm=False), data()
    ticket = a_ticket(model)
    result = disbud.train(model, dataset, ticket=ticket, recipe=replace(RECIPE, lr=1e25, schedule="constant"))
    assert result.diverged is not None
    assert result.diverged.epoch == 1
    assert 1 < result.diverged.step <= 5
    assert not math.isfinite(result.diverged.loss)
    assert math.isnan(result.accuracy)
    assert math.isnan(result.loss)
    assert result.curve == ()
    assert "diverged in epoch 1, step" in str(result)
    written = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert written["diverged"] == {"epoch": 1, "step": result.diverged.step, "loss": None}
    assert written["accuracy"] is None
    for name, mask in ticket.masks.items():
        removed = model.get_parameter(name)[~mask]
        assert torch.equal(removed, torch.zeros_like(removed))


def test_divergence_in_a_later_epoch_keeps_the_curve_so_far() -> None:
    class Fuse(nn.Module):
        left = 8

        def forward(self, x: Tensor) -> Tensor:
            self.left -= self.training
            return x / 0 if self.left <= 0 and self.training else x

    model = nn.Sequential(*network(norm=False), Fuse())
    result = disbud.train(model, data(), recipe=RECIPE)
    assert result.diverged == Divergence(epoch=2, step=3, loss=math.nan)
    assert [row.epoch for row in result.curve] == [1]
    assert model[-1].left == 0, "it went on"


def test_losses_that_are_read_late_give_the_same_curve_and_record(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = disbud.train(network(), data(), recipe=RECIPE)
    diverging = replace(RECIPE, lr=1e25, schedule="constant")
    record = disbud.train(network(norm=False), data(), recipe=diverging).diverged
    monkeypatch.setitem(losses._AT_ONCE, "cpu", 50)
    assert disbud.train(network(), data(), recipe=RECIPE) == expected
    assert disbud.train(network(norm=False), data(), recipe=diverging).diverged == record


def test_channels_last_is_a_memory_order_that_is_undone() -> None:
    dataset = data(size=8, channels=3)
    plain, ordered = network(channels=3), network(channels=3)
    seen: list[bool] = []
    handle = ordered[0].register_forward_hook(
        lambda module, args, _: seen.append(
            module.weight.is_contiguous(memory_format=torch.channels_last)
            and args[0].is_contiguous(memory_format=torch.channels_last)
            and not args[0].is_contiguous()
        )
    )
    weight = ordered[0].weight
    disbud.train(plain, dataset, recipe=RECIPE)
    disbud.train(ordered, dataset, recipe=replace(RECIPE, channels_last=True))
    handle.remove()
    assert seen
    assert all(seen)
    assert ordered[0].weight is weight
    assert ordered[0].weight.is_contiguous()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ordered.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_bf16_computes_in_bf16_and_keeps_float32_weights() -> None:
    kinds: set[torch.dtype] = set()
    model, dataset = network(), data()
    model[5].register_forward_hook(lambda module, args, output: kinds.add(output.dtype))
    result = disbud.train(model, dataset, recipe=replace(RECIPE, precision="bf16"))
    assert kinds == {torch.bfloat16}
    assert model[5].weight.dtype == torch.float32
    assert result.accuracy > 0.5
    assert evaluate(model, dataset, precision="bf16") == (result.accuracy, result.loss)


def test_the_model_is_left_in_its_modes_without_gradients() -> None:
    model = network()
    model[1].eval()
    disbud.train(model, data(), recipe=RECIPE)
    assert [module.training for module in model.modules()] == [True, True, False, True, True, True, True]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model[5].weight._post_accumulate_grad_hooks


def test_frozen_parameters_are_not_trained() -> None:
    model, before = network(), network()
    model[0].weight.requires_grad_(False)
    disbud.train(model, data(), recipe=replace(RECIPE, weight_decay=0.1))
    assert torch.equal(model[0].weight, before[0].weight)
    assert not torch.equal(model[5].weight, before[5].weight)
