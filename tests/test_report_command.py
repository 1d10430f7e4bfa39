"""`disbud inspect --html`: the page that the library makes, and the options that would do nothing."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import disbud
from disbud import report
from disbud.cli import main
from disbud.models import build
from disbud.origin import Start
from disbud.report import Page
from pages import cells_of, lenet, words_of


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    """A cache of the tests' own, so that they leave nothing in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISBUD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def test_inspect_writes_the_page_the_library_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = build("lenet-300-100", input_shape=(1, 8, 8), seed=4)
    ticket = disbud.prune(model, "magnitude", sparsity=0.9, seed=4)
    ticket.save("mine.ticket.safetensors")
    asked = (
        "--model",
        "lenet-300-100",
        "--input-shape",
        "1x8x8",
        "--against",
        "erk",
        "--intervention",
        "shuffle",
    )
    assert main(["inspect", "mine.ticket.safetensors", "--html", "mine.html", *asked]) == 0
    assert "wrote mine.html" in capsys.readouterr().out
    expected = report.ticket(
        ticket, model=model, example=torch.zeros(1, 1, 8, 8), against="erk", intervention="shuffle", seed=4,
        title="mine", about_model="lenet-300-100, weights drawn by seed 4",
    )  # fmt: skip
    assert Path("mine.html").read_text(encoding="utf-8") == expected.html


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--intervention", "shuffle"], "give --html"),
        (["--html", "x.html", "--intervention", "shuffle"], "give model="),
        (["--html", "x.html", "--seed", "3"], "give --model"),
        (["--html", "nowhere/x.html"], "no folder nowhere"),
    ],
)
def test_inspect_refuses_options_that_would_do_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    lenet()[1].save("mine.ticket.safetensors")
    assert main(["inspect", "mine.ticket.safetensors", *options]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.ticket.safetensors"]


def test_inspect_shows_a_ticket_with_the_weights_it_starts_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, ticket = lenet()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, "start.safetensors")
    digest = hashlib.sha256(Path("start.safetensors").read_bytes()).hexdigest()
    dataclasses.replace(ticket, start=Start("start.safetensors", digest)).save("t.safetensors")
    asked = ["t.safetensors", "--model", "lenet-300-100", "--input-shape", "1x8x8", "--html", "t.html"]
    assert main(["inspect", *asked]) == 0
    page = Page(Path("t.html").read_text(encoding="utf-8"))
    assert "weights that the ticket starts from" in words_of(page)
    assert cells_of(page, 2) == cells_of(report.ticket(ticket, model=model), 2)
