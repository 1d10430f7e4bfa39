"""`disbud theory` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from disbud import DisbudError, Ticket, data, models, robust, theory
from disbud.cli import main

MODEL = "mlp:hidden=40+40+40,activation=tanh"


def output(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(["theory", *words]) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


def test_a_phase(capsys: pytest.CaptureFixture[str]) -> None:
    shown = output(capsys, "tanh", "--sigma-w", "1.5", "--sigma-b", "0.1")
    assert "chaotic" in shown
    assert "empties one at sparsity" in shown
    found = json.loads(output(capsys, "tanh", "--sigma-b", "0.2", "--json"))
    assert found["phase"]["name"] == "edge"
    assert found["edge"]["sigma_w"] == pytest.approx(1.3041, abs=1e-4)
    assert found["phase"]["q"] == pytest.approx(0.512, abs=1e-3)
    assert "has no edge" in output(capsys, "relu", "--sigma-w", "1", "--sigma-b", "0.3")
    assert "or give --sigma-w" in output(capsys, "relu", "--sigma-b", "0.3", code=2)
    assert "did you mean 'tanh'" in output(capsys, "tanhh", code=2)
    assert "--depth 0: should be at least 1" in output(capsys, "tanh", "--depth", "0", code=2)


def test_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    shown = output(capsys, "model", MODEL)
    assert "fc1.weight" in shown
    assert shown.count("should train") == 2
    found = json.loads(output(capsys, "model", "resnet20:width=0.25", "--examples", "8", "--json"))
    assert [one["how"] for one in found["forecasts"]] == ["measurement"]
    assert len(found["emptying"]) == 2


def test_a_ticket_carries_the_weights_it_was_rescaled_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sbp.ticket.safetensors"
    shown = output(capsys, "prune", MODEL, "--data", "digits", "--sparsity", "0.9", "--out", str(file))
    assert "rescaled by activations" in shown
    model = models.build(MODEL, input_shape=(1, 8, 8), seed=5)
    ticket = Ticket.load(file, model=model)
    ticket.start_(model)
    assert ticket.sparsity == pytest.approx(0.9, abs=1e-3)
    assert not model.fc2.weight[~ticket.masks["fc2.weight"]].any()
    again = models.build(MODEL, input_shape=(1, 8, 8))
    batch = next(iter(data.load("digits").batches(256, seed=0)))
    assert robust.sbp(again, sparsity=0.9, batches=[batch]) == ticket
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in again.state_dict().items())
    assert main(["train", MODEL, "--ticket", str(file), "--recipe", "digits:epochs=3"]) == 0
    assert "test accuracy" in capsys.readouterr().out


class Tied(nn.Module):
    """Two layers of one weight, activations that are functions, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x.flatten(1)))
        return self.last(torch.relu(self.second(self.scale * x)))


def tied() -> nn.Module:
    return Tied()


def test_a_weight_that_layers_share_is_saved_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "tied.ticket.safetensors")
    asked = ("prune", "test_robust_commands:tied", "--data", "digits", "--sparsity", "0.5", "--out", file)
    assert "no activation module found" in output(capsys, *asked, code=2)
    output(capsys, *asked, "--activation", "relu")
    model, again = Tied(), Tied()
    ticket = Ticket.load(file, model=model)
    ticket.start_(model)
    batch = next(iter(data.load("digits").batches(256, seed=0)))
    assert robust.sbp(again, sparsity=0.5, batches=[batch], activation="relu") == ticket
    assert torch.equal(model.first.weight, again.first.weight)
    assert model.second.weight is model.first.weight


class Chain(nn.Module):
    """A chain whose activation is a function; `idle` is a layer that it never calls."""

    def __init__(self, *, idle: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 30), nn.Linear(30, 10)
        self.idle = nn.Linear(5, 5) if idle else None

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x.flatten(1))))


def chain() -> nn.Module:
    return Chain(idle=False)


def chain_with_an_idle_layer() -> nn.Module:
    return Chain(idle=True)


def test_the_activation_of_a_model_can_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["theory", "model", "test_robust_commands:chain", "--examples", "8"]
    assert main(asked) == 0
    printed = capsys.readouterr()
    assert "no prediction: no activation module found" in printed.err
    assert printed.out.count("should train") == 1
    assert main([*asked, "--activation", "relu"]) == 0
    printed = capsys.readouterr()
    assert "no prediction" not in printed.err
    assert printed.out.count("should train") == 2
    assert main([*asked, "--activation", "rellu"]) == 2
    assert "did you mean 'relu'" in capsys.readouterr().err


def test_a_layer_without_scores_is_noted_and_the_rest_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["theory", "model", "test_robust_commands:chain_with_an_idle_layer", "--examples", "8"]
    assert main(asked) == 0
    printed = capsys.readouterr()
    assert "every score of idle.weight by sensitivity is zero" in printed.err
    assert "magnitude pruning in one shot empties" in printed.out
    assert "should train" in printed.out


def test_mbp_needs_no_data_unless_it_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "mbp.ticket.safetensors")
    common = ("prune", MODEL, "--sparsity", "0.5", "--out", file)
    by_magnitude = (*common, "--method", "mbp", "--input-shape", "1x8x8")
    assert "rescaled by weights" in output(capsys, *by_magnitude)
    assert "rescaled by nothing" in output(capsys, *by_magnitude, "--rescale", "none")
    said = output(capsys, *by_magnitude, "--rescale", "activations", code=2)
    assert "--rescale activations looks at data" in said
    assert "sbp looks at data" in output(capsys, *common, code=2)


def test_a_region_is_trained_drawn_and_not_trained_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells, picture = tmp_path / "cells.json", tmp_path / "region.png"
    words = (
        "region", str(cells), "--picture", str(picture), "--depths", "1", "--sparsities", "0.5", "--width", "20",
        "--recipe", "digits:epochs=1", "--workers", "1",
    )  # fmt: skip
    shown = output(capsys, *words)
    assert "rescaled: sparsity" in shown
    assert picture.read_bytes().startswith(b"\x89PNG")
    before = cells.stat().st_mtime_ns
    found = json.loads(output(capsys, *words, "--json"))
    assert (len(found["cells"]), cells.stat().st_mtime_ns) == (3, before)
    assert "another setting" in output(capsys, *words, "--sigma-b", "0.3", code=2)
    assert "joined by +" in output(capsys, "region", str(cells), "--depths", "1;2", code=2)
    assert "whole numbers" in output(capsys, "region", str(cells), "--depths", "1.5", code=2)


@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_phases_are_drawn(activation: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "phases.png"
    assert f"wrote {picture}" in output(capsys, "phases", activation, "--picture", str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "--picture" in output(
        capsys, "phases", activation, "--picture", str(tmp_path / "no" / "x.png"), code=2
    )


def test_a_picture_of_phases_needs_a_grid(tmp_path: Path) -> None:
    diagram = theory.phase_diagram("erf", sigma_b=[0.1], sigma_w=[0.5, 1.0])
    with pytest.raises(DisbudError, match="at least two values of sigma_b and of sigma_w"):
        robust.draw_phases(diagram, tmp_path / "phases.png")
