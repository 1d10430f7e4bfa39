"""A user's own activation, of torch tensors or numpy arrays, made into functions of numpy arrays and checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from disbud.errors import DisbudError
from disbud.theory.gaussian import worst_panel

Array = NDArray[np.float64]
OnArrays = Callable[[Array], Array]

_PROBE = np.array([-2.5, -0.75, 0.3, 1.25, 3.0])
# Two orders above what smooth functions of the scale of tanh show, three below what a kink does.
_TOLERANCE = 1e-10


def made_of(
    function: Callable[..., object], derivative: Callable[..., object] | None, kinks: Sequence[float]
) -> tuple[OnArrays, OnArrays, tuple[float, ...]]:
    """The function and its derivative on arrays, and its kinks in order."""
    where = _places(kinks)
    value = _on_arrays(function, "the activation")
    slope = _by_autograd(function) if derivative is None else _on_arrays(derivative, "the derivative")
    _check_growth(value, slope)
    _check_slope(value, slope, where)
    _check_jumps(value, where)
    _check_smooth(value, slope, where)
    return value, slope, where


def _places(kinks: Sequence[float]) -> tuple[float, ...]:
    try:
        where = tuple(sorted({float(kink) for kink in kinks}))
    except (TypeError, ValueError):
        raise DisbudError(f"kinks is a sequence of numbers, as in kinks=[0.0], not {kinks!r}") from None
    if not np.isfinite(where).all():
        raise DisbudError(f"kinks are finite numbers, not {kinks!r}")
    return where


def _on_arrays(function: Callable[..., object], what: str) -> OnArrays:
    """The function, called with an array where it takes one, else with a tensor."""

    def by_numpy(x: Array) -> Array:
        with np.errstate(all="ignore"):  # 1 / cosh(x)^2 overflows on its way to the right 0
            return np.asarray(function(x.ravel()), dtype=np.float64).reshape(x.shape)

    def by_torch(x: Array) -> Array:
        import torch

        with torch.no_grad():
            given = function(torch.from_numpy(x.ravel().copy()))
        return np.asarray(given, dtype=np.float64).reshape(x.shape)

    failures = []
    for call in (by_numpy, by_torch):
        try:
            _check_elementwise(call, what)
        except DisbudError:
            raise
        except Exception as error:  # whatever a function says to an argument it was not made for
            failures.append(f"{type(error).__name__}: {error}")
        else:
            return call
    raise DisbudError(
        f"{what} works neither on a numpy array ({failures[0]}) nor on a tensor of float64 ({failures[1]})"
    )


def _check_elementwise(call: OnArrays, what: str) -> None:
    whole = call(_PROBE)
    if not np.isfinite(whole).all():
        raise DisbudError(f"{what} gives {whole.tolist()} at {_PROBE.tolist()}; it should be finite")
    if not np.allclose(call(_PROBE[:2]), whole[:2], rtol=1e-6):
        raise DisbudError(
            f"{what} gives one element another value when others stand beside it; the theory is of functions that "
            "work on each element by itself"
        )


def _by_autograd(function: Callable[..., object]) -> OnArrays:
    def slope(x: Array) -> Array:
        import torch

        # Under a caller's inference mode a tensor made outside it would still record nothing.
        with torch.inference_mode(mode=False), torch.enable_grad():
            given = torch.from_numpy(x.ravel().copy()).requires_grad_()
            value = function(given)
            if not isinstance(value, torch.Tensor) or not value.requires_grad:
                raise TypeError("the result does not depend on the tensor it was given")
            (gradient,) = torch.autograd.grad(value.sum(), given)
        return gradient.numpy().reshape(x.shape)

    try:
        slope(_PROBE)
    except Exception as error:  # whatever a function of arrays says to a tensor
        raise DisbudError(
            f"autograd cannot take the derivative of the activation ({type(error).__name__}: {error}); "
            "give derivative=..., or write it with torch functions"
        ) from error
    return slope


def _check_growth(value: OnArrays, slope: OnArrays) -> None:
    far = np.array([-1e7, 1e7])
    if not np.isfinite(np.stack([value(far), slope(far)])).all():
        raise DisbudError(
            f"the activation gives {value(far).tolist()} at -1e7 and 1e7, with slopes {slope(far).tolist()}; it should "
            "be finite there, growing no faster than a power"
        )


def _check_slope(value: OnArrays, slope: OnArrays, kinks: tuple[float, ...]) -> None:
    step = 1e-4
    points = np.array([x for x in _PROBE if all(abs(x - kink) > 2 * step for kink in kinks)])
    measured = (value(points + step) - value(points - step)) / (2 * step)
    wrong = np.abs(measured - slope(points)) > 1e-4 * (1 + np.abs(measured))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise DisbudError(
            f"the derivative of the activation is {slope(points)[at]:.4g} at {points[at]:g}, where the function "
            f"itself changes by {measured[at]:.4g} per unit; it may also compute in less than float64, or have a "
            "kink close by"
        )


def _check_jumps(value: OnArrays, kinks: tuple[float, ...]) -> None:
    for kink in kinks:
        step = 1e-7 * (1 + abs(kink))
        below, above = value(np.array([kink - step, kink + step]))
        if abs(above - below) > 1e-3 * (1 + abs(below)):
            raise DisbudError(
                f"the activation jumps from {below:.4g} to {above:.4g} at {kink:g}: its slope has no second moment "
                "there, so gradients have no mean-field theory"
            )


def _check_smooth(value: OnArrays, slope: OnArrays, kinks: tuple[float, ...]) -> None:
    # The squares alone would hide the kinks of abs and sign.
    for function in (value, slope, lambda x: value(x) ** 2, lambda x: slope(x) ** 2):
        share, (low, high) = worst_panel(function, kinks)
        if share > _TOLERANCE:
            raise DisbudError(
                f"the activation is not smooth between {low:g} and {high:g}: name the places where it or its "
                "derivative jumps, as in kinks=[0.0]; it must compute in float64"
            )
