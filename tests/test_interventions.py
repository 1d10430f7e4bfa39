"""Interventions by name: what is listed, how they are asked for, what the outcome records, what is refused."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from disbud import DisbudError, Origin, Ticket, TicketError
from disbud.catalogue import parse
from disbud.interventions import CATALOGUE, on_data, on_mask, on_weights
from disbud.origin import Start
from disbud.parameters import fingerprint

MASKS = [name for name, entry in CATALOGUE.items() if entry.acts_on == "mask"]
WEIGHTS = [name for name, entry in CATALOGUE.items() if entry.acts_on == "weights"]
DATA = [name for name, entry in CATALOGUE.items() if entry.acts_on == "data"]


IMAGE = torch.zeros(1, 3, 6, 6)


def net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 12, 3),
            nn.BatchNorm2d(12),
            nn.Conv2d(12, 8, 3, groups=4),
            nn.Flatten(),
            nn.Linear(32, 10),
        )


def ticket_of(model: nn.Module, density: float = 0.3) -> Ticket:
    stream = torch.Generator().manual_seed(5)
    masks = {
        name: torch.rand(p.shape, generator=stream) < density
        for name, p in model.named_parameters()
        if p.dim() > 1
    }
    return Ticket.from_masks(masks, model=model, origin=Origin("given", seed=3))


def batches() -> list[tuple[Tensor, Tensor]]:
    stream = torch.Generator().manual_seed(2)
    return [(torch.rand(9, 3, 4, 4, generator=stream), torch.arange(9) % 3) for _ in range(4)]


# What is listed


def test_importing_the_package_imports_no_torch() -> None:
    code = "import disbud.interventions as i, sys; print('torch' in sys.modules, len(i.CATALOGUE))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["False", str(len(CATALOGUE))]


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=str)
def test_every_entry_leads_to_a_function_with_its_settings(entry: object) -> None:
    assert entry.name in CATALOGUE
    assert entry.summary
    assert entry.acts_on in ("mask", "weights", "data")
    parameters = inspect.signature(entry.load()).parameters
    for key, default in entry.settings.items():
        assert parameters[key].default == default
    for key in entry.needs:
        assert key in parameters


def test_every_public_name_has_a_docstring_with_an_example() -> None:
    module = importlib.import_module("disbud.interventions")
    for name in set(module.__all__) - {"CATALOGUE"}:
        assert ">>> " in (inspect.getdoc(getattr(module, name)) or ""), name


# What the outcome records


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_intervention_is_pure_repeats_and_records_itself(name: str, tmp_path: Path) -> None:
    model = net()
    ticket = dataclasses.replace(ticket_of(model, density=0.1), start=Start("w.safetensors", "0" * 64))
    before, stream = ticket.to_masks(), torch.random.get_rng_state()
    outcome = on_mask(ticket, name, seed=7, model=model, example=IMAGE)
    assert torch.equal(torch.random.get_rng_state(), stream)
    assert all(torch.equal(mask, before[layer]) for layer, mask in ticket.masks.items())
    assert on_mask(ticket, name, seed=7, model=model, example=IMAGE) == outcome
    assert outcome != ticket
    assert [tuple(m.shape) for m in outcome.masks.values()] == [tuple(m.shape) for m in ticket.masks.values()]
    origin = outcome.origin
    assert (origin.method, origin.seed, origin.parents) == (name, 7, (ticket.origin,))
    assert origin.fingerprint == fingerprint(model)
    assert origin.settings["revision"] == CATALOGUE[name].revision
    assert outcome.start == ticket.start
    path = tmp_path / "t.safetensors"
    dataclasses.replace(outcome, start=None).save(path)
    assert Ticket.load(path).origin == origin


@pytest.mark.parametrize("name", [name for name in MASKS if name != "effective"])
def test_another_seed_gives_another_mask(name: str) -> None:
    model = net()
    ticket = ticket_of(model)
    assert on_mask(ticket, name, seed=0, model=model) != on_mask(ticket, name, seed=1, model=model)


def test_settings_come_from_the_text_or_from_keywords() -> None:
    model = net()
    ticket = ticket_of(model)
    by_text = on_mask(ticket, "shuffle-degrees:rounds=3", model=model)
    assert by_text == on_mask(ticket, "shuffle-degrees", model=model, rounds=3)
    assert by_text.origin.settings == {"revision": 1, "rounds": 3, "layouts": {"2.weight": "4 groups"}}
    assert by_text != on_mask(ticket, "shuffle-degrees", model=model)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_weight_intervention_records_itself_and_keeps_the_mask(name: str) -> None:
    model = net()
    ticket = dataclasses.replace(ticket_of(model, density=0.1), start=Start("w.safetensors", "0" * 64))
    text = {"reinit": "reinit:init=kaiming-normal"}.get(name, name)
    state, outcome = on_weights(model.state_dict(), ticket, text, seed=7)
    assert outcome == ticket
    assert (outcome.origin.method, outcome.origin.seed, outcome.origin.parents) == (name, 7, (ticket.origin,))
    assert outcome.origin.fingerprint == fingerprint(model)
    assert outcome.origin.settings == {"revision": 1, **parse(text).settings}
    assert outcome.start is None, "the old weights would be loaded over the new ones"
    net(1).load_state_dict(state)


@pytest.mark.parametrize("name", DATA)
def test_a_data_intervention_is_pure_and_repeats(name: str) -> None:
    given = batches()
    stream = torch.random.get_rng_state()
    outcome = on_data(given, name, seed=7)
    assert torch.equal(torch.random.get_rng_state(), stream)
    for (x, y), (x0, y0) in zip(given, batches(), strict=True):
        assert torch.equal(x, x0)
        assert torch.equal(y, y0)
    again, other = on_data(iter(given), name, seed=7), on_data(given, name, seed=8)
    assert [len(x) for x, _ in outcome] == ([9, 9] if name == "half-data" else [9, 9, 9, 9])
    assert all(
        torch.equal(a, b) for p, q in zip(outcome, again, strict=True) for a, b in zip(p, q, strict=True)
    )
    assert not all(
        torch.equal(a, b) for p, q in zip(outcome, other, strict=True) for a, b in zip(p, q, strict=True)
    )


# What is refused


def test_unknown_names_and_settings_suggest_the_closest() -> None:
    ticket = ticket_of(net())
    with pytest.raises(DisbudError, match="no intervention 'shufle'; did you mean 'shuffle'"):
        on_mask(ticket, "shufle")
    with pytest.raises(DisbudError, match="'round'; did you mean 'rounds'"):
        on_mask(ticket, "shuffle-degrees:round=3")
    with pytest.raises(DisbudError, match="shuffle has no settings, but rounds was given"):
        on_mask(ticket, "shuffle", rounds=3)
    with pytest.raises(DisbudError, match=r"no initialiser 'kaimingnormal'; did you mean 'kaiming-normal'"):
        on_weights({}, ticket, "reinit:init=kaimingnormal")
    with pytest.raises(DisbudError, match="labels= 'drwan'; did you mean 'drawn'"):
        on_data(batches(), "random-labels:labels=drwan")


def test_each_kind_has_its_own_entry_point() -> None:
    ticket = ticket_of(net())
    with pytest.raises(DisbudError, match=r"reinit changes the weights, not the mask: call .*\.on_weights"):
        on_mask(ticket, "reinit")
    with pytest.raises(DisbudError, match=r"noise changes the data, not the weights: call .*\.on_data"):
        on_weights({}, ticket, "noise")
    with pytest.raises(DisbudError, match=r"shuffle changes the mask, not the data: call .*\.on_mask"):
        on_data(batches(), "shuffle")


def test_texts_that_do_not_read_as_settings() -> None:
    ticket = ticket_of(net())
    with pytest.raises(DisbudError, match="takes no 'hard'; it has no settings"):
        on_mask(ticket, "shuffle:hard")
    with pytest.raises(DisbudError, match="takes no '3'; write key=value, as in shuffle-degrees:rounds=20"):
        on_mask(ticket, "shuffle-degrees:3")
    with pytest.raises(DisbudError, match="rounds is given in the text and as a keyword"):
        on_mask(ticket, "shuffle-degrees:rounds=3", rounds=3)
    for odd in ("0", "true", "2.5", "many"):
        with pytest.raises(DisbudError, match="rounds is a whole number of at least 1"):
            on_mask(ticket, f"shuffle-degrees:rounds={odd}", model=net())


def test_a_mask_of_a_convolution_does_not_say_whether_it_is_grouped() -> None:
    model = net()
    ticket = ticket_of(model)
    for name in ("shuffle-rows", "shuffle-columns", "shuffle-degrees"):
        with pytest.raises(DisbudError, match=rf"{name} keeps the counts of units.*0\.weight.*give model="):
            on_mask(ticket, name)
        on_mask(Ticket({"4.weight": ticket.masks["4.weight"]}), name)
    with pytest.raises(TicketError, match="does not fit the model"):
        on_mask(ticket, "shuffle-degrees", model=nn.Linear(3, 3))


def test_masks_without_units_are_refused_where_units_are_kept() -> None:
    ticket = Ticket({"w": torch.rand(4, 5) < 0.5, "b": torch.tensor([True, False, True])})
    with pytest.raises(DisbudError, match=r"mask of b has 1 axes.*use shuffle"):
        on_mask(ticket, "shuffle-rows")
    for name in ("shuffle", "shuffle-global", "like", "shuffle-kernels"):
        assert on_mask(ticket, name, seed=1).kept == ticket.kept
    experts = nn.Module()
    experts.weight = nn.Parameter(torch.rand(2, 3, 4))
    with pytest.raises(DisbudError, match="weight is no weight of a convolution"):
        on_mask(Ticket({"weight": torch.rand(2, 3, 4) < 0.5}), "shuffle-degrees", model=experts)


def test_what_cannot_change_is_warned_of() -> None:
    full = Ticket({"w": torch.ones(4, 5).bool(), "v": torch.zeros(3, 4).bool()})
    for name in ("shuffle", "shuffle-rows", "shuffle-columns", "shuffle-degrees", "shuffle-kernels", "like"):
        with pytest.warns(UserWarning, match=f"{name} left every mask as it was"):
            assert on_mask(full, name) == full
    assert on_mask(full, "shuffle-global") != full
    stairs = Ticket({"w": torch.ones(4, 4).tril().bool()})
    with pytest.warns(UserWarning, match="counts that only one mask has"):
        assert on_mask(stairs, "shuffle-degrees") == stairs


def test_layers_without_weights_do_no_harm() -> None:
    some = torch.tensor([[1, 0, 1, 0, 0], [0, 1, 0, 1, 0], [1, 1, 0, 0, 1], [0, 0, 1, 1, 0]]).bool()
    ticket = Ticket({"none": torch.zeros(4, 0).bool(), "w": some, "nor": torch.zeros(0, 4).bool()})
    for name in set(MASKS) - {"effective"}:  # which looks at a model
        outcome = on_mask(ticket, name, seed=1)
        assert outcome.masks["none"].shape == (4, 0)
        assert outcome.masks["nor"].shape == (0, 4)


def test_what_is_handed_over_must_be_of_its_kind() -> None:
    ticket = ticket_of(net())
    with pytest.raises(DisbudError, match="ticket should be a Ticket, not a dict"):
        on_mask(dict(ticket.masks), "shuffle")
    with pytest.raises(DisbudError, match="state should be a mapping of tensors by name, not a Sequential"):
        on_weights(net(), ticket, "sign-only")
    with pytest.raises(DisbudError, match="a seed is an integer"):
        on_mask(ticket, "shuffle", seed=1.5)


def test_batches_are_pairs_of_tensors() -> None:
    x, y = batches()[0]
    with pytest.raises(DisbudError, match=r"one \(x, y\) pair.*on_data\(\[\(x, y\)\]"):
        on_data((x, y), "noise")
    for odd in (x, "data", 3, {"x": x}):
        with pytest.raises(DisbudError, match="batches is an iterable"):
            on_data(odd, "noise")
    with pytest.raises(DisbudError, match="batches is empty"):
        on_data([], "noise")
    for odd in ([x], [(x, y, y)], [(x, y[:3])], [(x, list(y))]):
        with pytest.raises(DisbudError, match=r"work on batches \(x, y\) of two tensors"):
            on_data(odd, "noise")
    with pytest.raises(DisbudError, match="differ in the shape"):
        on_data([(x, y), (x[..., :2], y)], "noise")
    with pytest.raises(DisbudError, match="hold no examples"):
        on_data([(x[:0], y[:0])], "noise")
