"""Prints the processor time that drawing `shapes` takes on one core, and fails when it is over the bound."""

from __future__ import annotations

import sys
import time

import torch

import disbud.data

BOUND = 5.0  # seconds for 20,000 images of 32x32 pixels in colour


def seconds(spec: str) -> float:
    """Processor time to draw a data set."""
    start = time.process_time()
    disbud.data.load(spec)
    return time.process_time() - start


def main() -> int:
    """Print the times, and fail when the bound is not kept."""
    torch.set_num_threads(1)
    seconds("shapes:size=8,train=10,test=10")  # imports
    default = seconds("shapes:train=20000,test=10")
    for spec in ("shapes:size=16,train=20000,test=10", "shapes:size=64,train=5000,test=10"):
        print(f"{seconds(spec):6.2f} s  {spec}")
    print(f"{default:6.2f} s  shapes:train=20000,test=10  (at most {BOUND:g} s)")
    return int(default > BOUND)


if __name__ == "__main__":
    sys.exit(main())
