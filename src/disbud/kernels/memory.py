"""Memory for activations that is used again from step to step.

Fresh memory costs a page fault every 4 kB, which at high sparsity is as dear as the layers themselves: a training step
asks for the same sizes every time. Large tensors are therefore made on memory maps of their own, in huge pages where
the system has them, and a map whose last tensor is gone serves the next one of about its size.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import threading
import weakref

import torch
from torch import Tensor

# Below this, malloc keeps and reuses memory by itself.
LEAST = 1 << 20
HUGE_PAGE = 1 << 21
# A free map may serve a tensor of at least this share of it.
FITTING = 0.5
# How much may be mapped, for each byte that was ever in use at once: sizes differ, and few fit exactly.
LEEWAY = 1.5


class Recycler:
    """Memory maps that are in use, and those that wait for the next tensor."""

    def __init__(self) -> None:
        self._free: list[tuple[int, mmap.mmap]] = []
        self._lock = threading.Lock()
        self._used = 0
        self._peak = 0

    @property
    def mapped(self) -> int:
        """Bytes of all maps, used or free."""
        return self._used + sum(size for size, _ in list(self._free))

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor of that shape, whose content is whatever was there."""
        asked = math.prod(shape) * dtype.itemsize
        if asked < LEAST:
            return torch.empty(shape, dtype=dtype)
        size, memory = self._take(-(-asked // HUGE_PAGE) * HUGE_PAGE)
        # The tensor's storage holds this view of the map, and the map is free when the view is gone.
        view = (ctypes.c_char * asked).from_buffer(memory)
        weakref.finalize(view, self._give, size, memory).atexit = False
        return torch.frombuffer(view, dtype=dtype).view(shape)

    def _take(self, least: int) -> tuple[int, mmap.mmap]:
        with self._lock:
            fitting = [
                (size, place)
                for place, (size, _) in enumerate(self._free)
                if least <= size <= least / FITTING
            ]
            taken = self._free.pop(min(fitting)[1]) if fitting else (least, self._fresh(least))
            self._used += taken[0]
            self._peak = max(self._peak, self._used)
            return taken

    def _fresh(self, size: int) -> mmap.mmap:
        while self._free and self.mapped + size > LEEWAY * max(self._peak, self._used + size):
            self._free.pop(0)  # the one that has waited longest; unmapped with its last reference
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        return memory

    def _give(self, size: int, memory: mmap.mmap) -> None:
        # Called wherever a tensor happens to die, so it takes no lock: it may be held by the caller.
        self._used -= size
        self._free.append((size, memory))


_RECYCLER = Recycler()


def empty(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor on recycled memory; what it holds is not set."""
    return _RECYCLER.empty(shape, dtype)
