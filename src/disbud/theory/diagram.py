"""The phase diagram of an activation: the phase over a grid of (sigma_b, sigma_w)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from disbud.errors import DisbudError, unknown_name
from disbud.theory.activations import ActivationLike, activation
from disbud.theory.phases import Phase, phase

_NUMBERS = ("chi", "q", "correlation", "correlation_depth", "gradient_depth")


@dataclass(frozen=True)
class PhaseDiagram:
    """The phase at each (sigma_b, sigma_w): one row of `phases` for each sigma_b, one column for each sigma_w.

    >>> from disbud import theory
    >>> diagram = theory.phase_diagram("tanh", sigma_b=[0.0, 0.3], sigma_w=[0.5, 2.0])
    >>> [[phase.name for phase in row] for row in diagram.phases]
    [['ordered', 'chaotic'], ['ordered', 'chaotic']]
    >>> diagram.grid("chi").shape
    (2, 2)
    """

    activation: str
    sigma_b: tuple[float, ...]
    sigma_w: tuple[float, ...]
    phases: tuple[tuple[Phase, ...], ...]

    def grid(self, quantity: str) -> NDArray[np.float64]:
        """One quantity of the phases as an array, sigma_b down and sigma_w across, as a contour plot takes it."""
        if quantity not in _NUMBERS:
            raise unknown_name("quantity of a phase", quantity, _NUMBERS)
        return np.array([[getattr(one, quantity) for one in row] for row in self.phases], dtype=np.float64)


def phase_diagram(
    like: ActivationLike,
    *,
    sigma_b: Iterable[float] | None = None,
    sigma_w: Iterable[float] | None = None,
    start: float = 1.0,
) -> PhaseDiagram:
    """The phase at every pair of the given deviations (Poole et al. 2016, fig. 1), by default 0 to 0.5 and 0.5 to 3.

    >>> from disbud import theory
    >>> theory.phase_diagram("erf", sigma_b=[0.1], sigma_w=[0.5]).grid("q").round(4).tolist()
    [[0.0145]]
    """
    phi = activation(like)
    rows = _deviations("sigma_b", sigma_b, np.linspace(0, 0.5, 11))
    columns = _deviations("sigma_w", sigma_w, np.linspace(0.5, 3, 21))
    phases = tuple(tuple(phase(phi, sigma_w=w, sigma_b=b, start=start) for w in columns) for b in rows)
    return PhaseDiagram(phi.name, rows, columns, phases)


def _deviations(
    name: str, given: Iterable[float] | None, default: Sequence[float] | NDArray[np.float64]
) -> tuple[float, ...]:
    values = tuple(float(value) for value in (default if given is None else given))
    if not values:
        raise DisbudError(f"{name} is a sequence of at least one deviation")
    return values
