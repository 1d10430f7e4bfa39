"""The ground floor: seeds, atomic files, catalogues, error messages, and looking at a model without a trace."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

from disbud.catalogue import Entry, check_settings, find, parse, resolve
from disbud.errors import DisbudError
from disbud.files import replacing, write_atomically
from disbud.isolation import bare, isolated
from disbud.seeds import derive, generator, global_streams


def test_streams_of_different_purposes_differ_and_repeat() -> None:
    assert derive(0, "mask") == derive(0, "mask")
    assert len({derive(s, p, m) for s in range(5) for p in ("init", "mask") for m in range(5)}) == 50
    assert derive(1, "a", 23) != derive(12, "a", 3)
    assert torch.equal(torch.rand(3, generator=generator(1, "x")), torch.rand(3, generator=generator(1, "x")))


def test_the_derivation_is_frozen() -> None:
    # Changing it would silently change every random result ever recorded.
    assert derive(0, "mask") == 4770055825761619009
    assert derive(7, "order", 3) == 7057241712520603416


def test_a_seed_is_an_integer() -> None:
    for odd in (True, 1.0, "1", None):
        with pytest.raises(DisbudError, match="a seed is an integer"):
            derive(odd, "mask")  # type: ignore[arg-type]


def test_global_streams_are_seeded_inside_and_restored_after() -> None:
    def draws() -> tuple[float, float, float]:
        return torch.rand(1).item(), numpy.random.rand(), random.random()

    torch.manual_seed(1), numpy.random.seed(1), random.seed(1)
    expected = draws()
    torch.manual_seed(1), numpy.random.seed(1), random.seed(1)
    with global_streams(3, "x"):
        first = draws()
    with pytest.raises(RuntimeError, match="boom"), global_streams(3, "x"):
        assert draws() == first
        raise RuntimeError("boom")
    assert draws() == expected


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "f"
    write_atomically(target, b"one")
    with pytest.raises(RuntimeError, match="half-way"), replacing(target) as part:
        part.write_bytes(b"tw")
        raise RuntimeError("half-way")
    assert target.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["f"]
    write_atomically(target, b"two")
    assert target.read_bytes() == b"two"


def test_written_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_atomically(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("text", "name", "argument", "settings"),
    [
        ("resnet20", "resnet20", None, {}),
        ("resnet20:width=0.5,classes=10", "resnet20", None, {"width": 0.5, "classes": 10}),
        ("mlp:hidden=300+100,bias=true", "mlp", None, {"hidden": (300, 100), "bias": True}),
        ("folder:some/photos,size=32", "folder", "some/photos", {"size": 32}),
        ("hf:org/name,image-column=img", "hf", "org/name", {"image_column": "img"}),
        ("package.module:build,depth=3", "package.module", "build", {"depth": 3}),
        ("sgd:lr=1e-3,weights=null", "sgd", None, {"lr": 0.001, "weights": None}),
        ("vgg11:width=.5,name=nan", "vgg11", None, {"width": 0.5, "name": "nan"}),
        ("sgd:lr=1e+3", "sgd", None, {"lr": 1000.0}),
    ],
)
def test_what_users_type(text: str, name: str, argument: str | None, settings: dict[str, object]) -> None:
    spec = parse(text)
    assert (spec.name, spec.argument, spec.settings) == (name, argument, settings)


def test_a_setting_without_a_value_is_one_error() -> None:
    with pytest.raises(DisbudError, match=r"'width' should read key=value"):
        parse("resnet20:classes=3,width")


def test_unknown_names_suggest_the_closest() -> None:
    entries = {name: Entry(name, "", "math:sin") for name in ("synflow", "snip")}
    with pytest.raises(DisbudError, match="no method 'synflw'; did you mean 'synflow'"):
        find("method", "synflw", entries)
    with pytest.raises(DisbudError, match="known are snip, synflow"):
        find("method", "zzz", entries)
    with pytest.raises(DisbudError, match="'temprature'; did you mean 'temperature'"):
        check_settings("method 'grasp'", {"temprature": 1}, {"temperature": 200})


def test_references_that_lead_nowhere() -> None:
    assert resolve("math:sin")(0) == 0
    for odd in ("nowhere:f", "math:nothing", "math", "math:pi"):
        with pytest.raises(DisbudError, match=odd):
            resolve(odd)


def test_isolation_restores_modes_buffers_and_streams() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    model[2].eval()
    modes = [module.training for module in model.modules()]
    mean = model[1].running_mean
    before = mean.clone()
    stream = torch.random.get_rng_state()
    with pytest.raises(RuntimeError, match="boom"), isolated(model, seed=0, batch_norm="train"):
        assert [model[1].training, model[2].training, model.training] == [True, False, False]
        model(torch.rand(8, 4))
        assert not torch.equal(mean, before)
        model[1].running_mean = torch.zeros(4)
        raise RuntimeError("boom")
    assert model[1].running_mean is mean
    assert torch.equal(mean, before)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), stream)


def test_isolation_knows_two_modes() -> None:
    with (
        pytest.raises(DisbudError, match="'train' or in 'eval' mode, not 'test'"),
        isolated(nn.ReLU(), seed=0, batch_norm="test"),
    ):
        pass


def test_bare_takes_wrappers_off() -> None:
    model = nn.Linear(2, 2)
    assert bare(torch.compile(nn.DataParallel(model))) is model
