"""Seconds that each of the newer methods takes to prune ResNet-20 and VGG-11-BN to 98 %, with its default settings.

One thread, one run each; data are 100 random images, 10 a class. SNIP and SynFlow are there by single weights, by
kernels and by channels, to show what groups cost; where they keep fewer weights than asked, how many.
"""

from __future__ import annotations

import argparse
import platform
import time

import torch
from torch import Tensor

import disbud
from disbud.errors import DisbudError
from disbud.models import build

torch.set_num_threads(1)

MODELS = ("resnet20", "vgg11-bn")
WAYS: list[tuple[str, dict[str, object]]] = [
    ("snip", {}),
    ("snip", {"granularity": "kernel"}),
    ("snip", {"granularity": "channel"}),
    ("synflow", {}),
    ("synflow", {"granularity": "kernel"}),
    ("synflow", {"granularity": "channel"}),
    ("synflow-random-rounds", {}),
    ("ntk-sap", {}),
    ("px", {}),
    ("prospr", {"order": "first"}),
    ("prospr", {}),
    ("dpai", {}),
    ("precrop", {}),
]


def batch() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(100, 3, 32, 32, generator=g), torch.arange(100) % 10


def seconds(model: str, method: str, settings: dict[str, object]) -> str:
    """How long pruning takes, and what of the count it keeps where that is not all."""
    net = build(model)
    began = time.perf_counter()
    try:
        ticket = disbud.prune(
            net, method, sparsity=0.98, batches=[batch()], example=torch.zeros(1, 3, 32, 32), **settings
        )  # type: ignore[arg-type]
    except DisbudError as error:
        return str(error).split(";")[0]
    took = f"{time.perf_counter() - began:.1f}"
    asked = ticket.origin.settings.get("asked")
    return took if asked in (None, ticket.kept) else f"{took} ({ticket.kept:,} of {asked:,})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="methods whose names contain this")
    only = parser.parse_args().only or ""
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread")
    print(f"{'method':<40}" + "".join(f"{model:>28}" for model in MODELS))
    for method, settings in WAYS:
        if only in method:
            name = " ".join([method, *(f"{key}={value}" for key, value in settings.items())])
            print(f"{name:<40}", end="", flush=True)
            for model in MODELS:
                print(f"{seconds(model, method, settings):>28}", end="", flush=True)
            print()


if __name__ == "__main__":
    main()
