"""The picture of balance: what is in it, that no label lies on another, and the commands that draw it."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest

from disbud import DisbudError
from disbud.cli import main
from disbud.measures import Table
from disbud.report import balance_picture
from disbud.report.balance_picture import draw_balance

SMALL = ("mlp:hidden=40+40", "--input-shape", "1x8x8")


def test_commands_draw_the_plane(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "plane.svg"
    entrants = ("dense", "synflow", "random", "--sparsity", "0.5", "--sparsity", "0.9")
    assert main(["compare", *SMALL, *entrants, "--plot", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "Balance of nodes and paths at sparsity 0.5" in out
    text = picture.read_text()
    assert all(
        said in text for said in (">synflow<", ">random<", "sparsity 0.5", "sparsity 0.9", "154 nodes")
    )
    assert main(["doctor", *SMALL, "--sparsity", "0.9", "--methods", "random", "--plot", str(picture)]) == 0
    assert ">random<" in picture.read_text()
    assert ">synflow<" not in picture.read_text()


def placed(ticket: tuple[float, float], random: tuple[float, float] = (90.0, 10.0)) -> Table:
    """A balance with the ticket in that place."""
    places = {"ticket": ticket, "random": random, "synflow": (30.0, 20.0), "dense": (100.0, 40.0)}
    return Table.of({"place": name, "nodes": at[0], "log10_paths": at[1]} for name, at in places.items())


def test_the_picture_has_every_ticket_once_shared_ends_once_and_names_what_it_leaves_out() -> None:
    tickets = [
        ("one", placed((80.0, 12.0))),
        ("two", placed((50.0, 18.0))),
        ("gone", placed((0.0, -math.inf))),
    ]
    tickets.append(("apart", placed((60.0, 11.0), random=(70.0, 9.0))))
    figure = balance_picture._figure(
        {"a title": tickets}, balance_picture.looks([name for name, _ in tickets])
    )
    (axes,) = figure.axes
    lines = [tuple(map(tuple, line.get_xydata())) for line in axes.get_lines()]
    ends = [((90.0, 10.0), (30.0, 20.0)), ((70.0, 9.0), (30.0, 20.0))]
    assert [line for line in lines if line in ends] == ends
    marks = [line[0] for line in lines if len(line) == 1]
    assert all(marks.count(at) == 1 for at in [(80.0, 12.0), (50.0, 18.0), (60.0, 11.0), (90.0, 10.0)])
    assert all(math.isfinite(y) for line in lines for _, y in line)
    assert axes.get_title() == "a title\ndense: 100 nodes, log10 paths 40.0"
    assert axes.get_xlabel() == "effective nodes\nno path is left by gone"
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[:3] == ["two", "one", "apart"]  # from the top of the picture down


@pytest.mark.parametrize("count", [1, 24])
def test_no_label_lies_on_another_or_on_a_panel(count: int) -> None:
    names = [f"a-method-with-a-long-name-{i}" for i in range(count)]
    tickets = [(name, placed((40.0 + i, 15.0 - i / 10))) for i, name in enumerate(names)]
    panels = {f"resnet20:width=0.5, sparsity 0.{i}": tickets for i in range(1, 5)}
    figure = balance_picture._figure(panels, balance_picture.looks(names))
    figure.canvas.draw()
    (legend,) = figure.legends
    boxes = [text.get_window_extent() for text in legend.get_texts()]
    assert len(boxes) == count + 3
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    around = [axes.get_tightbbox() for axes in figure.axes]
    for one, other in itertools.combinations([*around, legend.get_window_extent()], 2):
        assert not one.overlaps(other)
    whole = figure.bbox
    assert all(whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 for box in boxes)


def test_the_same_balances_give_the_same_bytes(tmp_path: Path) -> None:
    panels = {"a title": [("one", placed((80.0, 12.0)))]}
    for kind, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF-")):
        files = [tmp_path / f"{i}.{kind}" for i in range(2)]
        for file in files:
            draw_balance(panels, file)
        assert files[0].read_bytes() == files[1].read_bytes()
        assert files[0].read_bytes().startswith(start)


def test_a_picture_needs_a_balance_and_a_kind(tmp_path: Path) -> None:
    with pytest.raises(DisbudError, match="no ticket has a balance to draw"):
        draw_balance({"a title": [("one", Table((), ()))]}, tmp_path / "plane.png")
    with pytest.raises(DisbudError, match=r"ends in \.png, \.svg or \.pdf"):
        draw_balance({"a title": [("one", placed((1.0, 1.0)))]}, tmp_path / "plane.jpeg")
    assert not list(tmp_path.iterdir())
