"""The claims of Liu & Singh 2021 about the distributions of kept weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy import stats

from disbud.claims import Decided, for_all
from disbud.reproductions.distributions import distance, kept_weights
from disbud.reproductions.reading import judged_records, named
from disbud.study.deciding import Setting, held
from disbud.study.record import Record
from disbud.study.specification.forms import FunctionForm
from disbud.study.trial import Trial

ALTERED = ("shuffle", "reinit")
TENTH = 0.1
LEAST_KEPT = 500  # of fewer weights, a deviation says too little
CLOSE = 0.05


def nearer_than_random(form: FunctionForm, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """1.2: in more than half of the layers, W1(unaltered, altered) < W1(unaltered, global random mask), trained."""
    cells: dict[str, Decided] = {}
    for plain, altered in _pairs(variants):
        random = replace(plain, method="random")
        for zeros in ("out", "in"):
            shares = {}
            for seed, (one, other) in _both(setting, plain, altered).items():
                reference = judged_records(setting, random).get(seed)
                if reference is None:
                    continue
                near, far = (_distances(one, against, "trained", zeros) for against in (other, reference))
                shared = [layer for layer in near if layer in far]
                if shared:
                    shares[seed] = sum(near[layer] < far[layer] for layer in shared) / len(shared)
            name = f"{named(altered, variants)}, zeros {zeros}"
            cells[name] = held(shares, what="the share of layers that are nearer", least=0.5)
    return for_all(cells)


def changes_minimally(form: FunctionForm, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """1.3: over the layers, the mean of W1/sd and of |ratio of deviations - 1| are at most a tenth, zeros out."""
    cells: dict[str, Decided] = {}
    for plain, altered in _pairs(variants):
        for when in ("start", "trained"):
            changes = {
                seed: _change(one, other, when)
                for seed, (one, other) in _both(setting, plain, altered).items()
            }
            known = {seed: change for seed, change in changes.items() if change is not None}
            name = f"{named(altered, variants)}, {when}"
            cells[name] = held(known, what="the larger change", most=TENTH)
    return for_all(cells)


def as_a_cut_gaussian(form: FunctionForm, setting: Setting, variants: Sequence[Trial]) -> Decided:
    """1.4: of magnitude's kept weights, the deviation unaltered over that shuffled, against the closed form."""
    cells: dict[str, Decided] = {}
    bare: dict[str, Decided] = {}  # where no layer keeps enough weights: no seed more would help
    for plain, altered in _pairs(variants):
        if plain.method != "magnitude" or altered.intervention != "shuffle":
            continue
        offs = {seed: _off(one, other) for seed, (one, other) in _both(setting, plain, altered).items()}
        known = {seed: off for seed, off in offs.items() if off is not None}
        place = cells if known or not offs else bare
        place[named(plain, variants)] = held(known, what="the relative error of the ratio", most=CLOSE)
    return for_all(cells or bare)


def gaussian_ratio(density: float) -> float:
    """What cutting a Gaussian to its largest absolute values multiplies its deviation with.

    sqrt(1 + t phi(t) / (1 - Phi(t))) with t = Phi^-1(1 - density/2): 1.754 at a density of .223.
    """
    t = float(stats.norm.ppf(1 - density / 2))
    return math.sqrt(1 + t * float(stats.norm.pdf(t)) / float(stats.norm.sf(t)))


def _off(plain: Record, shuffled: Record) -> float | None:
    """The mean over layers of |measured / predicted - 1|."""
    one, other = kept_weights(plain, "start"), kept_weights(shuffled, "start")
    errors = [
        abs(
            one[layer].deviation / other[layer].deviation / gaussian_ratio(one[layer].kept / one[layer].total)
            - 1
        )
        for layer in one
        if layer in other and LEAST_KEPT <= one[layer].kept < one[layer].total
    ]
    return float(np.mean(errors)) if errors else None


def _change(plain: Record, altered: Record, when: str) -> float | None:
    one, other = kept_weights(plain, when), kept_weights(altered, when)
    layers = [
        layer for layer in one if layer in other and min(one[layer].deviation, other[layer].deviation) > 0
    ]
    if not layers:
        return None
    apart = np.mean([distance(one[k], other[k], zeros="out") / one[k].deviation for k in layers])
    spread = np.mean([abs(other[k].deviation / one[k].deviation - 1) for k in layers])
    return float(max(apart, spread))


def _distances(one: Record, other: Record, when: str, zeros: str) -> Mapping[str, float]:
    a, b = kept_weights(one, when), kept_weights(other, when)
    return {layer: distance(a[layer], b[layer], zeros=zeros) for layer in a if layer in b}


def _pairs(variants: Sequence[Trial]) -> Iterator[tuple[Trial, Trial]]:
    """Each unaltered ticket with its altered versions."""
    known = set(variants)
    for altered in variants:
        if altered.intervention in ALTERED and replace(altered, intervention=None) in known:
            yield replace(altered, intervention=None), altered


def _both(setting: Setting, plain: Trial, altered: Trial) -> dict[int, tuple[Record, Record]]:
    one, other = judged_records(setting, plain), judged_records(setting, altered)
    return {seed: (one[seed], other[seed]) for seed in one if seed in other}
