"""What compaction takes off a training step and off inference on a GPU, beside bfloat16 and torch.compile.

ResNet-18 (CIFAR stem) and VGG-16-BN on images of 32 pixels, tickets of SynFlow, SNIP (on random data) and node-path
balancing. `disbud.bench` times every way in turn: dense and compacted, float32 and bfloat16 autocast, plain and
compiled, each in the faster memory format; medians and ratios within rounds.

    python benchmarks/gpu_speed.py                          all on cuda, some minutes for each network
    python benchmarks/gpu_speed.py synflow --batch 512      of one method or network
    python benchmarks/gpu_speed.py --device cpu --plain     without torch.compile
"""

from __future__ import annotations

import argparse
import json
import platform
import warnings
from pathlib import Path

import torch

import disbud
from disbud.files import write_atomically
from disbud.models import build
from disbud.seeds import generator

NETWORKS = ("resnet18", "vgg16-bn")
METHODS = ("synflow", "snip", "npb")
SPARSITIES = (0.9, 0.95, 0.98, 0.99, 0.999)


def main() -> None:
    reader = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    reader.add_argument("only", nargs="*", help="networks or methods")
    reader.add_argument("--device", default="cuda")
    reader.add_argument("--batch", type=int, default=256)
    reader.add_argument("--rounds", type=int, default=15)
    reader.add_argument("--plain", action="store_true", help="without torch.compile")
    reader.add_argument("--out", type=Path, help="write all of it here, as JSON")
    asked = reader.parse_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no GPU that torch can use; --device cpu runs the same on the processor")
    name = torch.cuda.get_device_name() if asked.device == "cuda" else platform.machine()
    print(f"{name}, torch {torch.__version__}, batch {asked.batch}, {asked.rounds} rounds\n")
    print("a step, and a forward pass: milliseconds (times as fast as dense float32, as dense bfloat16)")
    found = []
    for network in NETWORKS:
        for method in METHODS:
            for sparsity in SPARSITIES:
                if all(word in (network, method) for word in asked.only):
                    row = measured(network, method, sparsity, asked)
                    found.append({"network": network, "method": method, "sparsity": sparsity, **row})
                    if asked.out:
                        write_atomically(asked.out, json.dumps(found, indent=1).encode())


def measured(network: str, method: str, sparsity: float, asked: argparse.Namespace) -> dict[str, object]:
    model = build(network)
    data = [(torch.randn(100, 3, 32, 32, generator=generator(0, "data")), torch.arange(100) % 10)]
    given = {"batches": data} if method == "snip" else {"example": torch.zeros(1, 3, 32, 32)}
    ticket = disbud.prune(model, method, sparsity=sparsity, seed=0, **given)  # type: ignore[arg-type]
    example = torch.zeros(asked.batch, 3, 32, 32, device=asked.device)
    result = disbud.bench(
        model.to(asked.device), ticket, example=example, rounds=asked.rounds, compiled=not asked.plain
    )
    left = result.multiply_adds_left
    print(
        f"\n{network}, {method}, {sparsity:.1%}"
        + ("" if left is None else f", {left:.1%} of the multiply-adds left")
    )
    for route in result.routes:
        cells = [
            f"{timing.seconds * 1e3:8.2f} ({timing.against_dense:5.2f}, {timing.against_bfloat16:5.2f})"
            for timing in (route.step, route.forward)
            if timing is not None
        ]
        print(f"  {route.name:26} {'   '.join(cells)} {route.refused or ''}", flush=True)
    return result.to_json()  # type: ignore[return-value]


if __name__ == "__main__":
    warnings.simplefilter("ignore", UserWarning)
    main()
