"""Methods of a user's own, good and bad, for the tests to name as own_methods:function."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import disbud
from disbud.seeds import generator


def largest(model: nn.Module, batches: object) -> dict[str, Tensor]:
    return {name: p.abs() for name, p in model.named_parameters() if p.dim() > 1}


def seeded(
    model: nn.Module, batches: object, *, seed: int, sparsity: float, power: float = 1.0
) -> dict[str, Tensor]:
    return {name: torch.rand(p.shape) ** power for name, p in model.named_parameters() if p.dim() > 1}


def a_ticket(model: nn.Module, batches: object, *, sparsity: float) -> disbud.Ticket:
    return disbud.prune(model, "magnitude", sparsity=sparsity)


def looks_at_labels(model: nn.Module, batches: object) -> dict[str, Tensor]:
    batch = next(iter(batches))  # type: ignore[call-overload]
    return disbud.scores(model, "snip", batches=[batch], examples_per_class=None)


def too_few(model: nn.Module, batches: object) -> disbud.Ticket:
    return disbud.prune(model, "magnitude", sparsity=0.99)


def wrong_shape(model: nn.Module, batches: object) -> dict[str, Tensor]:
    return {name: torch.ones(3) for name, p in model.named_parameters() if p.dim() > 1}


def not_a_number(model: nn.Module, batches: object) -> dict[str, Tensor]:
    return {name: p * float("nan") for name, p in model.named_parameters() if p.dim() > 1}


def of_no_parameter(model: nn.Module, batches: object) -> dict[str, Tensor]:
    return {"elsewhere": torch.ones(3)}


def nothing(model: nn.Module, batches: object) -> None:
    return None


def changes_the_model(model: nn.Module, batches: object) -> dict[str, Tensor]:
    with torch.no_grad():
        next(model.parameters()).add_(1)
    return largest(model, batches)


def one_class() -> disbud.data.Dataset:
    split = disbud.data.Split(torch.zeros(60, 1, 8, 8, dtype=torch.uint8), torch.zeros(60, dtype=torch.int64))
    return disbud.data.Dataset.of("zeros", train=split, test=split, class_names=("zero", "one"))


def one_rare_class() -> disbud.data.Dataset:
    labels = torch.arange(120) % 2
    labels[:8] = 2
    images = torch.randint(0, 255, (120, 1, 8, 8), generator=generator(0, "rare"), dtype=torch.uint8)
    return disbud.data.from_tensors(images, labels, name="rare")


def square(x: int) -> int:
    if x < 0:
        raise ValueError("no roots")
    return x * x


def dies_once(path: str) -> str:
    """Kills its own process the first time it is asked."""
    if not Path(path).exists():
        Path(path).write_text("was here")
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def dies_always(_: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hangs_once(path: str) -> str:
    """Takes for ever the first time it is asked."""
    if not Path(path).exists():
        Path(path).write_text("was here")
        time.sleep(600)
    return "alive"


def hangs_always(_: str) -> None:
    time.sleep(600)


def sleeps(seconds: float) -> tuple[float, float, int]:
    """When it began and ended, and in which process."""
    began = time.monotonic()
    time.sleep(seconds)
    return began, time.monotonic(), os.getpid()


def holds(megabytes: int) -> tuple[float, float]:
    """Holds so much memory for a moment; when it began and ended."""
    began = time.monotonic()
    block = bytearray(megabytes * 2**20)
    time.sleep(0.6)
    return began, time.monotonic() if block else 0.0


def threads(_: object) -> tuple[int, str | None]:
    return torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")


def no_pickle(_: object) -> object:
    return lambda: None
