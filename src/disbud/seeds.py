"""Random streams: every random choice draws from a generator of (seed, purpose), never from the global one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from disbud.errors import DisbudError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def derive(seed: int, purpose: str, *more: int | str) -> int:
    """A 63-bit seed for one purpose, independent of every other purpose's ("init", "order", "mask", ...)."""
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise DisbudError(f"a seed is an integer, not {seed!r}")
    digest = hashlib.sha256(json.dumps([seed, purpose, *more]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str, *more: int | str) -> torch.Generator:
    """A CPU generator for one purpose: the same numbers on every device, since draws are made on the CPU."""
    import torch

    return torch.Generator("cpu").manual_seed(derive(seed, purpose, *more))


# Draws are float32 on the CPU whatever torch's default dtype and device are, which are the caller's own: in bfloat16
# there would be ties, in float64 other numbers for the same seed.


def uniform(shape: Sequence[int], stream: torch.Generator) -> Tensor:
    """U(0, 1)."""
    import torch

    return torch.rand(tuple(shape), generator=stream, dtype=torch.float32, device="cpu")


def normal(shape: Sequence[int], stream: torch.Generator) -> Tensor:
    """N(0, 1)."""
    import torch

    return torch.randn(tuple(shape), generator=stream, dtype=torch.float32, device="cpu")


def whole(bound: int, shape: Sequence[int], stream: torch.Generator) -> Tensor:
    """Whole numbers from 0 to below the bound, each as likely."""
    import torch

    return torch.randint(bound, tuple(shape), generator=stream, dtype=torch.int64, device="cpu")


def order(count: int, stream: torch.Generator) -> Tensor:
    """A random order of 0 to count - 1."""
    import torch

    return torch.randperm(count, generator=stream, dtype=torch.int64, device="cpu")


@contextlib.contextmanager
def global_streams(seed: int, purpose: str, *more: int | str) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python inside the block, and put them back after it.

    For code that is not ours and draws from them: dropout, a user's data loader, torch's initialisers.
    """
    import numpy
    import torch

    python_state, numpy_state = random.getstate(), numpy.random.get_state()
    derived = derive(seed, purpose, *more)
    try:
        # Asking for CUDA's state would initialise it, which is slow and forbids a later fork.
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        with torch.random.fork_rng(devices):
            torch.manual_seed(derived)
            numpy.random.seed(derived % 2**32)
            random.seed(derived)
            yield
    finally:
        random.setstate(python_state)
        numpy.random.set_state(numpy_state)
