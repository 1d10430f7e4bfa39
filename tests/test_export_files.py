"""Pruned networks as safetensors and ONNX: what is written is what is read, sizes hold, hostile files are errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import disbud
from compaction_oracle import at_random, lived_in
from disbud import DisbudError, TicketError
from disbud.export import from_safetensors, to_onnx, to_safetensors
from disbud.models import build
from networks import NETWORKS

Change = Callable[[dict[str, Tensor], dict[str, object]], None]


@pytest.mark.parametrize("density", [0.0, 0.01, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_what_is_saved_is_what_is_read(name: str, density: float, tmp_path: Path) -> None:
    model = lived_in(NETWORKS[name].build()).float()
    ticket = at_random(model, density, 0)
    report = to_safetensors(model, ticket, tmp_path / "small")
    again = NETWORKS[name].build(seed=9)
    found = from_safetensors(tmp_path / "small", again)
    ticket.apply_(model)
    assert found == ticket
    assert found.origin == ticket.origin
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
    assert report.table_bytes == (tmp_path / "small").stat().st_size


def test_half_precision_rounds_kept_weights_alone(tmp_path: Path) -> None:
    model = lived_in(build("resnet20:width=0.5")).float()
    ticket = at_random(model, 0.1, 0)
    to_safetensors(model, ticket, tmp_path / "small", values="fp16")
    again = build("resnet20:width=0.5", seed=3)
    from_safetensors(tmp_path / "small", again)
    ticket.apply_(model)
    for key, value in model.state_dict().items():
        want = value.half().float() if key in ticket.masks else value
        assert torch.equal(again.state_dict()[key], want)


@pytest.mark.parametrize("name", ["resnet20", "vgg16-bn"])
def test_at_95_percent_half_precision_takes_less_than_8_percent(name: str, tmp_path: Path) -> None:
    model = build(name)
    ticket = disbud.prune(model, "magnitude", sparsity=0.95)
    report = to_safetensors(model, ticket, tmp_path / "small", values="fp16")
    assert (tmp_path / "small").stat().st_size <= 0.08 * report.dense_bytes


def test_the_smaller_of_both_ways_to_say_where_weights_lie_is_taken(tmp_path: Path) -> None:
    model = nn.Linear(100, 80, bias=False)
    for density in (0.05, 0.11, 0.14, 0.5, 1.0):
        ticket = at_random(model, density, 0)
        report = to_safetensors(model, ticket, tmp_path / "small")
        by_gaps = ticket.kept  # a byte each, where none skips 255
        wanted = ("all", 0) if density == 1 else ("gaps", by_gaps) if by_gaps < 1000 else ("bits", 1000)
        assert (report.layers[0].form, report.layers[0].index_bytes) == wanted


def test_parameters_without_a_mask_are_whole(tmp_path: Path) -> None:
    model = NETWORKS["conv"].build()
    mask = torch.zeros(4, 3, 3, 3)
    mask[0] = 1
    ticket = disbud.Ticket.from_masks({"0.weight": mask}, model=model)
    to_safetensors(model, ticket, tmp_path / "small")
    again = NETWORKS["conv"].build(seed=2)
    assert from_safetensors(tmp_path / "small", again) == ticket
    assert torch.equal(again[3].weight, model[3].weight)
    assert not again[0].weight[1:].any()


def test_what_is_asked_wrongly_is_said(tmp_path: Path) -> None:
    model = nn.Linear(4, 3)
    ticket = at_random(model, 0.5, 0)
    with pytest.raises(DisbudError, match="did you mean"):
        to_safetensors(model, ticket, tmp_path / "x", values="fp23")  # type: ignore[arg-type]
    with pytest.raises(DisbudError, match=r"torch\.float64.*model\.float\(\)"):
        to_safetensors(nn.Linear(4, 3).double(), ticket, tmp_path / "x")
    with pytest.raises(DisbudError, match="cannot be written"):
        to_safetensors(model, ticket, tmp_path / "no" / "x")
    with torch.no_grad():
        model.weight.fill_(1e5)
    with pytest.raises(DisbudError, match="fp16 cannot hold"):
        to_safetensors(model, ticket, tmp_path / "x", values="fp16")
    assert not list(tmp_path.iterdir())


# Files of others


def edited(path: Path, change: Change) -> None:
    """Change tensors and description of a file, and make its checksum right again."""
    from disbud.export.packed import _checksum

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors, described = load_file(path), json.loads(metadata["disbud.packed"])
    change(tensors, described)
    text = json.dumps(described)
    save_file(tensors, path, {"disbud.packed": text, "disbud.sha256": _checksum(text, tensors)})


def _bytes(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.uint8)


HOSTILE: dict[str, tuple[Change, str]] = {
    "another version": (lambda t, d: d.update(format_version=2), "format_version: 2 is not known"),
    "no version": (lambda t, d: d.pop("format_version"), "format_version"),
    "more fields": (lambda t, d: d.update(more=1), "unexpected fields"),
    "weights no list": (lambda t, d: d.update(weights=3), "weights"),
    "weight no row": (lambda t, d: d.update(weights=[["0.weight"]]), r"weights\[0\]"),
    "weight of no form": (lambda t, d: d["weights"][0].__setitem__(2, "zip"), "'zip' is none of"),
    "weight twice": (lambda t, d: d["weights"].append(d["weights"][0]), "comes twice"),
    "another shape": (lambda t, d: d["weights"][0].__setitem__(1, [10**9, 10**9]), r"is \(1000000000, 1000000000\)"),
    "another name": (lambda t, d: d["weights"][0].__setitem__(0, "9.weight"), "not there in the model"),
    "a bias as weight": (lambda t, d: d["weights"].append(["0.bias", [8], "all"]), "lacks"),
    "tensor missing": (lambda t, d: t.pop("0.bias"), r"lacks \['0.bias'\]"),
    "tensor besides": (lambda t, d: t.update(extra=_bytes(1)), r"has \['extra'\] besides"),
    "bias of another size": (lambda t, d: t.update({"0.bias": torch.zeros(9)}), r"0\.bias: is \(9,\)"),
    "bias of another type": (lambda t, d: t.update({"0.bias": torch.zeros(8).half()}), r"0\.bias: is torch\.float16"),
    "values of another type": (lambda t, d: t.update({"values/0.weight": _bytes(1)}), "numbers of F32 or F16"),
    "too many values": (lambda t, d: t.update({"values/0.weight": torch.zeros(999)}), "up to 48 numbers"),
    "too few values": (lambda t, d: t.update({"values/0.weight": torch.zeros(1)}), r"are 1, and the mask keeps \d+"),
    "values in a square": (lambda t, d: t.update({"values/0.weight": torch.zeros(2, 2)}), "numbers of F32"),
    "mask of floats": (lambda t, d: t.update({"mask/0.weight": torch.zeros(6)}), "a row of bytes"),
    "mask too short": (lambda t, d: t.update({"mask/0.weight": _bytes(1, 2)}), "48 bits need 6 bytes, not 2"),
    "gap past the end": (
        lambda t, d: (d["weights"][0].__setitem__(2, "gaps"), t.update({"mask/0.weight": _bytes(0, 200)})),
        "goes up to weight 201, and the layer has 48",
    ),
    "gap without end": (
        lambda t, d: (d["weights"][0].__setitem__(2, "gaps"), t.update({"mask/0.weight": _bytes(0, 255)})),
        "end before",
    ),
    "origin of no kind": (lambda t, d: d.update(origin=[]), "origin"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_an_error_and_leaves_the_model(name: str, tmp_path: Path) -> None:
    change, message = HOSTILE[name]
    path = tmp_path / "small"
    model = NETWORKS["linear"].build()
    to_safetensors(model, at_random(model, 0.5, 0), path)
    edited(path, change)
    other = NETWORKS["linear"].build(seed=4)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(TicketError, match=message) as raised:
        from_safetensors(path, other)
    assert str(path) in str(raised.value)
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())


def test_a_damaged_byte_is_found_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "small"
    model = NETWORKS["linear"].build()
    to_safetensors(model, at_random(model, 0.5, 0), path)
    content = path.read_bytes()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 0x41
        path.write_bytes(damaged)
        with pytest.raises(TicketError):
            from_safetensors(path, model)
    for length in (0, 5, 100, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(TicketError):
            from_safetensors(path, model)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    model = NETWORKS["linear"].build()
    at_random(model, 0.5, 0).save(tmp_path / "ticket")
    with pytest.raises(TicketError, match="is no packed network"):
        from_safetensors(tmp_path / "ticket", model)
    with pytest.raises(TicketError, match="cannot be read"):
        from_safetensors(tmp_path, model)
    to_safetensors(model, at_random(model, 0.5, 0), tmp_path / "small")
    with pytest.raises(TicketError, match="in the model"):
        from_safetensors(tmp_path / "small", NETWORKS["conv"].build())


# ONNX


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.layer(x + y)
        return out


@pytest.mark.parametrize("kind", [tuple, list, dict])
def test_onnx_of_several_inputs_is_refused(kind: type, tmp_path: Path) -> None:
    inputs = {"x": torch.zeros(2, 4), "y": torch.zeros(2, 4)}
    example = inputs if kind is dict else kind(inputs.values())
    model = Sum()
    with pytest.raises(DisbudError, match=f"one tensor.*the example is a {kind.__name__}"):
        to_onnx(model, at_random(model, 0.5, 0), tmp_path / "net.onnx", example=example)
    assert not list(tmp_path.iterdir())


def test_onnx_computes_the_same(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = lived_in(NETWORKS["batch-norm"].build()).float()
    ticket = at_random(model, 0.4, 0)
    to_onnx(model, ticket, tmp_path / "net.onnx", example=torch.zeros(1, 3, 6, 6))
    inputs, _ = NETWORKS["batch-norm"].batch(16, dtype=torch.float32)
    session = runtime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {"input": inputs.numpy()})
    ticket.apply_(model)
    with torch.no_grad():
        want = model.eval()(inputs)
    assert float((torch.from_numpy(made) - want).norm() / want.norm()) < 1e-5
