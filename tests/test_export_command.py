"""`disbud export`: each kind of file, its sizes in words and as JSON, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import disbud
from disbud.cli import main
from disbud.export import from_safetensors
from disbud.models import build


@pytest.fixture
def ticket(tmp_path: Path) -> Path:
    path = tmp_path / "a.ticket.safetensors"
    model = build("lenet-300-100", input_shape=(1, 28, 28))
    disbud.prune(model, "magnitude", sparsity=0.95).save(path)
    return path


def test_c_and_its_sizes(ticket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "small.c"
    run = ["export", "lenet-300-100", str(ticket), "--to", "c", "-o", str(out), "--name", "digits"]
    assert main([*run, "--details"]) == 0
    told = capsys.readouterr().out
    assert "digits_predict" in out.read_text()
    assert "fc1.weight" in told
    assert "of the dense fp32 parameters (1,066,440)" in told
    assert main([*run, "--json", "--values", "fp16"]) == 0
    read = json.loads(capsys.readouterr().out)
    assert read["table_bytes"] == sum(
        row["value_bytes"] + row["index_bytes"] + row["other_bytes"] for row in read["layers"]
    )
    assert read["dense_bytes"] == 1_066_440
    assert read["table_bytes"] < 0.05 * read["dense_bytes"]


def test_safetensors_of_given_weights(
    ticket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from disbud.cli.weights import save_weights

    monkeypatch.chdir(tmp_path)
    trained = build("lenet-300-100", input_shape=(1, 28, 28), seed=5)
    save_weights(tmp_path / "trained.safetensors", trained)
    run = ["export", "lenet-300-100", str(ticket), "--to", "safetensors", "--weights", "trained.safetensors"]
    assert main(run) == 0
    assert "wrote lenet-300-100.small.safetensors" in capsys.readouterr().out
    again = build("lenet-300-100", input_shape=(1, 28, 28))
    found = from_safetensors("lenet-300-100.small.safetensors", again)
    found.apply_(trained)
    assert all(torch.equal(value, trained.state_dict()[key]) for key, value in again.state_dict().items())


def test_onnx(ticket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript")
    out = tmp_path / "small.onnx"
    assert main(["export", "lenet-300-100", str(ticket), "--to", "onnx", "-o", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["file_bytes"] == out.stat().st_size


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--to", "onnx", "--values", "fp16"], "--values fp16"),
        (["--to", "c", "--name", "2nd"], "a name in C"),
        (["--to", "c", "-o", "nowhere/net.c"], "there is no folder nowhere"),
        (["--to", "tflite"], "tflite"),
        (["--to", "c", "--input-shape", "1x8x8"], "does not fit the model"),
    ],
)
def test_what_is_asked_wrongly_is_said(
    more: list[str], message: str, ticket: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "lenet-300-100", str(ticket), *more]) == 2
    assert message in capsys.readouterr().err
