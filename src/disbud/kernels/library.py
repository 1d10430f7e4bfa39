"""The compiled kernels, loaded: which build runs, and each of its functions on tensors."""

from __future__ import annotations

import ctypes
import os
import warnings
from ctypes import POINTER, byref, c_int64, c_void_p
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from disbud.errors import unknown_name
from disbud.kernels.build import build, find_compiler, usable_instructions
from disbud.kernels.layout import Layout
from disbud.kernels.memory import empty
from disbud.kernels.plan import Gather
from disbud.kernels.structures import (
    CBatch,
    CGather,
    CMap,
    CNormalisation,
    CPooling,
    batch_structure,
    gather_structure,
    map_structure,
)

WITHOUT = "torch"

_MAPS = (POINTER(CMap), POINTER(CMap))
_GATHER = (POINTER(CGather), POINTER(CBatch))
# The functions of the kernels' headers, and what each takes.
ARGUMENTS = {
    "disbud_gather": (*_GATHER, *[c_void_p] * 5),
    "disbud_weight_gradient": (*_GATHER, *[c_void_p] * 3),
    "disbud_pick": (c_void_p, c_void_p, c_int64, c_void_p),
    "disbud_put": (c_void_p, c_void_p, c_int64, c_void_p),
    "disbud_normalise": (*_MAPS, POINTER(CNormalisation), *[c_void_p] * 4),
    "disbud_normalise_backward": (*_MAPS, POINTER(CNormalisation), *[c_void_p] * 7),
    "disbud_max_pool": (*_MAPS, POINTER(CPooling), *[c_void_p] * 2),
    "disbud_max_pool_backward": (*_MAPS, POINTER(CPooling), *[c_void_p] * 3),
    "disbud_average_pool": (*_MAPS, POINTER(CPooling), *[c_void_p] * 2),
    "disbud_average_pool_backward": (*_MAPS, POINTER(CPooling), *[c_void_p] * 2),
    "disbud_clear_halo": (POINTER(CMap), c_void_p),
}


class Library:
    """One build of the kernels."""

    def __init__(self, instructions: str, path: Path) -> None:
        self.instructions = instructions
        self._c = ctypes.CDLL(str(path))
        for name, arguments in ARGUMENTS.items():
            function = getattr(self._c, name)
            function.argtypes, function.restype = arguments, None

    def gather(
        self,
        phase: Gather,
        values: Tensor,
        *,
        bias: Tensor | None,
        lanes: Tensor,
        input: Tensor,
        output: Tensor,
    ) -> None:
        """Write the phase's pixels of the output: bias plus the sum of values times input."""
        count = phase.order.shape[0]
        picked = empty((count,))
        self._c.disbud_pick(values.data_ptr(), phase.order.data_ptr(), count, picked.data_ptr())
        self._c.disbud_gather(
            byref(gather_structure(phase)),
            byref(batch_structure(input, output)),
            *_addresses(picked, bias, lanes, input, output),
        )

    def weight_gradient(self, phase: Gather, kept: int, *, input: Tensor, gradient: Tensor) -> Tensor:
        """The gradients of the values of a layer whose forward gather that phase is."""
        count = phase.order.shape[0]
        by_entry = empty((count,)).zero_()
        self._c.disbud_weight_gradient(
            byref(gather_structure(phase)),
            byref(batch_structure(input, gradient)),
            *_addresses(input, gradient, by_entry),
        )
        # Weights that touch no pixel have no entry, and no gradient.
        result = empty((kept,)).zero_()
        self._c.disbud_put(by_entry.data_ptr(), phase.order.data_ptr(), count, result.data_ptr())
        return result

    def normalise(
        self,
        layouts: tuple[Layout, Layout],
        norm: CNormalisation,
        *,
        x: Tensor,
        mean: Tensor,
        variance: Tensor,
        y: Tensor,
    ) -> None:
        """Write y and, where they are the batch's own, mean and variance."""
        self._c.disbud_normalise(*_maps(layouts), byref(norm), *_addresses(x, mean, variance, y))

    def normalise_backward(
        self,
        layouts: tuple[Layout, Layout],
        norm: CNormalisation,
        *,
        saved: tuple[Tensor, Tensor, Tensor],
        gradient: Tensor,
        results: tuple[Tensor, Tensor, Tensor],
    ) -> None:
        """Write the gradients of x, gamma and beta, from the saved x, mean and variance and the gradient of y."""
        self._c.disbud_normalise_backward(
            *_maps(layouts), byref(norm), *_addresses(*saved, gradient, *results)
        )

    def pool(self, kind: str, layouts: tuple[Layout, Layout], pooling: CPooling, *tensors: Tensor) -> None:
        """Run max_pool (x, y), average_pool (x, y) or their _backward (x only for the maximum, dy, dx)."""
        function = getattr(self._c, f"disbud_{kind}")
        function(*_maps(layouts), byref(pooling), *_addresses(*tensors))

    def clear_halo(self, layout: Layout, data: Tensor) -> None:
        """Zero the columns between the rows."""
        self._c.disbud_clear_halo(byref(map_structure(layout)), *_addresses(data))


def library() -> Library | None:
    """The kernels for this processor, built at first use; None, after one notice, where no compiler is found.

    DISBUD_KERNELS names another instruction set, or `torch` for the path without kernels.

    >>> from disbud.kernels import library
    >>> kernels = library()
    >>> kernels is None or kernels.instructions in ("avx512", "avx2", "neon", "plain")
    True
    """
    return _library(os.environ.get("DISBUD_KERNELS") or None)


@lru_cache(maxsize=8)
def _library(asked: str | None) -> Library | None:
    if asked == WITHOUT:
        return None
    usable = usable_instructions()
    if asked is not None and asked not in usable:
        raise unknown_name("usable instruction set on this processor called", asked, (*usable, WITHOUT))
    compiler = find_compiler()
    if compiler is None:
        warnings.warn(
            "no C compiler was found (cc, gcc, clang, or the one CC names), so sparse layers run in plain torch, "
            "several times slower; install gcc or clang, or set DISBUD_KERNELS=torch to say so without this notice",
            RuntimeWarning,
            stacklevel=3,
        )
        return None
    instructions = asked or usable[0]
    return Library(instructions, build(instructions, compiler))


def _addresses(*tensors: Tensor | None) -> list[int | None]:
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]


def _maps(layouts: tuple[Layout, Layout]) -> tuple[object, ...]:
    return tuple(byref(map_structure(layout)) for layout in layouts)
