"""What keeping a network on its ticket costs, and what the training loop costs, against a loop written by hand.

One thread, both sides in one run, turn by turn. Times are seconds of the processor, to which other programs on a busy
machine add little. Targets: a step inside
`disbud.sparse` at most 1.03 times one outside (ResNet-20, batch 128); `disbud.train` at least 0.9 times as fast as
the loop by hand.

    python benchmarks/training_overhead.py
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import disbud
from disbud.data import Dataset, from_tensors
from disbud.models import build
from disbud.seeds import generator
from disbud.training import Recipe

Timed = Callable[[], float]


def main() -> None:
    """Measure and print."""
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reader.add_argument("--pairs", type=int, default=40, help="how often each side runs")
    pairs = reader.parse_args().pairs
    torch.set_num_threads(1)
    print(
        f"torch {torch.__version__}, {platform.processor() or platform.machine()}, one thread of {os.cpu_count()}"
    )
    print(f"load when it began: {os.getloadavg()[0]:.2f}\n")
    print("a step of ResNet-20, batch 128, 98 % sparse: inside disbud.sparse against outside")
    outside, again = (step(guarded=False, order="contiguous") for _ in range(2))
    compare("  outside against outside, which shows the noise", outside, again, pairs)
    for order in ("contiguous", "channels_last"):
        inside, outside = step(guarded=True, order=order), step(guarded=False, order=order)
        compare(f"  {order}", inside, outside, pairs)
    print(f"  the guard's own work in a step, by itself: {own_work(pairs) * 1e3:.2f} ms")
    print("\na training run with evaluation: disbud.train against the loop by hand")
    digits = disbud.data.load("digits")
    compare("  LeNet-300-100 on digits, 10 epochs", *runs("lenet-300-100", digits, epochs=10), pairs)
    compare("  ResNet-20, 512 images, 1 epoch", *runs("resnet20", noise(), epochs=1), max(3, pairs // 4))
    print(f"\nload when it ended: {os.getloadavg()[0]:.2f}")


def compare(what: str, ours: Timed, other: Timed, pairs: int) -> None:
    """Run both in turn, the first place in each pair going round, and print the median ratio."""
    ours(), other()  # warm-up
    times: list[tuple[float, float]] = []
    for pair in range(pairs):
        if pair % 2:
            second, first = other(), ours()
        else:
            first, second = ours(), other()
        times.append((first, second))
    ratios = sorted(a / b for a, b in times)
    middle = [statistics.median(column) * 1e3 for column in zip(*times, strict=True)]
    print(
        f"{what}: ratio {statistics.median(ratios):.4f} (quartiles {ratios[len(ratios) // 4]:.4f} to "
        f"{ratios[-1 - len(ratios) // 4]:.4f}, {pairs} pairs), medians {middle[0]:.1f} and {middle[1]:.1f} ms"
    )


def step(*, guarded: bool, order: str) -> Timed:
    """The seconds of one training step; its model stays inside the context for good where it is guarded."""
    model = build("resnet20")
    if order == "channels_last":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    ticket = disbud.prune(model, "random-erk", sparsity=0.98)
    ticket.apply_(model)
    if guarded:
        disbud.sparse(model, ticket, optimizer).__enter__()
    draws = generator(0, "benchmark")
    inputs, labels = torch.randn(128, 3, 32, 32, generator=draws), torch.randint(10, (128,), generator=draws)
    if order == "channels_last":
        inputs = inputs.contiguous(memory_format=torch.channels_last)

    def timed() -> float:
        began = time.process_time()
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        return time.process_time() - began

    return timed


def own_work(pairs: int) -> float:
    """The median seconds of clearing every gradient and every weight once."""
    model = build("resnet20")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    times = []
    with disbud.sparse(model, disbud.prune(model, "random-erk", sparsity=0.98), optimizer) as guard:
        for _ in range(10 * pairs):
            began = time.process_time()
            guard.apply_()
            times.append(time.process_time() - began)
    return statistics.median(times)


def runs(model: str, dataset: Dataset, *, epochs: int) -> tuple[Timed, Timed]:
    """The seconds of a whole run, by disbud and by hand; both end with the same accuracy."""
    recipe = Recipe(epochs=epochs, batch_size=64, lr=0.05, nesterov=True, weight_decay=1e-4)
    accuracies: set[float] = set()

    def ours() -> float:
        network = build(model, input_shape=dataset.input_shape)
        began = time.process_time()
        accuracies.add(disbud.train(network, dataset, recipe=recipe).accuracy)
        return time.process_time() - began

    def hand() -> float:
        network = build(model, input_shape=dataset.input_shape)
        began = time.process_time()
        accuracies.add(by_hand(network, dataset, recipe))
        taken = time.process_time() - began
        if len(accuracies) > 1:
            raise SystemExit(f"the two loops do not do the same: accuracies {accuracies}")
        return taken

    return ours, hand


def by_hand(model: nn.Module, dataset: Dataset, recipe: Recipe) -> float:
    """The loop one writes: tensors in memory, torch's scheduler, a test after each epoch."""
    inputs, labels = dataset.normalise(dataset.train.images), dataset.train.labels
    test_inputs, test_labels = dataset.normalise(dataset.test.images), dataset.test.labels
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=True,
        weight_decay=recipe.weight_decay,
    )
    batches = -(-len(labels) // recipe.batch_size)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs * batches)
    accuracy = 0.0
    for epoch in range(recipe.epochs):
        model.train()
        total = 0.0
        order = torch.randperm(len(labels), generator=generator(0, "order", epoch))
        for chosen in order.split(recipe.batch_size):
            loss = F.cross_entropy(model(inputs[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            total += loss.item()
        accuracy = tested(model, test_inputs, test_labels)
    return accuracy


def tested(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Accuracy, with the test loss that one reports beside it."""
    model.eval()
    right, loss = 0, 0.0
    with torch.no_grad():
        for x, y in zip(inputs.split(256), labels.split(256), strict=True):
            logits = model(x)
            right += int((logits.argmax(1) == y).sum())
            loss += F.cross_entropy(logits, y, reduction="sum").item()
    return right / len(labels)


def noise() -> Dataset:
    """Images of noise: what they show does not matter here."""
    draws = generator(0, "benchmark")
    images = torch.randint(256, (640, 3, 32, 32), dtype=torch.uint8, generator=draws)
    return from_tensors(images, torch.arange(640) % 10, name="noise", test_fraction=0.2)


if __name__ == "__main__":
    main()
