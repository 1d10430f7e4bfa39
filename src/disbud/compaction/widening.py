"""A model computed in float64, whatever types its forward names: what the small network is held to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_WIDE = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex32: torch.complex128,
    torch.complex64: torch.complex128,
}
_CASTS: dict[object, Callable[..., object]] = {
    getattr(Tensor, narrow): getattr(Tensor, wide)
    for wide, names in {"double": "half bfloat16 float", "cdouble": "chalf cfloat"}.items()
    for narrow in names.split()
}


def wide(tensor: Tensor) -> Tensor:
    """The tensor on the processor, in float64 or complex128; whole numbers as they are."""
    dtype = torch.float64 if tensor.is_floating_point() else tensor.dtype
    return tensor.to("cpu", torch.complex128 if tensor.is_complex() else dtype)


def real(tensor: Tensor) -> Tensor:
    """The numbers in float64, a complex one as two."""
    return torch.view_as_real(wide(tensor).resolve_conj()) if tensor.is_complex() else tensor.double()


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Within the block new tensors are float64, and a narrower type that is asked for by name is float64 too.

    A forward may say `x.float()` or make its state by `torch.zeros(n, 16)`: beside weights in float64 neither would do.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Widening():
            yield
    finally:
        torch.set_default_dtype(before)


class _Widening(TorchFunctionMode):
    """Has every function of torch's asked for a narrow type give the wide one."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        func = _CASTS.get(func, func)
        return func(*map(_widest, args), **{name: _widest(value) for name, value in (kwargs or {}).items()})


def _widest(value: object) -> object:
    return _WIDE.get(value, value) if isinstance(value, torch.dtype) else value
