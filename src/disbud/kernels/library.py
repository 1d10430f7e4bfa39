"""The compiled kernels, loaded: which build runs, and each of its functions on tensors."""

from __future__ import annotations

import ctypes
import os
import re
import warnings
from ctypes import POINTER, byref, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from disbud.errors import DisbudError, unknown_name
from disbud.kernels.build import build, find_compiler, flags_of_storage, usable_instructions
from disbud.kernels.layout import Layout
from disbud.kernels.memory import empty
from disbud.kernels.plan import Gather
from disbud.kernels.structures import (
    CBatch,
    CFinish,
    CGather,
    CMap,
    CNormalisation,
    CPooling,
    batch_structure,
    gather_structure,
    map_structure,
)

WITHOUT = "torch"
# The pixels of a weight gradient are summed in parts, for the threads to share; one more sum of each weight must be
# little beside the input it is made of.
MOST_PARTS, NUMBERS_A_SUM = 16, 64

_MAPS = (POINTER(CMap), POINTER(CMap))
_GATHER = (POINTER(CGather), POINTER(CBatch))
# The functions of the kernels' headers, and what each takes.
ARGUMENTS = {
    "disbud_gather": (*_GATHER, POINTER(CFinish), *[c_void_p] * 3),
    "disbud_weight_gradient": (*_GATHER, c_int32, *[c_void_p] * 3),
    "disbud_pick": (c_void_p, c_void_p, c_int64, c_void_p),
    "disbud_pick_scaled": (POINTER(CGather), *[c_void_p] * 4),
    "disbud_put": (c_void_p, c_void_p, c_int64, c_void_p, c_int64),
    "disbud_sum": (POINTER(CMap), c_void_p, c_int32, c_void_p),
    "disbud_normalise": (*_MAPS, POINTER(CNormalisation), *[c_void_p] * 5),
    "disbud_normalise_backward": (*_MAPS, POINTER(CNormalisation), *[c_void_p] * 9),
    "disbud_max_pool": (*_MAPS, POINTER(CPooling), *[c_void_p] * 2),
    "disbud_max_pool_backward": (*_MAPS, POINTER(CPooling), *[c_void_p] * 3),
    "disbud_average_pool": (*_MAPS, POINTER(CPooling), *[c_void_p] * 2),
    "disbud_average_pool_backward": (*_MAPS, POINTER(CPooling), *[c_void_p] * 2),
    "disbud_clear_halo": (POINTER(CMap), c_void_p),
}


@dataclass(frozen=True, eq=False)
class Finish:
    """What becomes of a sum before it is stored: activation of that slope of (scale * sum + bias + added).

    Scale and bias are one number for each output; `added` lies as the output does. The bias goes to the `lanes` that
    hold images.
    """

    lanes: Tensor
    bias: Tensor | None = None
    scale: Tensor | None = None
    added: Tensor | None = None
    slope: float = 1.0


class Library:
    """One build of the kernels, for activations of one type."""

    def __init__(self, instructions: str, path: Path, stored: torch.dtype = torch.float32) -> None:
        self.instructions = instructions
        self.stored = stored
        try:
            self._c = ctypes.CDLL(str(path))
        except OSError as error:
            raise DisbudError(
                f"the kernels in {path} cannot be loaded ({error}); where programs may not run from that folder, name "
                "another one by DISBUD_CACHE=FOLDER, or do without by DISBUD_KERNELS=torch"
            ) from error
        for name, arguments in ARGUMENTS.items():
            function = getattr(self._c, name)
            function.argtypes, function.restype = arguments, None
        self._c.disbud_use_team.argtypes, self._c.disbud_use_team.restype = (c_void_p,), None
        self._c.disbud_use_team(team_of_torch())

    def gather(
        self,
        phase: Gather,
        values: Tensor,
        *,
        input: Tensor,
        output: Tensor,
        finish: Finish,
    ) -> None:
        """Write the phase's pixels of the output: the sum of values times input, finished."""
        count = len(phase.order)
        picked, structure = empty((count,)), byref(gather_structure(phase))
        if finish.scale is None:
            self._c.disbud_pick(*_addresses(values, phase.order), count, *_addresses(picked))
        else:
            self._c.disbud_pick_scaled(structure, *_addresses(values, phase.order, finish.scale, picked))
        self._c.disbud_gather(
            structure,
            byref(batch_structure(input, output)),
            byref(CFinish(*_addresses(finish.bias, finish.lanes, finish.added), finish.slope)),
            *_addresses(picked, input, output),
        )

    def weight_gradient(self, phase: Gather, kept: int, *, input: Tensor, gradient: Tensor) -> Tensor:
        """The gradients of the values of a layer whose forward gather that phase is."""
        count = phase.order.shape[0]
        parts = max(1, min(MOST_PARTS, input.numel() // max(1, NUMBERS_A_SUM * count)))
        by_entry = empty((parts, count))
        self._c.disbud_weight_gradient(
            byref(gather_structure(phase)),
            byref(batch_structure(input, gradient)),
            parts,
            *_addresses(input, gradient, by_entry),
        )
        # Weights that touch no pixel have no entry, and no gradient.
        result = empty((kept,))
        self._c.disbud_put(*_addresses(by_entry, phase.order), count, *_addresses(result), kept)
        return result

    def sum(self, layout: Layout, x: Tensor) -> Tensor:
        """The sum of each channel over all pixels of the batch."""
        sums = torch.empty(layout.channels)
        self._c.disbud_sum(
            byref(map_structure(layout)), x.data_ptr(), torch.get_num_threads(), sums.data_ptr()
        )
        return sums

    def normalise(
        self,
        layouts: tuple[Layout, Layout],
        norm: CNormalisation,
        *,
        x: Tensor,
        added: Tensor | None,
        moments: Tensor,
        y: Tensor,
    ) -> None:
        """Write y and, where they are the batch's own, the moments: mean and variance."""
        self._c.disbud_normalise(*_maps(layouts), byref(norm), *_addresses(x, added, *moments, y))

    def normalise_backward(
        self,
        layouts: tuple[Layout, Layout],
        norm: CNormalisation,
        *,
        x: Tensor,
        moments: Tensor,
        y: Tensor | None,
        gradient: Tensor,
        results: tuple[Tensor, Tensor | None, Tensor, Tensor],
    ) -> None:
        """Write the gradients of x, of what was added to it, of gamma and of beta.

        Where that of what was added is wanted, y is.
        """
        self._c.disbud_normalise_backward(
            *_maps(layouts), byref(norm), *_addresses(x, *moments, y, gradient, *results)
        )

    def pool(self, kind: str, layouts: tuple[Layout, Layout], pooling: CPooling, *tensors: Tensor) -> None:
        """Run max_pool (x, y), average_pool (x, y) or their _backward (x only for the maximum, dy, dx)."""
        function = getattr(self._c, f"disbud_{kind}")
        function(*_maps(layouts), byref(pooling), *_addresses(*tensors))

    def clear_halo(self, layout: Layout, data: Tensor) -> None:
        """Zero the columns between the rows."""
        self._c.disbud_clear_halo(byref(map_structure(layout)), *_addresses(data))


def library(stored: torch.dtype = torch.float32) -> Library | None:
    """The kernels for this processor, built at first use; None, after one notice, where no compiler is found.

    They are for activations `stored` in float32 or bfloat16.

    DISBUD_KERNELS names another instruction set, or `torch` for the path without kernels.

    >>> from disbud.kernels import library
    >>> kernels = library()
    >>> kernels is None or kernels.instructions in ("avx512", "avx2", "neon", "plain")
    True
    """
    return _library(os.environ.get("DISBUD_KERNELS") or None, stored)


@lru_cache(maxsize=16)
def _library(asked: str | None, stored: torch.dtype) -> Library | None:
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
    extra = flags_of_storage(instructions, stored)
    return Library(instructions, build(instructions, compiler, extra=extra), stored)


@lru_cache(maxsize=1)
def team_of_torch() -> int | None:
    """The address of GOMP_parallel in the OpenMP runtime that torch runs on; None where that cannot be told."""
    try:
        mapped = Path("/proc/self/maps").read_text().splitlines()
    except OSError:  # not on Linux
        return None
    loaded = {line.split()[-1] for line in mapped if re.search(r"/lib(g|i)?omp[^/]*\.so", line)}
    torchs = {path for path in loaded if path.startswith(str(Path(torch.__file__).parent))}
    chosen = torchs or loaded
    if len(chosen) != 1:  # none, or no saying which
        return None
    try:
        function = ctypes.CDLL(chosen.pop()).GOMP_parallel
    except (OSError, AttributeError):
        return None
    return ctypes.cast(function, c_void_p).value


def _addresses(*tensors: Tensor | None) -> list[int | None]:
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]


def _maps(layouts: tuple[Layout, Layout]) -> tuple[object, ...]:
    return tuple(byref(map_structure(layout)) for layout in layouts)
