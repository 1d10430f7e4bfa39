"""Pipelines, sensitivities and forecasts on real networks, and the trainable region: whole, resumed, refused."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import disbud
from disbud import DisbudError, models, robust, theory
from disbud.robust.region import Setting, read_region

DIGITS = disbud.data.load("digits")
BATCH = next(iter(DIGITS.batches(256)))
QUICK = Setting(width=30, recipe="digits:epochs=2,lr=0.05", method="mbp", rescale="weights")


def mlp(depth: int, width: int, activation: str = "tanh", *, seed: int = 0) -> nn.Module:
    hidden = "+".join([str(width)] * depth)
    return models.build(
        f"mlp:hidden={hidden},activation={activation}", input_shape=DIGITS.input_shape, seed=seed
    )


def test_sbp_is_initialisation_snip_and_rescaling_in_a_row() -> None:
    model = mlp(4, 40)
    ticket = robust.sbp(model, sparsity=0.8, batches=[BATCH], seed=3)
    by_hand = mlp(4, 40)
    theory.initialize_(by_hand, activation="tanh", sigma_b=0.2, seed=3)
    expected = disbud.prune(by_hand, "snip", sparsity=0.8, batches=[BATCH], seed=3)
    theory.rescale_(by_hand, expected, "activations", inputs=BATCH[0], seed=3)
    assert ticket == expected
    assert ticket.start is None
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, by_hand.state_dict()[name])
    assert ticket.origin.settings["sigma_w"] == pytest.approx(1.3041, abs=1e-4)
    assert ticket.origin.evidence == expected.origin.evidence


def test_mbp_is_initialisation_magnitude_and_the_papers_factors() -> None:
    model = mlp(3, 40, "relu")
    ticket = robust.mbp(model, sparsity=0.8)
    chain = theory.chain_of(model)
    # On the edge of chaos again, each layer, as its zeros count.
    assert [layer.sigma_w for layer in chain] == pytest.approx([2**0.5] * 4, rel=1e-5)
    assert ticket.origin.settings["sigma_b"] == 0
    plain = robust.mbp(mlp(3, 40, "relu"), sparsity=0.8, rescale=None)
    assert plain == ticket


def test_a_one_shot_iterator_of_batches_is_pruned_and_measured_with() -> None:
    once, many = mlp(2, 20), mlp(2, 20)
    a = robust.sbp(once, sparsity=0.5, batches=iter([BATCH]))
    b = robust.sbp(many, sparsity=0.5, batches=[BATCH])
    assert a == b
    assert torch.equal(once.fc2.weight, many.fc2.weight)


def test_pipelines_say_what_is_wrong_before_they_touch_the_model() -> None:
    model = mlp(2, 20)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(DisbudError, match="did you mean 'weights'"):
        robust.mbp(model, sparsity=0.5, rescale="weight")
    with pytest.raises(DisbudError, match="several activations"):
        robust.mbp(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Tanh()), sparsity=0.5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"sparsity": 90}, "for 90 per cent give sparsity=0.9"),
        ({"batches": [{"x": BATCH[0]}], "loss": lambda m, b: m(b["x"]).square().mean()}, "give inputs="),
        ({"batches": []}, "batches is empty"),
        ({"batches": BATCH}, r"write batches=\[\(x, y\)\]|be an iterable of them"),
        ({"batches": [(BATCH[0], BATCH[1] + 90)]}, "do not fit an output"),
        ({"include": "fc9.*"}, "no parameter of the model matches"),
        ({"rescale": "weights", "sparsity": 1.0}, "keeps no weight"),
    ],
)
def test_a_pipeline_that_is_refused_at_whichever_step_leaves_the_weights_as_they_were(
    settings: dict[str, object], says: str
) -> None:
    model = mlp(2, 20)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(DisbudError, match=says):
        robust.sbp(model, **{"sparsity": 0.5, "batches": [BATCH], **settings})
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_an_endless_loader_that_shuffles_is_read_no_further_than_needed_and_leaves_the_random_streams_alone() -> (
    None
):
    read = 0

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal read
        while True:
            read += 1
            order = torch.randperm(len(BATCH[0]))
            yield BATCH[0][order], BATCH[1][order]

    stream = torch.random.get_rng_state()
    first, second = mlp(2, 20), mlp(2, 20)
    a, b = (robust.sbp(model, sparsity=0.5, batches=batches(), seed=3) for model in (first, second))
    assert torch.equal(torch.random.get_rng_state(), stream)
    assert a == b
    assert torch.equal(first.fc2.weight, second.fc2.weight)
    assert read < 40


def by_hand(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """m_l from a loop over examples and torch's own gradients."""
    found: dict[str, list[float]] = {}
    for i in range(len(x)):
        model.zero_grad()
        nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
        for name, parameter in model.named_parameters():
            if name.endswith("weight"):
                product = parameter.detach() * parameter.grad
                found.setdefault(name, []).append(float(product.double().square().mean()))
    return {name: float(np.mean(values)) for name, values in found.items()}


def test_sensitivities_are_those_of_single_examples_and_the_theory_foresees_them() -> None:
    ratios = []
    for seed in range(3):
        model = mlp(12, 100, seed=seed)
        theory.initialize_(model, "ordered", activation="tanh", sigma_b=0.2, seed=seed)
        table = robust.sensitivities(model, (BATCH[0][:40], BATCH[1][:40]))
        own = by_hand(model, BATCH[0][:40], BATCH[1][:40])
        assert table["measured"] == pytest.approx([m / own["fc13.weight"] for m in own.values()], rel=1e-4)
        ratios.append(np.array(table["measured"]) / np.array(table["predicted"]))
    assert table["predicted"][0] < 0.3 * table["predicted"][-2]
    assert np.exp(np.log(ratios).mean(0)) == pytest.approx(np.ones(13), rel=0.45)
    with pytest.raises(DisbudError, match="class labels"):
        robust.sensitivities(model, BATCH[0])


def test_networks_the_theory_does_not_follow_are_measured_all_the_same() -> None:
    model = models.build("resnet20:width=0.25", input_shape=(1, 8, 8))
    table = robust.sensitivities(model, (BATCH[0][:8], BATCH[1][:8]))
    assert set(table["predicted"]) == {None}
    assert "normalises" in table.summary["no_prediction"]
    assert all(value > 0 for value in table["measured"])
    with pytest.raises(DisbudError, match='take by="measured"'):
        robust.emptying(model, (BATCH[0][:8], BATCH[1][:8]))


def test_the_layer_that_empties_first_is_foreseen_and_counted_from_the_models_own_scores() -> None:
    model = mlp(12, 60)
    theory.initialize_(model, "ordered", activation="tanh", sigma_b=0.2, seed=0)
    found = robust.emptying(model, BATCH)
    assert found.likely in ("fc1.weight", "fc2.weight", "fc3.weight")
    scores = disbud.scores(model, "snip", batches=[BATCH], examples_per_class=None)
    for sparsity, empty in ((found.actual + 1e-4, True), (found.actual - 1e-4, False)):
        ticket = disbud.prune(model, "snip", sparsity=sparsity, batches=[BATCH], examples_per_class=None)
        assert bool(ticket.empty_layers) is empty
        if empty:
            assert ticket.empty_layers == (found.layer,)
    assert found.layer == min(scores, key=lambda name: float(scores[name].max()))
    assert found.actual == pytest.approx(found.law.mean, abs=0.15)


def test_magnitude_empties_the_widest_layer_first() -> None:
    model = mlp(1, 1000)  # the last layer reads 1,000 units, the first 64 pixels
    found = robust.emptying(model, method="magnitude")
    assert found.likely == found.layer == "fc2.weight"
    ticket = disbud.prune(model, "magnitude", sparsity=found.actual + 1e-4)
    assert ticket.empty_layers == ("fc2.weight",)
    with pytest.raises(DisbudError, match="give batch="):
        robust.emptying(model)


def test_layers_without_scores_are_named_where_there_is_nothing_to_forecast() -> None:
    zero, unused, broken = (mlp(2, 20) for _ in range(3))
    nn.init.zeros_(zero.fc3.weight)
    unused.add_module("act3", nn.Identity())
    unused.aux = nn.Linear(3, 3)
    unused.forward = lambda x: unused.fc3(unused.act2(unused.fc2(unused.act1(unused.fc1(x.flatten(1))))))  # type: ignore[method-assign]
    broken.fc2.weight.data[0, 0] = math.nan
    with pytest.raises(DisbudError, match=r"fc3\.weight by magnitude is zero \(its weights are zero\)"):
        robust.emptying(zero, method="magnitude")
    with pytest.raises(
        DisbudError, match=r"aux\.weight by sensitivity is zero \(the loss does not change with it\)"
    ):
        robust.emptying(unused, BATCH, by="measured")
    with pytest.raises(DisbudError, match="that are NaN or infinite"):
        robust.emptying(broken, method="magnitude")
    with pytest.raises(
        DisbudError, match=r"labels of shape \(1,\) from 95 to 95 do not fit an output of shape \(1, 10\)$"
    ):
        robust.sensitivities(zero, (BATCH[0][:1], torch.tensor([95])))
    x, y = BATCH[0][:8], BATCH[1][:8]
    table, plain = robust.sensitivities(unused, (x, y)), robust.sensitivities(mlp(2, 20), (x, y))
    assert table["measured"] == pytest.approx((*plain["measured"], 0.0))


def test_only_the_ratios_of_weights_decide_which_layer_empties_first_by_magnitude() -> None:
    model, tiny = mlp(2, 30), mlp(2, 30)
    with torch.no_grad():
        for parameter in tiny.parameters():
            parameter.mul_(1e-12)
    expected, found = robust.emptying(model, method="magnitude"), robust.emptying(tiny, method="magnitude")
    assert found.law.expected == pytest.approx(expected.law.expected, rel=1e-5)
    assert (found.likely, found.layer, found.actual) == (expected.likely, expected.layer, expected.actual)


def test_a_network_whose_signals_overflow_should_not_train() -> None:
    model = mlp(6, 64, "relu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e9)
    said = robust.forecast(model, BATCH[0], labels=BATCH[1])
    assert (said.trains, said.depth_scales) == (False, math.inf)
    assert str(said) == "by measurement: inf depth scales deep: should not train"


def test_modules_of_the_package_are_there_at_once() -> None:
    code = "import disbud; print(disbud.robust.region.Setting(width=7).width)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "7\n"
    )
    with pytest.raises(AttributeError, match="no attribute 'regions'"):
        robust.regions


def test_forecasts_by_theory_and_by_measurement_agree_and_come_true() -> None:
    for sparsity, rescale, trains in ((0.5, None, True), (0.9, None, False), (0.9, "weights", True)):
        model = mlp(20, 80)
        ticket = robust.mbp(model, sparsity=sparsity, rescale=rescale)
        said = robust.forecast(model, BATCH[0], ticket)
        measured = robust.forecast(model, *BATCH[:1], ticket, labels=BATCH[1])
        assert said.trains is measured.trains is trains
        assert said.depth_scales == pytest.approx(measured.depth_scales, rel=0.25, abs=0.8)
        result = disbud.train(model, DIGITS, ticket=ticket, recipe="digits:epochs=8,lr=0.01")
        assert (result.accuracy > 0.5) is trains


def test_an_empty_layer_is_a_forecast_of_its_own() -> None:
    model = mlp(2, 20)
    masks = {
        name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters() if p.dim() > 1
    }
    ticket = disbud.Ticket.from_masks(masks | {"fc2.weight": torch.zeros(20, 20, dtype=torch.bool)})
    said = robust.forecast(model, BATCH[0], ticket)
    assert not said.trains
    assert "fc2.weight" in str(said)


def cells_of(path: Path) -> list[dict[str, object]]:
    return json.loads(path.read_text())["cells"]


def test_a_region_goes_on_where_it_was_and_trains_no_cell_twice(tmp_path: Path) -> None:
    file, seen = tmp_path / "region.json", []
    arguments = {"setting": QUICK, "depths": [1, 2], "sparsities": [0.1, 0.9]}
    first = robust.trainable_region(file, **arguments, panels=["edge"])
    assert len(first.cells) == len(cells_of(file)) == 4
    assert first.mean("edge", 1, 0.1) > 0.5
    robust.trainable_region(
        file, **arguments, progress=lambda done, of, cell: seen.append((done, of, cell.panel))
    )
    assert [(done, of) for done, of, _ in seen] == [(done, 12) for done in range(5, 13)]
    assert {panel for *_, panel in seen} == {"ordered", "rescaled"}
    assert len(read_region(file).cells) == 12
    # A cell does not depend on which others were trained.
    alone = robust.trainable_region(
        tmp_path / "alone.json", setting=QUICK, depths=[2], sparsities=[0.9], panels=["rescaled"]
    )
    assert alone.mean("rescaled", 2, 0.9) == read_region(file).mean("rescaled", 2, 0.9)
    with pytest.raises(DisbudError, match="holds cells of another setting: width = 30, not 31"):
        robust.trainable_region(
            file, setting=Setting(width=31, recipe=QUICK.recipe, method="mbp", rescale="weights")
        )


@pytest.mark.slow
def test_a_region_that_was_killed_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "region.json"
    code = (
        "import sys; from disbud import robust; from disbud.robust.region import Setting\n"
        "if __name__ == '__main__':\n"
        f"    robust.trainable_region(sys.argv[1], setting=Setting(**{QUICK.to_json()!r}), depths=range(1, 9),"
        " sparsities=[0.5], panels=['edge', 'rescaled'])"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    process = subprocess.Popen(
        [sys.executable, str(script), str(file)], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 60
    while not (file.exists() and len(cells_of(file)) >= 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(cells_of(file))
    assert 2 <= done < 16
    fresh: list[int] = []
    robust.trainable_region(
        file, setting=QUICK, depths=range(1, 9), sparsities=[0.5], panels=["edge", "rescaled"], workers=2,
        progress=lambda done, of, cell: fresh.append(cell.depth),
    )  # fmt: skip
    assert len(fresh) == 16 - done
    assert len(cells_of(file)) == 16


@pytest.mark.parametrize("method", ["sbp", "random"])
def test_every_way_to_prune_a_region_rescales_only_its_last_panel(method: str) -> None:
    from disbud.robust.prepared import prepared

    setting = Setting(width=20, method=method, rescale="differences")
    moments = {}
    for panel in ("ordered", "edge", "rescaled"):
        model, ticket = prepared(setting, robust.Cell(panel, 3, 0.8, 0), DIGITS)
        assert ticket.sparsity == pytest.approx(0.8, abs=1e-3)
        ticket.apply_(model)
        moments[panel] = theory.chain_of(model)[1].sigma_w
    assert moments["ordered"] < moments["edge"] < moments["rescaled"]


def test_pictures_have_a_panel_each_and_files_that_are_not_cells_are_refused(tmp_path: Path) -> None:
    cells = [
        robust.Cell(panel, depth, sparsity, 0, 0.5, depth // 20)
        for panel in ("ordered", "rescaled")
        for depth in (5, 20)
        for sparsity in (0.5, 0.9)
    ]
    region = robust.Region(Setting(), tuple(cells))
    robust.draw(region, tmp_path / "picture.svg")
    drawn = (tmp_path / "picture.svg").read_text()
    assert "matplotlib" in drawn
    assert drawn.count("<image") >= 2
    assert "above 50 % in ordered 0 of 4" in str(region)
    with pytest.raises(DisbudError, match="nothing to draw"):
        robust.draw(robust.Region(Setting(), ()), tmp_path / "none.png")
    (tmp_path / "odd.json").write_text("[1, 2]")
    with pytest.raises(DisbudError, match="not a file of cells"):
        read_region(tmp_path / "odd.json")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"panels": ["edges"]}, "no panel 'edges'; did you mean 'edge'"),
        ({"depths": [0]}, "whole number of hidden layers, not 0"),
        ({"sparsities": [1.0]}, "from 0 to below 1, not 1.0"),
        ({"depths": []}, "at least one depth"),
        ({"workers": 0}, "at least 1, not 0"),
    ],
)
def test_what_a_region_cannot_be(tmp_path: Path, arguments: dict[str, object], says: str) -> None:
    with pytest.raises(DisbudError, match=says):
        robust.trainable_region(tmp_path / "region.json", **arguments)
    for field, value in {"method": "snip", "rescale": "none", "width": 0}.items():
        with pytest.raises(DisbudError):
            Setting(**{field: value})
