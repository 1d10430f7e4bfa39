"""What a benchmark found: the times of every way to run a network, and which to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from disbud.errors import DisbudError
from disbud.origin import Json

DENSE, DENSE_BF16 = "dense", "dense bfloat16"
_DENSE = (DENSE, DENSE_BF16)


@dataclass(frozen=True)
class Timing:
    """Median seconds, and the medians of the ratios to both dense routes in the same round: above 1 is faster.

    `memory_format` is the faster one, for torch's own code on images; sparse kernels have a layout of their own. The
    middle half of the rounds lies in the `interval` of seconds.
    """

    seconds: float
    against_dense: float
    against_bfloat16: float
    memory_format: str | None = None
    interval: tuple[float, float] | None = None

    def is_clearly_below(self, other: Timing) -> bool:
        """Whether the intervals lie apart, and this one is the faster one's."""
        mine, its = (found.interval or (found.seconds, found.seconds) for found in (self, other))
        return mine[1] < its[0]


@dataclass(frozen=True)
class Route:
    """One way to run the network: a training step and a forward pass, or why it cannot go that way."""

    name: str
    step: Timing | None = None
    forward: Timing | None = None
    refused: str | None = None


@dataclass(frozen=True)
class Bench:
    """What `bench` found. `multiply_adds_left` is the share that the ticket leaves, None where it cannot be counted.

    >>> from disbud.acceleration import Bench, Route, Timing
    >>> dense, sparse = Timing(0.2, 1.0, 0.5), Timing(0.05, 4.0, 2.0)
    >>> found = Bench((Route("dense", dense, dense), Route("sparse", sparse, sparse)), 0.1, batch=64, threads=1)
    >>> found.best("step").name
    'sparse'
    """

    routes: tuple[Route, ...]
    multiply_adds_left: float | None
    batch: int
    threads: int

    def best(self, what: str) -> Route:
        """The route with the shortest "step" or "forward"."""
        return self._best(what, [route.name for route in self.routes])

    def recommended(self, what: str) -> Route:
        """The route to take for a "step" or a "forward": a dense one, where no other is clearly faster."""
        best, dense = self.best(what), self._best(what, _DENSE)
        found, its = self._timing(best, what), self._timing(dense, what)
        assert found is not None
        assert its is not None
        return best if found.is_clearly_below(its) else dense

    def recommendation(self, what: str) -> str:
        """In words, the route to take for training ("step") or inference ("forward")."""
        purpose = {"step": "to train", "forward": "to run"}[what]
        if not self.is_timed(what):
            return f"{purpose}: no way can be gone here; {self.routes[0].refused}"
        best, chosen = self.best(what), self.recommended(what)
        if chosen.name in _DENSE:
            return f"{purpose}: {chosen.name}; no route is {'' if best is chosen else 'clearly '}faster here"
        found = self._timing(chosen, what)
        assert found is not None
        ratios = f"{found.against_dense:.1f} times as fast as dense float32, {found.against_bfloat16:.1f} as bfloat16"
        return f"{purpose}: {chosen.name}, {ratios}"

    def is_timed(self, what: str) -> bool:
        """Whether the network can make a "step" or a "forward" here at all."""
        return any(self._timing(route, what) for route in self.routes)

    def to_json(self) -> dict[str, Json]:
        """Everything as plain JSON values."""
        chosen = {
            what: self.recommended(what).name if self.is_timed(what) else None for what in ("step", "forward")
        }
        return {**asdict(self), "routes": [asdict(route) for route in self.routes], "recommended": chosen}

    def _best(self, what: str, names: Sequence[str]) -> Route:
        timed = [(self._timing(route, what), route) for route in self.routes if route.name in names]
        found = [(timing.seconds, route) for timing, route in timed if timing is not None]
        if not found:
            raise DisbudError(f"no way to run it makes a {what} here: {self.routes[0].refused}")
        return min(found, key=lambda pair: pair[0])[1]

    @staticmethod
    def _timing(route: Route, what: str) -> Timing | None:
        return route.step if what == "step" else route.forward
