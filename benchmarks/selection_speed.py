"""Claim: the highest of 100 million scores are selected in under 3 seconds and 1 GB beyond the scores, exactly.

One thread, Linux; printed are the seconds of the processor and the growth of the peak resident size, masks included.
The scores lie in layers of unequal size, as normal magnitudes, as SynFlow's products of magnitudes, and as few distinct
values (all ties).
"""

from __future__ import annotations

import argparse
import gc
import platform
import time
from pathlib import Path

import torch
from torch import Tensor

from disbud.selection import keep_highest

SECONDS, BYTES = 3.0, 1e9
LAYERS = 40


def scores(kind: str, total: int) -> dict[str, Tensor]:
    """Layers of which each is twice as large as the fourth one before it."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.tensor([2.0 ** (i / 4) for i in range(LAYERS)])
    sizes = [int(size) for size in (weights / weights.sum() * total).floor()]
    sizes[-1] += total - sum(sizes)
    made = {}
    for i, size in enumerate(sizes):
        score = torch.empty(size)
        for part in score.split(1 << 20):  # in small parts, or the peak would be that of making them
            part.normal_(generator=generator).abs_()
            if kind == "products":
                part.mul_(torch.empty_like(part).normal_(generator=generator).abs_()).mul_(2.0**i)
            elif kind == "ties":
                part.mul_(3).floor_()
        made[str(i)] = score
    return made


def resident(key: str) -> int:
    """VmRSS, the memory held now, or VmHWM, its peak since the last reset."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[key].split()[0]) * 1024


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--total", type=int, default=100_000_000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread, {given.total:,} scores"
    )
    print(f"{'scores':<12}{'density':>8}{'seconds':>10}{'claim':>7}{'MB beyond':>12}{'claim':>7}")
    held = True
    keep_highest(scores("normal", 100_000), 10)  # what is loaded on first use is no part of it
    for kind in ("normal", "products", "ties"):
        made = scores(kind, given.total)
        for density in (0.97, 0.5, 0.02):
            gc.collect()
            reset_peak()
            before, begun = resident("VmRSS"), time.process_time()
            masks = keep_highest(made, round(density * given.total))
            seconds, growth = time.process_time() - begun, resident("VmHWM") - before
            kept = sum(int(mask.sum()) for mask in masks.values())
            good = seconds <= SECONDS and growth <= BYTES and kept == round(density * given.total)
            held &= good
            print(
                f"{kind:<12}{density:>8.2f}{seconds:>10.2f}{SECONDS:>7.1f}{growth / 1e6:>12.0f}{BYTES / 1e6:>7.0f}"
                f"  {'holds' if good else 'FAILS'}",
                flush=True,
            )
            del masks
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
