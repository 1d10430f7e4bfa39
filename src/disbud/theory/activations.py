"""Activations as the theory needs them: the function, its derivative, and where they are not smooth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from disbud.catalogue import Value, check_settings, parse
from disbud.errors import DisbudError, unknown_name
from disbud.theory.closed import ClosedForms, Erf, HardTanh, Rectifier

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Activation:
    """A function phi applied to every unit: its name, phi and phi' on numpy arrays of float64, and its kinks.

    >>> import numpy, disbud
    >>> elu = disbud.theory.activation("elu")
    >>> elu.kinks, elu.function(numpy.array([0.0, 2.0])).tolist()
    ((0.0,), [0.0, 2.0])
    """

    name: str
    function: Callable[[Array], Array] = field(repr=False)
    derivative: Callable[[Array], Array] = field(repr=False)
    kinks: tuple[float, ...] = ()
    closed: ClosedForms | None = field(default=None, repr=False)


ActivationLike = Activation | str | Callable[..., object]


def activation(
    like: ActivationLike,
    *,
    derivative: Callable[..., object] | None = None,
    kinks: Sequence[float] = (),
    name: str | None = None,
) -> Activation:
    """An activation by name, or made of a function of one's own.

    Names: tanh, relu, leaky-relu (slope=0.01), elu (alpha=1), gelu, silu, hard-tanh, erf, sigmoid, linear; settings
    follow the name, as in "leaky-relu:slope=0.2". A function takes a torch tensor or a numpy array and works on each
    element by itself; it must not jump, and may grow no faster than a power. Without `derivative`, autograd takes it,
    which needs a function of tensors. `kinks` are the places where the function or a derivative of it jumps; a kink
    that was not named is found and is an error, because the integrals across it would be wrong.

    >>> import disbud, torch
    >>> disbud.theory.activation("leaky-relu:slope=0.2").kinks
    (0.0,)
    >>> shrink = disbud.theory.activation(torch.nn.Softshrink(0.5), kinks=[-0.5, 0.5])
    >>> round(disbud.theory.variance_map(shrink, 1.0, sigma_w=1.0), 4)
    0.4193
    """
    if isinstance(like, Activation | str):
        if derivative is not None or kinks or name is not None:
            raise DisbudError(
                "derivative, kinks and name belong to a function of your own; named activations have theirs"
            )
        return _named(like.strip()) if isinstance(like, str) else like
    if not callable(like):
        raise DisbudError(
            f"an activation is a name ({', '.join(_NAMED)}) or a function, not a {type(like).__name__}"
        )
    from disbud.theory.custom import made_of

    function, slope, where = made_of(like, derivative, kinks)
    return Activation(name or str(getattr(like, "__name__", type(like).__name__)), function, slope, where)


@lru_cache(maxsize=64)
def _named(text: str) -> Activation:
    spec = parse(text)
    if spec.name not in _NAMED:
        raise unknown_name("activation", spec.name, _NAMED)
    make, defaults = _NAMED[spec.name]
    if spec.argument is not None:
        raise DisbudError(f"{text!r}: settings read key=value, as in leaky-relu:slope=0.2")
    if spec.settings and not defaults:
        raise DisbudError(f"{text!r}: {spec.name} has no settings")
    check_settings(f"activation {spec.name!r}", spec.settings, defaults)
    values = [_number(text, key, spec.settings.get(key, default)) for key, default in defaults.items()]
    return make(text, *values)


def _number(text: str, key: str, value: Value) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DisbudError(f"{text!r}: {key} is a number, not {value!r}")
    return float(value)


def _tanh(name: str) -> Activation:
    def slope(x: Array) -> Array:
        t = np.tanh(x)
        return np.asarray((1 - t) * (1 + t))

    return Activation(name, np.tanh, slope)


def _rectifier(name: str, below: float) -> Activation:
    return Activation(
        name,
        lambda x: np.where(x > 0, x, below * x),
        lambda x: np.where(x > 0, 1.0, below),
        () if below == 1 else (0.0,),
        Rectifier(below),
    )


def _elu(name: str, alpha: float) -> Activation:
    return Activation(
        name,
        lambda x: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
        lambda x: np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0))),
        (0.0,),
    )


def _gelu(name: str) -> Activation:
    return Activation(
        name,
        lambda x: x * special.ndtr(x),
        lambda x: special.ndtr(x) + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi),
    )


def _silu(name: str) -> Activation:
    return Activation(
        name,
        lambda x: x * special.expit(x),
        lambda x: special.expit(x) * (1 + x * special.expit(-x)),
    )


def _hard_tanh(name: str) -> Activation:
    return Activation(
        name,
        lambda x: np.clip(x, -1, 1),
        lambda x: np.where(np.abs(x) < 1, 1.0, 0.0),
        (-1.0, 1.0),
        HardTanh(),
    )


def _erf(name: str) -> Activation:
    return Activation(name, special.erf, lambda x: 2 / np.sqrt(np.pi) * np.exp(-(x**2)), (), Erf())


def _sigmoid(name: str) -> Activation:
    return Activation(name, special.expit, lambda x: special.expit(x) * special.expit(-x))


_NAMED: dict[str, tuple[Callable[..., Activation], dict[str, float]]] = {
    "tanh": (_tanh, {}),
    "relu": (lambda name: _rectifier(name, 0.0), {}),
    "leaky-relu": (_rectifier, {"slope": 0.01}),
    "elu": (_elu, {"alpha": 1.0}),
    "gelu": (_gelu, {}),
    "silu": (_silu, {}),
    "hard-tanh": (_hard_tanh, {}),
    "erf": (_erf, {}),
    "sigmoid": (_sigmoid, {}),
    "linear": (lambda name: _rectifier(name, 1.0), {}),
}
