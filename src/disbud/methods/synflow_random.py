"""SynFlow with random rounds: width first, paths later (the naive version of node-path balancing's 2023 submission)."""

from __future__ import annotations

from disbud.errors import DisbudError, unknown_name
from disbud.methods.random import random
from disbud.methods.scoring import Scoring, Tensors
from disbud.methods.synflow import synflow

VARIANTS = ("plain", "no-regrowth")


def synflow_random_rounds(
    s: Scoring, *, every: int, until: int, variant: str, biases: str, dtype: str
) -> Tensors:
    """SynFlow's score; but U(0, 1) in rounds 1, 1 + every, 1 + 2 every, ..., of those up to round `until`.

    What the variants mean is read off code, no paper says it: there a random round draws scores for all weights, those
    pruned before as well, which may so return ("plain"). With "no-regrowth" it ranks those still kept. In SynFlow's
    rounds what is pruned scores nothing and does not return.
    """
    _check(every, until, variant)
    if s.round % every or s.round >= until:
        return synflow(s, biases=biases, dtype=dtype)
    s.memo.pop("network", None)  # weights that it has taken out may return
    drawn = random(s)
    if variant == "plain" or s.positions is None:
        return drawn
    return {name: drawn[name].reshape(-1)[where.long()] for name, where in s.positions.items()}


def _check(every: object, until: object, variant: object) -> None:
    for name, value, least in (("every", every, 1), ("until", until, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise DisbudError(f"{name} is a whole number of rounds of at least {least}, not {value!r}")
    if variant not in VARIANTS:
        raise unknown_name("variant of random rounds", str(variant), VARIANTS)
