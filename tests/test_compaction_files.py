"""Compacted networks saved and read, exported, expanded, and made by the command; hostile files are errors."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from cyclopts import App
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import disbud
from compaction_oracle import at_random, lived_in
from disbud import DisbudError
from disbud.cli import main
from disbud.cli.app import app
from disbud.cli.compacting import compact as command
from disbud.compaction import Compacted, compact, load, to_onnx
from disbud.models import build
from disbud.seeds import generator
from networks import NETWORKS


def made(name: str, density: float = 0.25) -> tuple[Callable[[], nn.Module], Compacted]:
    network = NETWORKS[name]
    model = lived_in(network.build())
    return network.build, compact(model, at_random(model, density, 1), example=network.example)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_what_is_saved_is_what_is_read(name: str, tmp_path: Path) -> None:
    factory, found = made(name)
    inputs, _ = NETWORKS[name].batch()
    with torch.no_grad():
        for parameter in found.model.parameters():  # trained on, in some way
            parameter.mul_(1.5)
    found.save(tmp_path / "small.safetensors")
    before = copy.deepcopy((model := factory()).state_dict())
    for again in (load(tmp_path / "small.safetensors", model), load(tmp_path / "small.safetensors", factory)):
        assert [type(m) for m in again.model.modules()] == [type(m) for m in found.model.modules()]
        assert again.ticket == found.ticket
        assert str(again) == str(found)
        with torch.no_grad():
            outputs = again.model.eval()(inputs), found.model.eval()(inputs)
            assert torch.allclose(*outputs, rtol=1e-12, atol=1e-14)
        mine, its = found.expand(), again.expand()
        assert mine.keys() == its.keys()
        assert all(torch.equal(value, its[key]) for key, value in mine.items())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_expanded_the_removed_are_what_they_were() -> None:
    _, found = made("batch-norm")
    model = lived_in(NETWORKS["batch-norm"].build())
    full = found.expand()
    for name, value in model.state_dict().items():
        removed = torch.ones(value.shape, dtype=torch.bool)
        if found.kept[name].positions().numel():
            removed.view(-1)[found.kept[name].positions().reshape(-1)] = False
        mask = at_random(model, 0.25, 1).masks.get(name)
        was = value if mask is None else value.masked_fill(~mask, 0)
        assert torch.equal(full[name][removed], was[removed])
    assert any(not kept.whole for kept in found.kept.values())
    moved = {name: value + 1 for name, value in found.model.state_dict().items()}
    assert found.kept["1.bias"].take(found.expand(moved)["1.bias"]).equal(moved["1.bias"])
    with pytest.raises(DisbudError, match=r"lacks 0\.weight"):
        found.expand({name: value for name, value in moved.items() if name != "0.weight"})
    with pytest.raises(DisbudError, match=r"1\.bias is \(9,\)"):
        found.expand({**moved, "1.bias": torch.zeros(9)})
    with pytest.raises(DisbudError, match="has more besides"):
        found.expand({**moved, "more": torch.zeros(9)})


def test_the_small_ticket_guards_training() -> None:
    network = NETWORKS["residual"]
    model = network.build()
    small, ticket = compact(model, at_random(model, 0.3, 0), example=network.example)
    assert isinstance(small, nn.Module)
    assert isinstance(ticket, disbud.Ticket)
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    inputs, labels = network.batch(dtype=torch.float32)
    with disbud.sparse(small, ticket, optimizer):
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(small(inputs), labels).backward()
            optimizer.step()
    own = dict(small.named_parameters())
    assert all(not own[name][~mask].any() for name, mask in ticket.masks.items())


# Files of others


Change = Callable[[dict[str, torch.Tensor], dict[str, object]], None]


def edited(path: Path, change: Change, *, sum_: bool = True) -> None:
    """Change tensors and description of a file, and make its checksum right again."""
    from disbud.compaction.saving import _checksum

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors, described = load_file(path), json.loads(metadata["disbud.compacted"])
    change(tensors, described)
    text = json.dumps(described)
    checksum = _checksum(text, tensors) if sum_ else metadata["disbud.sha256"]
    save_file(tensors, path, {"disbud.compacted": text, "disbud.sha256": checksum})


HOSTILE: dict[str, tuple[Change, str]] = {
    "places out of range": (lambda t, d: t.update({"places/0/1.bias": torch.tensor([0, 99])}), "places from 0 to 3"),
    "places twice": (lambda t, d: t.update({"places/0/1.bias": torch.tensor([1, 1])}), "rising places"),
    "no places": (lambda t, d: t.update({"places/0/1.bias": torch.zeros(0, dtype=torch.int64)}), "should be places"),
    "places of another type": (lambda t, d: t.update({"places/0/1.bias": torch.zeros(2)}), "should be places"),
    "rows without groups": (lambda t, d: t.update({"places/0/1.bias": torch.zeros(2, 1).long()}), "no groups"),
    "another size": (lambda t, d: t.update({"small/1.bias": torch.zeros(9)}), "small/1.bias: is"),
    "a tensor less": (lambda t, d: t.__delitem__("small/1.bias"), "small/1.bias: is not in the file"),
    "no ticket": (lambda t, d: t.__delitem__("ticket"), "ticket: is not in the file"),
    "half a ticket": (lambda t, d: t.update({"ticket": t["ticket"][:100]}), "not a whole safetensors file"),
    "another network": (lambda t, d: d.update(shapes={"a": [3]}), "network of another kind"),
    "another version": (lambda t, d: d.update(format_version=9), "format_version: 9"),
    "no account": (lambda t, d: d.__delitem__("layers"), "is not what was saved"),
    "words for numbers": (lambda t, d: d.update(parameters=["many", "few"]), "should be int"),
    "left out of range": (
        lambda t, d: t.update({"left-at/1.bias": torch.tensor([99]), "left/1.bias": torch.zeros(1).double()}),
        "left/1.bias: does not fit",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", sorted(HOSTILE))
def test_hostile_files_are_errors_that_name_them(what: str, tmp_path: Path) -> None:
    factory, found = made("batch-norm")
    path = tmp_path / "small.safetensors"
    found.save(path)
    change, said = HOSTILE[what]
    edited(path, change)
    with pytest.raises(DisbudError, match=said) as caught:
        load(path, factory)
    assert str(caught.value).startswith(str(path))


def test_the_channels_of_a_norm_without_tensors_are_in_the_file(tmp_path: Path) -> None:
    def factory() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 1))

    masks = {"3.weight": torch.ones(2, 6, 1, 1, dtype=torch.bool)}
    masks["3.weight"][:, [1, 4]] = False
    found, path = (
        compact(factory(), disbud.Ticket(masks), example=torch.zeros(1, 3, 5, 5)),
        tmp_path / "small",
    )
    found.save(path)
    again = load(path, factory)
    assert str(again.model) == str(found.model)
    assert again.model[1].num_features == 4
    again.expand()
    for count in (0, 7):
        found.save(path)
        edited(path, lambda t, d, count=count: d["features"].update({"1.num_features": count}))  # type: ignore[misc]
        with pytest.raises(DisbudError, match=r"features\.1\.num_features: should be a number from 1 to 6"):
            load(path, factory)


def test_damaged_and_foreign_files_are_errors(tmp_path: Path) -> None:
    factory, found = made("batch-norm")
    path = tmp_path / "small.safetensors"
    with pytest.raises(DisbudError, match="no such file"):
        load(path, factory)
    found.save(path)
    edited(path, lambda t, d: t.update({"small/1.bias": t["small/1.bias"] + 1}), sum_=False)
    with pytest.raises(DisbudError, match="edited or damaged"):
        load(path, factory)
    found.save(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DisbudError, match="not a whole safetensors file"):
        load(path, factory)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(DisbudError, match="not a compacted network"):
        load(path, factory)
    found.save(path)
    with pytest.raises(DisbudError, match="network of another kind"):
        load(path, NETWORKS["conv"].build)
    with pytest.raises(DisbudError, match="returned a int"):
        load(path, lambda: 3)  # type: ignore[arg-type, return-value]


# Exports


def test_torch_exports_the_small_model() -> None:
    _, found = made("residual")
    inputs, _ = NETWORKS["residual"].batch()
    model = found.model.eval()
    program = torch.export.export(model, (inputs,))
    with torch.no_grad():
        assert torch.allclose(program.module()(inputs), model(inputs), rtol=1e-12)


@pytest.mark.parametrize("name", ["residual", "grouped"])
def test_another_runtime_computes_the_same(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    _, found = made(name)
    model = found.model.float().train()
    to_onnx(model, tmp_path / "small.onnx", example=NETWORKS[name].example)
    assert model.training
    session = runtime.InferenceSession(tmp_path / "small.onnx")
    for size in (1, 5):
        inputs, _ = NETWORKS[name].batch(size, dtype=torch.float32)
        (output,) = session.run(None, {"input": inputs.numpy()})
        with torch.no_grad():
            wanted = model.eval()(inputs).numpy()
        assert numpy.linalg.norm(output - wanted) <= 1e-5 * numpy.linalg.norm(wanted)


# The command


@pytest.fixture
def registered() -> None:
    if "compact" not in app:
        assert isinstance(app, App)
        app.command(command)


def test_the_command_writes_what_the_library_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], registered: None
) -> None:
    monkeypatch.chdir(tmp_path)
    lenet = ("lenet-300-100", "--input-shape", "1x8x8")
    assert main(["prune", *lenet, "--sparsity", "0.99", "--seed", "3", "--out", "t.safetensors"]) == 0
    capsys.readouterr()
    asked = ["compact", lenet[0], "t.safetensors", *lenet[1:], "-o", "small.safetensors"]
    assert main([*asked, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    model, ticket = build("lenet-300-100", input_shape=(1, 8, 8), seed=3), disbud.Ticket.load("t.safetensors")
    wanted = compact(model, ticket, example=torch.zeros(1, 1, 8, 8))
    again = load("small.safetensors", model)
    assert again.ticket == wanted.ticket
    assert document["multiply_adds"] == list(wanted.account.multiply_adds)
    assert document["layers"][1]["outputs"] == list(wanted.account.layers[1].outputs)
    x = torch.randn(3, 1, 8, 8, generator=generator(0, "x"))
    assert torch.equal(again.model.eval()(x), wanted.model.eval()(x))
    save_file({name: value + 1 for name, value in model.state_dict().items()}, "trained.safetensors")
    assert main([*asked[:-2], "-o", ".", "--weights", "trained.safetensors"]) == 0
    out = capsys.readouterr().out
    assert "wrote small.safetensors" in out
    assert f"{wanted.account.layers[0].outputs[0]} -> " in out
    trained = load("small.safetensors", model)
    assert torch.equal(trained.model.fc3.bias, wanted.model.fc3.bias + 1)


def test_the_command_writes_onnx_and_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], registered: None
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_net.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))\n"
    )
    assert (
        main(["prune", "own_net:net", "--input-shape", "6", "--sparsity", "0.7", "--out", "t.safetensors"])
        == 0
    )
    asked = ["compact", "own_net:net", "t.safetensors", "-o", "s.safetensors", "--onnx", "s.onnx"]
    assert main(asked) == 2
    assert "give --input-shape" in capsys.readouterr().err
    assert main([*asked, "--input-shape", "6"]) == 0
    assert "wrote s.safetensors and s.onnx" in capsys.readouterr().out
    (output,) = runtime.InferenceSession("s.onnx").run(None, {"input": numpy.zeros((2, 6), numpy.float32)})
    assert output.shape == (2, 3)


@pytest.mark.parametrize("missing", [False, True])
def test_the_command_writes_nothing_where_onnx_could_not_be_written(
    missing: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    registered: None,
) -> None:
    monkeypatch.chdir(tmp_path)
    lenet = ("lenet-300-100", "--input-shape", "1x8x8")
    assert main(["prune", *lenet, "--sparsity", "0.99", "--seed", "3", "--out", "t.safetensors"]) == 0
    asked = ["compact", lenet[0], "t.safetensors", *lenet[1:]]
    capsys.readouterr()
    (tmp_path / "link").symlink_to(tmp_path)
    there = set(tmp_path.iterdir())
    if missing:
        monkeypatch.setitem(sys.modules, "onnxscript", None)  # as where it is not installed
        assert main([*asked, "-o", "small.safetensors", "--onnx", "small.onnx"]) == 2
        assert "writing ONNX needs onnxscript" in capsys.readouterr().err
    else:
        for out, onnx in (("x", "x"), ("x", "link/x"), (".", "small.safetensors")):
            assert main([*asked, "-o", out, "--onnx", onnx]) == 2
            assert "this is where --out goes as well; name another file" in capsys.readouterr().err.replace(
                "\n", " "
            )
    assert set(tmp_path.iterdir()) == there
