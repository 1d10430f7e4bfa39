"""How the entries of a pattern are laid out for the kernels, for images of one size: sorted, blocked, as offsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from disbud.errors import DisbudError
from disbud.kernels.geometry import Axis, Taps
from disbud.kernels.layout import LANES, Layout
from disbud.kernels.pattern import Pattern

# Input channels are walked in blocks, so that their rows stay in the first cache; a block should still give an output
# about a dozen entries, or loading and storing its sums costs more than the cache saves.
ENTRIES_A_WALK = 12
LEAST_CHANNELS = 16


@dataclass(frozen=True, eq=False)
class Gather:
    """One phase of a layer's output, or of its input gradient; the fields are those of `struct gather` in sparse.h.

    `order` says which of the pattern's values each entry takes.
    """

    outputs: int
    channel_blocks: int
    bands: int
    rows: int
    columns: int
    halo: int
    input_steps: tuple[int, int, int]
    output_steps: tuple[int, int, int]
    places: Tensor
    starts: Tensor
    offsets: Tensor
    first_band: Tensor
    last_band: Tensor
    sources: Tensor
    reach: int
    order: Tensor


@dataclass(frozen=True, eq=False)
class Plan:
    """What the kernels need for one pattern and images of one size: layouts without their number of images."""

    input: Layout
    output: Layout
    forward: Gather
    backward: tuple[Gather, ...]


@dataclass(frozen=True, eq=False)
class _Side:
    """One side of a layer: where its channels (or features) start, its rows' length, and its first pixel."""

    places: Tensor
    row: int
    origin: int


@dataclass(frozen=True, eq=False)
class _Entries:
    """The kept weights of a phase: from which channel to which, by which taps, and their numbers in the pattern."""

    source: Tensor
    target: Tensor
    row: Tensor
    column: Tensor
    number: Tensor


@dataclass(frozen=True)
class Sizes:
    """What a plan depends on besides the pattern."""

    channels: int
    height: int
    width: int
    halo: int
    output_halo: int


@dataclass(frozen=True)
class _Window:
    """A convolution's window along rows and columns of images of one size, and how far it steps over their edge."""

    rows: Axis
    columns: Axis
    input_halo: int
    output_halo: int


# Asked for at every call of a layer, several times; kept as long as the pattern is.
_WINDOWS: WeakKeyDictionary[Pattern, dict[tuple[int, int], _Window]] = WeakKeyDictionary()


def _window(pattern: Pattern, size: tuple[int, int]) -> _Window:
    windows = _WINDOWS.setdefault(pattern, {})
    if size not in windows:
        rows, columns = (
            Axis(
                size[i], pattern.mask.shape[2 + i], pattern.stride[i], pattern.padding[i], pattern.dilation[i]
            )
            for i in (0, 1)
        )
        backward = max(taps.reach for taps in columns.backward())
        windows[size] = _Window(rows, columns, columns.forward().reach, backward)
    return windows[size]


def axes(pattern: Pattern, size: tuple[int, int]) -> tuple[Axis, Axis]:
    """The window of a convolution along the rows and along the columns of images of that size."""
    window = _window(pattern, size)
    return window.rows, window.columns


def input_halo(pattern: Pattern, size: tuple[int, int]) -> int:
    """How many zero columns the layer needs between the rows of its input."""
    return 0 if pattern.is_linear else _window(pattern, size).input_halo


def output_halo(pattern: Pattern, size: tuple[int, int]) -> int:
    """How many zero columns the layer needs between the rows of its output's gradient."""
    return 0 if pattern.is_linear else _window(pattern, size).output_halo


_PLANS: WeakKeyDictionary[Pattern, dict[Sizes, Plan]] = WeakKeyDictionary()


def plan(pattern: Pattern, sizes: Sizes) -> Plan:
    """The plan of a layer for images of one size; made once and kept as long as the pattern is."""
    plans = _PLANS.setdefault(pattern, {})
    if sizes not in plans:
        plans[sizes] = _plan(pattern, sizes)
    return plans[sizes]


def _plan(pattern: Pattern, sizes: Sizes) -> Plan:
    source = Layout(1, sizes.channels, sizes.height, sizes.width, sizes.halo)
    if pattern.is_linear:
        return _linear(pattern, source)
    vertical, horizontal = axes(pattern, (source.height, source.width))
    target = Layout(1, pattern.outputs, vertical.output, horizontal.output, sizes.output_halo)
    entries, sides = _entries(pattern), (_channels(source), _channels(target))
    turned = _Entries(entries.target, entries.source, entries.row, entries.column, entries.number)
    backward = tuple(
        _gather(turned, (rows, columns), sides[::-1])
        for rows in vertical.backward()
        for columns in horizontal.backward()
    )
    return Plan(source, target, _gather(entries, (vertical.forward(), horizontal.forward()), sides), backward)


def _linear(pattern: Pattern, source: Layout) -> Plan:
    """Features are places of one pixel each, wherever they lie in the input; no copy makes a vector of them."""
    target = Layout(1, pattern.outputs)
    channel = torch.arange(source.channels).view(-1, 1, 1) * source.span
    row = torch.arange(source.height).view(-1, 1) * source.pitch * LANES
    features = (channel + source.origin + row + torch.arange(source.width) * LANES).flatten()
    sides = (_Side(features, 0, 0), _Side(torch.arange(pattern.outputs) * target.span, 0, 0))
    entries = _entries(pattern)
    turned = _Entries(entries.target, entries.source, entries.row, entries.column, entries.number)
    one = Taps(0, 1, 1, 1, 1, {0: 0})
    return Plan(
        source, target, _gather(entries, (one, one), sides), (_gather(turned, (one, one), sides[::-1]),)
    )


def _channels(layout: Layout) -> _Side:
    return _Side(torch.arange(layout.channels) * layout.span, layout.pitch * LANES, layout.origin)


def _entries(pattern: Pattern) -> _Entries:
    target, source, *taps = pattern.mask.nonzero(as_tuple=True)
    if pattern.groups > 1:
        outputs_a_group = pattern.outputs // pattern.groups
        source = source + target // outputs_a_group * pattern.mask.shape[1]
    nothing = torch.zeros_like(target)
    row, column = taps or (nothing, nothing)
    return _Entries(source, target, row, column, torch.arange(len(target)))


def _gather(entries: _Entries, taps: tuple[Taps, Taps], sides: tuple[_Side, _Side]) -> Gather:
    rows, columns = taps
    source, target = sides
    band_shifts = sorted(rows.shifts.values())
    bands = max(1, len(band_shifts))
    band_of = {k: band_shifts.index(shift) for k, shift in rows.shifts.items()}
    row_band, row_shift = _lookup(band_of, entries.row), _lookup(rows.shifts, entries.row)
    column_shift = _lookup(columns.shifts, entries.column)
    live = (_member(rows.shifts, entries.row) & _member(columns.shifts, entries.column)).nonzero()[:, 0]
    sources, outputs = len(source.places), len(target.places)
    channels = _channels_a_block(len(live), sources, outputs)
    channel_blocks = -(-sources // channels)
    walk = (entries.source // channels * outputs + entries.target) * bands + row_band
    # Within a band the entries go along the input, so that neighbours share cache lines.
    place = source.places[entries.source] + row_shift * source.row + column_shift * LANES
    order = live[_sorted_by(walk[live], place[live])]
    starts = torch.zeros(channel_blocks * outputs * bands + 1, dtype=torch.int64)
    starts[1:] = torch.bincount(walk[live], minlength=len(starts) - 1).cumsum(0)
    by_output = torch.cat([starts[:-1].view(-1, bands), starts[bands::bands].view(-1, 1)], 1)
    inside = [[i * rows.stride + shift for shift in band_shifts] for i in range(rows.count)]
    step = source.row * rows.stride
    return Gather(
        outputs=outputs,
        channel_blocks=channel_blocks,
        bands=bands,
        rows=rows.count,
        columns=columns.count,
        halo=target.origin // LANES if rows.step == columns.step == 1 else 0,
        input_steps=(source.origin, step, LANES * columns.stride),
        output_steps=(
            target.origin + rows.first * target.row + columns.first * LANES,
            rows.step * target.row,
            columns.step * LANES,
        ),
        places=target.places.contiguous(),
        starts=_int32(by_output),
        offsets=_int32(place[order]),
        first_band=_counts([sum(at < 0 for at in row) for row in inside]),
        last_band=_counts([sum(at < rows.size for at in row) for row in inside]),
        sources=source.places.contiguous(),
        reach=max(band_shifts, default=0) * source.row,
        order=_int32(entries.number[order]),
    )


def _channels_a_block(entries: int, sources: int, outputs: int) -> int:
    density = entries / (sources * outputs)
    return sources if density == 0 else min(sources, max(LEAST_CHANNELS, round(ENTRIES_A_WALK / density)))


def _sorted_by(first: Tensor, second: Tensor) -> Tensor:
    by_second = second.argsort(stable=True)
    return by_second[first[by_second].argsort(stable=True)]


def _lookup(table: dict[int, int], keys: Tensor) -> Tensor:
    """table[key] for every key; anything for those it lacks, whose entries are left out."""
    dense = torch.zeros(max(table, default=0) + 1, dtype=torch.int64)
    for key, value in table.items():
        dense[key] = value
    return dense[keys.clamp(max=len(dense) - 1)]


def _member(table: dict[int, int], keys: Tensor) -> Tensor:
    return torch.isin(keys, torch.tensor(list(table), dtype=torch.int64))


def _counts(numbers: Sequence[int]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


def _int32(numbers: Tensor) -> Tensor:
    if len(numbers) and int(numbers.abs().max()) >= 2**31:
        raise DisbudError(
            "a block of 16 images of one layer takes more than 8 GB; the kernels cannot address that"
        )
    return numbers.int().contiguous()
