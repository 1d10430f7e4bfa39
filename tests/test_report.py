"""Ticket pages without a browser: their numbers against the ticket's, and what they refuse."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor, nn

import disbud
from disbud import report
from disbud.errors import DisbudError
from disbud.report import Page
from disbud.report.charts import library
from networks import NETWORKS
from pages import cells_of, content, lenet, rows_of, words_of


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    """A cache of the tests' own, so that they leave nothing in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISBUD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


# The numbers on the page are the ticket's


def test_densities_are_those_of_the_ticket_and_of_what_it_is_compared_with() -> None:
    _, ticket = lenet()
    other = disbud.prune(lenet()[0], "random-erk", sparsity=0.9)
    rows = [row for row in rows_of(report.ticket(ticket, against=other), 0) if "kind" in row]
    for kind, expected in (("this", ticket), ("other", other)):
        drawn = {row["layer"]: row["x"] for row in rows if row["kind"] == kind}
        assert drawn == pytest.approx(expected.densities())
    page = report.ticket(ticket, against="erk")
    erk = disbud.prune(lenet()[0], "random-erk", sparsity=0.95).densities()
    drawn = {row["layer"]: row["x"] for row in rows_of(page, 0) if row.get("kind") == "other"}
    assert drawn == pytest.approx(erk)
    assert {"x": pytest.approx(0.05)} in rows_of(page, 0)  # the line at the density asked


def test_an_empty_layer_is_marked_off_the_scale_and_named_at_the_top() -> None:
    _, ticket = lenet()
    masks = ticket.to_masks()
    masks["fc2.weight"][:] = False
    page = report.ticket(disbud.Ticket(masks, ticket.origin))
    rows = {row["layer"]: row for row in rows_of(page, 0) if "kind" in row}
    assert {name for name, row in rows.items() if row["kind"] == "nothing"} == {"fc2.weight"}
    assert rows["fc2.weight"]["x"] < min(row["x"] for name, row in rows.items() if name != "fc2.weight") / 2
    assert "1 layer of 3 keeps no weight: fc2." in words_of(page)
    tenth = torch.arange(100).view(10, 10) < 10
    rows_at_a_power = rows_of(report.ticket(disbud.Ticket({"a": tenth, "b": tenth & ~tenth})), 0)
    assert [row["x"] for row in rows_at_a_power] == pytest.approx([0.1, 0.01])


def test_channels_alive_without_a_model_are_the_rows_and_columns_that_keep_anything() -> None:
    _, ticket = lenet()
    masks = ticket.to_masks()
    masks["fc1.weight"][:7] = False
    masks["fc1.weight"][:, 5:9] = False
    page = report.ticket(disbud.Ticket(masks, ticket.origin))
    shares = {(row["layer"], row["slot"]): row["share"] for row in rows_of(page, 1)}
    for name, mask in masks.items():
        assert shares[name, "outputs"] == pytest.approx(float(mask.any(1).float().mean()))
        assert shares[name, "inputs"] == pytest.approx(float(mask.any(0).float().mean()))


def test_with_model_and_example_dead_channels_and_idle_weights_are_those_of_the_paths() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    masks = {
        "0.weight": torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]),
        "2.weight": torch.tensor([[1, 0, 0, 1], [0, 1, 0, 1]]),
    }
    ticket = disbud.Ticket.from_masks(masks)
    page = report.ticket(ticket, model=model, example=torch.zeros(1, 3))
    shares = {(row["layer"], row["slot"]): row["share"] for row in rows_of(page, 1)}
    # Unit 2 is fed and never read, unit 3 read and never fed: of seven weights three lead nowhere.
    assert shares["0.weight", "outputs"] == shares["2.weight", "inputs"] == 0.5
    assert shares["0.weight", "inputs"] == pytest.approx(2 / 3)
    words = words_of(page)
    assert "3 kept weights of 7 (42.86 %) do nothing" in words
    assert "2 output channels of 6 are dead" in words
    assert "4 weights on a path" in words
    only_model = words_of(report.ticket(ticket, model=model))
    assert "do nothing" not in only_model
    assert "1 output channel of 6 is dead" in only_model


def test_histograms_count_the_kept_weights_before_and_after() -> None:
    model, ticket = lenet()
    kept = [row.kept for row in ticket.layers]
    total = [row.total for row in ticket.layers]
    for zeros, expected in (("out", kept), ("in", total)):
        page = report.ticket(ticket, model=model, intervention="shuffle", zeros=zeros, seed=3)
        cells = cells_of(page, 2)
        assert [sum(cell["before"]) for cell in cells] == expected
        assert [sum(cell["after"]) for cell in cells] == expected
        assert all(cell["before"] != cell["after"] for cell in cells)
    shuffled = disbud.interventions.on_mask(ticket, "shuffle", seed=3)
    values = model.fc1.weight[shuffled.masks["fc1.weight"]]
    first = cells_of(report.ticket(ticket, model=model, intervention="shuffle", seed=3), 2)[0]
    edges = numpy.array([*first["low"][1:-1], first["high"][-1]])
    assert numpy.histogram(values.detach().double(), edges)[0].tolist() == pytest.approx(
        first["after"][1:-1], abs=2
    )
    same = cells_of(report.ticket(ticket, model=model, intervention="permute-values"), 2)
    assert all(cell["before"] == cell["after"] for cell in same)


@pytest.mark.parametrize("with_model", [True, False])
def test_degrees_are_shares_of_the_units_that_have_any(with_model: bool) -> None:
    model, ticket = lenet()
    masks = ticket.to_masks()
    masks["fc1.weight"][:7] = False
    ticket = disbud.Ticket(masks, ticket.origin)
    page = report.ticket(ticket, model=model if with_model else None)
    cells = cells_of(page, 3 if with_model else 2)
    assert len(cells) == 3
    for cell, mask in zip(cells, masks.values(), strict=True):
        assert sum(cell["up"]) == pytest.approx(1, abs=1e-3)
        assert sum(cell["down"]) == pytest.approx(-1, abs=1e-3)
        degrees = mask.sum(1)
        for low, high, up in zip(cell["low"], cell["high"], cell["up"], strict=True):
            inside = ((degrees >= low) & (degrees < high) & (degrees > 0)).sum() / (degrees > 0).sum()
            assert up == pytest.approx(float(inside), abs=1e-4)
    assert "none: 7 outputs" in words_of(page)


def test_the_head_says_where_the_ticket_came_from() -> None:
    _, ticket = lenet()
    shuffled = disbud.interventions.on_mask(ticket, "shuffle", seed=7)
    words = words_of(report.ticket(shuffled | ~shuffled, title="Both"))
    for said in (
        "Both",
        "or",
        "made of (1 of 2)",
        "made of (2 of 2)",
        "shuffle",
        "magnitude",
        "95 %",
        "seed7",
    ):
        assert said in words, said


def test_what_is_missing_is_said_with_what_to_add() -> None:
    model, ticket = lenet()
    assert "Give the model, with the weights" in words_of(report.ticket(ticket))
    words = words_of(report.ticket(ticket, model=model))
    assert "Give the model" not in words
    assert "Give an example input" in words
    assert "Give an intervention" in words
    whole = words_of(
        report.ticket(ticket, model=model, example=torch.zeros(1, 1, 8, 8), intervention="shuffle")
    )
    assert "Give a" not in whole


# The page as a value


def test_the_same_arguments_give_the_same_page_and_leave_all_as_it_was() -> None:
    model, ticket = lenet()
    state, stream = {k: v.clone() for k, v in model.state_dict().items()}, torch.random.get_rng_state()
    masks = ticket.to_masks()

    def made() -> str:
        return report.ticket(
            ticket,
            model=model,
            example=torch.zeros(1, 1, 8, 8),
            intervention="reinit:init=kaiming-normal",
            seed=1,
        ).html

    assert made() == made()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(mask, masks[key]) for key, mask in ticket.masks.items())
    assert torch.equal(stream, torch.random.get_rng_state())


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_network_has_its_page(name: str) -> None:
    network = NETWORKS[name]
    model = network.build()
    ticket = disbud.prune(model, "random", sparsity=0.5, example=network.example)
    page = report.ticket(
        ticket, model=model, example=network.example, intervention="shuffle", against="uniform"
    )
    places = content(page)["places"]
    assert len(places) == 2 + 2 * len(ticket.masks)
    assert len(set(re.findall(r'id="(chart-\d+)"', page.html))) == len(places)
    assert page.html.count("data:image/png") == len(ticket.masks)
    assert "could not be counted" not in words_of(page)


def test_masks_of_one_axis_are_listed_and_not_drawn_as_units() -> None:
    page = report.ticket(disbud.Ticket({"w": torch.eye(4) > 0, "b": torch.ones(4) > 0}))
    assert {row["layer"] for row in rows_of(page, 0) if "kind" in row} == {"w", "b"}
    assert {row["layer"] for row in rows_of(page, 1)} == {"w"}
    assert page.html.count("data:image/png") == 1


def test_a_model_whose_paths_cannot_be_counted_still_has_its_page() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(4, 5, batch_first=True)
            self.fc = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.rnn(x)[0][:, -1])

    model = Recurrent()
    ticket = disbud.prune(model, "magnitude", sparsity=0.5)
    words = words_of(report.ticket(ticket, model=model, example=torch.zeros(1, 2, 4)))
    assert "could not be counted" in words
    assert "Channels that are alive" in words


def test_a_page_is_saved_whole_and_framed_for_notebooks(tmp_path: Path) -> None:
    page = Page('<p>\u00e9 & "x"</p>')
    page.save(tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == page.html
    assert page._repr_html_().startswith(
        '<iframe srcdoc="&lt;p&gt;\u00e9 &amp; &quot;x&quot;&lt;/p&gt;" sandbox='
    )
    with pytest.raises(FileNotFoundError):
        page.save(tmp_path / "nowhere" / "a.html")


def test_the_library_is_bundled_without_a_cache_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = library()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DISBUD_CACHE", str(tmp_path / "file"))
    library.cache_clear()
    assert library() == cached
    assert "</script" not in cached
    assert "<!--" not in cached


# Errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"intervention": "shuffle"}, "give model="),
        ({"intervention": "shuffl"}, "did you mean 'shuffle'"),
        ({"intervention": "random-labels"}, "changes the data"),
        ({"zeros": "both"}, "there is no way to count zeros 'both'"),
        ({"example": torch.zeros(1, 1, 8, 8)}, "give model="),
        ({"against": "erkk"}, "did you mean 'erk'"),
        ({"against": 3}, "a ticket or the name of a density rule"),
        ({"against": disbud.Ticket({"w": torch.ones(2, 2) > 0})}, "of another model"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_words(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(DisbudError, match=re.escape(said)):
        report.ticket(lenet()[1], **arguments)  # type: ignore[arg-type]


def test_the_paths_that_an_intervention_needs_are_asked_for() -> None:
    model, ticket = lenet()
    with pytest.raises(DisbudError, match="example="):
        report.ticket(ticket, model=model, intervention="effective")
    report.ticket(ticket, model=model, intervention="effective", example=torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize("module", ["altair", "vl_convert"])
def test_a_missing_package_is_named_with_what_to_install(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DisbudError, match=f"needs {module}.*pip install"):
        report.ticket(lenet()[1])
