"""Which channels go: those that lead nowhere, and those that nothing feeds and that say nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from disbud.compaction.coupling import Flags, Numbers
from disbud.compaction.following import Followed
from disbud.compaction.silence import silent
from disbud.compaction.watching import Layer
from disbud.graph.kernels import Kernels
from disbud.isolation import Example
from disbud.ticket import Ticket

SPEAKS = "no input reaches it, but it speaks through its bias or its normalisation's shift"
EQUAL_GROUPS = "is dead, but the groups of a grouped convolution have to stay equal"
FEEDS = "leads only to channels that are dead and have to stay"
ONE_UNIT = "is dead, but a layer keeps at least one unit"


@dataclass(frozen=True)
class Decision:
    """Which channels stay, by the least number of each; which of them are dead, and why those stay."""

    stays: Flags
    fed: Flags
    leads: Flags
    reasons: dict[int, str]


@dataclass(frozen=True)
class _Edges:
    """From each channel to those that some kept weight leads it to."""

    source: Numbers
    target: Numbers

    def spread(self, flags: Flags, *, back: bool = False) -> Flags:
        """The channels flagged, and all that follow from them."""
        here, there = (self.target, self.source) if back else (self.source, self.target)
        flags = flags.copy()
        while True:
            fresh = there[flags[here] & ~flags[there]]
            if not fresh.size:
                return flags
            flags[fresh] = True


def decide(work: nn.Module, ticket: Ticket, followed: Followed, inputs: Example) -> Decision:
    """Take out as many channels as can be without a change of the function, of its derivatives or of its statistics."""
    channels = followed.channels
    edges = _edges(work, ticket, followed)
    fed = edges.spread(channels.fed)
    held = channels.holding()
    reasons = dict(channels.held)
    leads = edges.spread(held, back=True)
    quiet = _quiet(work, ticket, followed, inputs, edges, leads & ~fed & ~held)
    extra = channels.flags()
    while True:
        stays = (edges.spread(held | extra, back=True) & ~quiet) | held | extra
        more = _needed(followed, stays)
        if not more:
            break
        for channel, reason in more.items():
            extra[channel] = True
            reasons.setdefault(channel, reason)
    for dead in np.flatnonzero(stays & ~(leads & fed)):
        reasons.setdefault(int(dead), SPEAKS if leads[dead] else FEEDS)
    return Decision(stays, fed, leads, reasons)


def kernels_of(layer: Layer, weight: Tensor) -> Kernels:
    """How a layer's weight is laid out."""
    return Kernels(tuple(weight.shape), layer.groups, layer.transposed)


def links_of(layer: Layer, weight: Tensor, mask: Tensor | None) -> Flags:
    """Which of its inputs each of a layer's outputs reads, by (group, input, output)."""
    kept = torch.ones(weight.shape, dtype=torch.bool) if mask is None else mask
    kept = kept & torch.from_numpy(layer.usable)
    found: Flags = kernels_of(layer, weight).split(kept).any(3).numpy()
    return found


def _edges(work: nn.Module, ticket: Ticket, followed: Followed) -> _Edges:
    of, pairs = followed.channels.of, [np.zeros((2, 0), np.int64)]
    for name, layer in followed.layers.items():
        linked = links_of(layer, followed.owned[name].tensor, ticket.masks.get(name))
        group, into, out_of = np.nonzero(linked)
        inputs = layer.inputs.reshape(layer.groups, -1)[group, into]
        outputs = layer.outputs.reshape(layer.groups, -1)[group, out_of]
        pairs.append(np.unique(np.stack([of[inputs], of[outputs]]), axis=1))
    source, target = np.concatenate(pairs, axis=1)
    return _Edges(source, target)


def _quiet(
    work: nn.Module, ticket: Ticket, followed: Followed, inputs: Example, edges: _Edges, candidates: Flags
) -> Flags:
    """The channels that say nothing, and never will: only others such as they feed them."""
    found = silent(work, ticket, followed, inputs, candidates)
    while True:
        spoken_to = edges.target[~found[edges.source]]
        fewer = found.copy()
        fewer[spoken_to] = False
        if np.array_equal(fewer, found):
            return found
        found = fewer


def _needed(followed: Followed, stays: Flags) -> dict[int, str]:
    """Channels that have to stay after all for the layers to be layers, and why."""
    of = followed.channels.of
    more: dict[int, str] = {}
    axes = [numbers for owned in followed.owned.values() for numbers in owned.axes.values()]
    axes += [side for layer in followed.layers.values() for side in (layer.inputs, layer.outputs)]
    for numbers in axes:
        if numbers.size and not stays[of[numbers]].any():
            more[int(of[numbers[0]])] = ONE_UNIT
    for layer in followed.layers.values():
        if layer.groups > 1 and not more:
            more |= _for_equal_groups(layer, of, stays)
    return more


def _for_equal_groups(layer: Layer, of: Numbers, stays: Flags) -> Mapping[int, str]:
    """What must stay so that each group that is left has as many inputs and outputs as the others."""
    sides = [of[numbers].reshape(layer.groups, -1) for numbers in (layer.inputs, layer.outputs)]
    counts = [stays[side].sum(1) for side in sides]
    left = (counts[0] > 0) | (counts[1] > 0)
    more: dict[int, str] = {}
    for side, count in zip(sides, counts, strict=True):
        most = max(1, int(count[left].max(initial=0)))
        for group in np.flatnonzero(left & (count < most)):
            dead = side[group][~stays[side[group]]]
            for channel in dead[: most - count[group]]:
                more[int(channel)] = EQUAL_GROUPS
    return more
