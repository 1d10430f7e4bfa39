"""The parts of exported C: half precision, storage forms, memory, reports; each against brute force."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import disbud
from compaction_oracle import at_random, lived_in
from disbud import DisbudError
from disbud.export import to_c
from disbud.export.coding import gaps, places_of
from disbud.export.folding import folded
from disbud.export.memory import placed
from disbud.export.operations import Affine, sources
from disbud.export.storage import stored
from disbud.export.tracing import traced
from disbud.models import build
from export_run import apart, expected, inputs_for, needs_compiler, run
from networks import NETWORKS


@needs_compiler
def test_every_half_precision_number_comes_back_exactly(tmp_path: Path) -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves) & (halves != 0)]
    model = nn.Linear(1, len(halves), bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(halves.astype(np.float32)).view(-1, 1))
    ticket = disbud.Ticket.from_masks({"weight": torch.ones(len(halves), 1)})
    found = to_c(model, ticket, example=torch.zeros(1, 1), values="fp16")
    made = run(found, torch.ones(1, 1), tmp_path, outputs=len(halves))
    assert np.array_equal(made[0].numpy(), halves.astype(np.float32))


@needs_compiler
def test_half_precision_rounds_the_weights_and_nothing_else(tmp_path: Path) -> None:
    model, example = NETWORKS["conv"].build(), NETWORKS["conv"].example
    ticket = at_random(model, 0.5, 0)
    found = to_c(model, ticket, example=example, values="fp16")
    inputs = inputs_for(example, 50)
    exact = expected(model, ticket, inputs)
    with torch.no_grad():
        for name in ticket.masks:
            dict(model.named_parameters())[name].copy_(dict(model.named_parameters())[name].half().float())
    made = run(found, inputs, tmp_path, outputs=3)
    assert apart(made, expected(model, ticket, inputs)) < 1e-5
    assert apart(made, exact) > 1e-5


@needs_compiler
@pytest.mark.parametrize(
    ("n_in", "kept", "form"),
    [
        (256, 0.1, "8-bit places"),
        (900, 0.05, "8-bit gaps"),
        (5000, 0.006, "8-bit gaps"),  # skips of 255 among them
        (5000, 0.0004, "16-bit places"),
        (40, 0.9, "dense"),
    ],
)
@pytest.mark.parametrize("values", ["fp32", "fp16"])
def test_every_form_of_storage_is_read_right(
    n_in: int, kept: float, form: str, values: str, tmp_path: Path
) -> None:
    model = nn.Linear(n_in, 40)
    ticket = at_random(model, kept, 3)
    found = to_c(model, ticket, example=torch.zeros(1, n_in), values=values)  # type: ignore[arg-type]
    if values == "fp16":
        model.weight.data = model.weight.data.half().float()
    assert found.report.layers[0].form == form
    inputs = inputs_for(torch.zeros(1, n_in), 20)
    assert apart(run(found, inputs, tmp_path, outputs=40), expected(model, ticket, inputs)) < 1e-5


def test_the_form_is_the_one_with_the_fewest_bytes() -> None:
    draw = np.random.default_rng(0)
    for size, density in [(64, 0.5), (64, 0.95), (300, 0.01), (3000, 0.001), (300, 0.0), (70000, 0.00001)]:
        weight = draw.standard_normal((5, size)) * (draw.random((5, size)) < density)
        form = stored("w", weight, values="fp32")
        kept, index = int((weight != 0).sum()), 1 if size <= 256 else 2 if size <= 65536 else 4
        by_gap = sum(len(gaps(np.flatnonzero(row))) for row in weight)
        total = form.value_bytes + form.index_bytes
        assert total == min(4 * weight.size, 5 * 1 + 4 * kept + min(index * kept, by_gap))


def test_gaps_are_read_back() -> None:
    draw = np.random.default_rng(1)
    for density in (0.0, 0.001, 0.004, 0.1, 1.0):
        places = np.flatnonzero(draw.random(20_000) < density)
        assert np.array_equal(places_of(gaps(places)), places)
    edges = np.array([254, 255, 510, 765, 1021, 1277])
    assert gaps(edges).tolist() == [254, 0, 254, 254, 255, 0, 255, 0]
    with pytest.raises(DisbudError, match="end before"):
        places_of(np.array([3, 255], np.uint8))


@pytest.mark.parametrize("name", ["residual", "densely-connected", "batch-norm", "strided", "twice"])
def test_arrays_that_live_together_do_not_share_memory(name: str) -> None:
    build_it, example = (Twice, torch.zeros(1, 2, 5, 5)) if name == "twice" else NETWORKS[name][:2]
    program = folded(traced(build_it(), example))
    memory = placed(program)
    holds: dict[int, int] = {}  # of each float of memory: which array it holds
    for operation in program.operations:
        for view in sources(operation):
            if view.array != program.input.array:
                begin = memory.offsets[view.array]
                assert all(holds[place] == view.array for place in range(begin, begin + view.size))
        made = operation.output
        if made.array != program.output.array:
            begin = memory.offsets[made.array]
            holds.update(dict.fromkeys(range(begin, begin + made.size), made.array))
    assert max(holds) + 1 == memory.floats


def test_memory_of_a_chain_is_that_of_its_two_largest_neighbours() -> None:
    model = nn.Sequential(
        nn.Linear(3, 100), nn.ReLU(), nn.Linear(100, 70), nn.Tanh(), nn.Linear(70, 20), nn.Linear(20, 2)
    )
    masks = {layer.name: torch.ones(layer.shape) for layer in disbud.prunable(model)}
    found = to_c(model, disbud.Ticket.from_masks(masks), example=torch.zeros(1, 3))
    assert found.report.ram_bytes == 4 * 170
    assert "#define NET_RAM_BYTES 680" in found.text


def test_batch_norm_is_folded_only_where_nothing_else_reads_the_layer() -> None:
    model = build("resnet20:width=0.25")
    program = folded(traced(lived_in(model), torch.zeros(1, 3, 8, 8)))
    assert not [operation for operation in program.operations if isinstance(operation, Affine)]
    program = folded(traced(lived_in(Twice()), torch.zeros(1, 2, 5, 5)))
    assert len([operation for operation in program.operations if isinstance(operation, Affine)]) == 1


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return x + self.norm(x)


def test_the_report_counts_what_the_file_holds() -> None:
    model = lived_in(build("resnet20:width=0.25"))
    ticket = at_random(model, 0.1, 0)
    for values, wide in (("fp32", 4), ("fp16", 2)):
        found = to_c(model, ticket, example=torch.zeros(1, 3, 16, 16), values=values)  # type: ignore[arg-type]
        held = 0
        bytes_of = {"float": 4, "uint16_t": 2, "uint8_t": 1}
        for kind, count in re.findall(r"static const (\w+) \w+\[(\d+)\]", found.text):
            held += bytes_of[kind] * int(count)
        held += 4 * sum(
            line.count(",") + 1 for line in re.findall(r"static const struct .* = \{(.*)\};", found.text)
        )
        assert found.report.table_bytes == held
        values_ = sum(layer.value_bytes for layer in found.report.layers)
        assert values_ >= wide * sum(layer.kept for layer in found.report.layers)
    assert str(found.report).count("\n") > 20
    assert found.report.dense_bytes == 4 * sum(p.numel() for p in model.parameters())


def test_multiply_adds_are_kept_weights_times_positions() -> None:
    model = nn.Conv2d(2, 3, 3, padding=1)
    mask = torch.zeros(3, 2, 3, 3)
    mask[:, 0, 1, 1] = 1
    ticket = disbud.Ticket.from_masks({"weight": mask})
    report = to_c(model, ticket, example=torch.zeros(1, 2, 5, 6)).report
    assert (report.layers[0].kept, report.multiply_adds) == (3, 3 * 30)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    found = to_c(model, at_random(model, 0.9, 0), example=torch.zeros(1, 3))
    found.save(tmp_path / "net.c")
    assert (tmp_path / "net.c").read_text() == found.text
    with pytest.raises(DisbudError, match="cannot be written"):
        found.save(tmp_path / "no folder" / "net.c")


def test_the_global_streams_are_left_alone() -> None:
    model = build("resnet20:width=0.25")
    ticket = at_random(model, 0.1, 0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    to_c(model, ticket, example=torch.zeros(1, 3, 8, 8))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
