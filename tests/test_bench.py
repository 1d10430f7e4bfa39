"""`disbud.bench` and `disbud bench`: every way is timed, ratios and advice follow from the times."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import disbud
from disbud import DisbudError, Ticket
from disbud.acceleration import Bench, Route, Timing
from disbud.acceleration.measuring import clock_of, in_turn
from disbud.cli import main
from disbud.kernels import library
from disbud.models import build

NAMES = [
    f"{way}{stored}"
    for way in ("dense", "compact", "sparse", "sparse compact")
    for stored in ("", " bfloat16")
]


def convnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 64, 10)
    )


def test_every_way_is_timed_and_the_model_is_left_alone() -> None:
    model = convnet()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ticket = disbud.prune(model, "magnitude", sparsity=0.9)
    heard: list[tuple[float, str]] = []
    found = disbud.bench(
        model,
        ticket,
        example=torch.zeros(16, 3, 16, 16),
        rounds=3,
        progress=lambda done, what: heard.append((done, what)),
    )
    assert [route.name for route in found.routes] == NAMES
    assert (found.batch, found.threads) == (16, torch.get_num_threads())
    kept = ticket.densities()
    macs = {"0.weight": 32 * 27 * 256, "4.weight": 32 * 64 * 10}
    left = sum(macs[name] * kept[name] for name in macs) / sum(macs.values())
    assert found.multiply_adds_left == pytest.approx(left, rel=1e-3)
    for route in found.routes:
        for timing in (route.step, route.forward):
            assert timing is not None
            assert timing.seconds > 0
            assert (timing.memory_format in ("NCHW", "channels_last")) == ("sparse" not in route.name)
    dense, sixteen = found.routes[0].step, found.routes[1].step
    assert dense is not None
    assert sixteen is not None
    assert dense.against_dense == sixteen.against_bfloat16 == 1.0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert heard == sorted(heard, key=lambda event: event[0])
    assert {what.partition(":")[0] for _, what in heard} == {"step", "forward"}


@pytest.mark.skipif(library() is None, reason="the kernels need a C compiler")
def test_a_very_sparse_wide_layer_is_fastest_by_kernels() -> None:
    """Factors of ten lie between them, so that no noise turns them round."""
    model = nn.Sequential(*[nn.Conv2d(128, 128, 3, padding=1, bias=False) for _ in range(3)])
    ticket = disbud.prune(model, "random", sparsity=0.995, densities="uniform")
    found = disbud.bench(model, ticket, example=torch.zeros(16, 128, 16, 16), rounds=3)
    assert found.best("step").name.startswith("sparse")
    assert found.recommendation("step").startswith("to train: sparse")
    by_name = {route.name: route for route in found.routes}
    step = by_name["sparse"].step
    assert step is not None
    assert step.against_dense > 2


def test_a_way_that_cannot_be_gone_says_why() -> None:
    model = nn.Sequential(nn.Linear(8, 4)).double()
    ticket = Ticket.from_masks({"0.weight": torch.eye(4, 8) > 0})
    found = disbud.bench(model, ticket, example=torch.zeros(4, 8, dtype=torch.float64), rounds=1)
    by_name = {route.name: route for route in found.routes}
    assert by_name["dense"].step is not None
    assert (by_name["sparse"].step, by_name["sparse"].forward) == (None, None)
    assert "float32" in str(by_name["sparse"].refused)
    with pytest.raises(DisbudError, match="rounds=0"):
        disbud.bench(model, ticket, example=torch.zeros(4, 8), rounds=0)


def mlp() -> tuple[nn.Module, Ticket]:
    model = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    return model, disbud.prune(model, "magnitude", sparsity=0.5)


def test_what_makes_no_step_is_timed_forward() -> None:
    model, ticket = mlp()
    frozen = copy.deepcopy(model).requires_grad_(False)
    for net, images, why in ((model, 1, "more than 1 value"), (frozen, 4, "asks for a gradient")):
        found = disbud.bench(net, ticket, example=torch.zeros(images, 12), rounds=1)
        assert [route.name for route in found.routes] == NAMES
        assert all(route.step is None and route.forward is not None for route in found.routes)
        assert why in str(found.routes[0].refused)
        assert found.recommendation("step").startswith("to train: no way can be gone here; ")
        assert why in found.recommendation("step")
        recommended = found.to_json()["recommended"]
        assert isinstance(recommended, dict)
        assert recommended["step"] is None
        assert recommended["forward"] in NAMES
        with pytest.raises(DisbudError, match=why):
            found.best("step")


def test_a_frozen_first_layer_is_no_hindrance() -> None:
    model = convnet()
    model[0].requires_grad_(False)
    ticket = disbud.prune(model, "magnitude", sparsity=0.9)
    found = disbud.bench(model, ticket, example=torch.zeros(16, 3, 16, 16), rounds=1)
    assert all(route.step is not None for route in found.routes)


def test_a_model_in_sixteen_bits_is_timed_in_thirty_two() -> None:
    model, ticket = mlp()
    found = disbud.bench(model.bfloat16(), ticket, example=torch.zeros(4, 12, dtype=torch.bfloat16), rounds=1)
    assert [route.refused for route in found.routes] == [None] * len(NAMES)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_a_route_that_the_rounds_do_not_tell_from_dense_is_not_advised() -> None:
    dense, half = Timing(0.4, 1.0, 0.5, None, (0.3, 0.5)), Timing(0.42, 1.0, 1.0, None, (0.4, 0.43))
    for interval, chosen in (((0.1, 0.35), "dense"), ((0.1, 0.29), "sparse")):
        fast = Timing(0.2, 2.0, 2.0, None, interval)
        routes = [
            Route(name, timing, timing)
            for name, timing in (("dense", dense), ("dense bfloat16", half), ("sparse", fast))
        ]
        found = Bench(tuple(routes), None, batch=8, threads=1)
        assert found.best("step").name == "sparse"
        assert found.recommended("step").name == chosen
        assert found.to_json()["recommended"] == {"step": chosen, "forward": chosen}
        unclear = found.recommendation("step") == "to train: dense; no route is clearly faster here"
        assert unclear == (chosen == "dense")


def test_short_ways_are_repeated_until_they_can_be_timed() -> None:
    """By a clock that calls move on: the first call of each sample takes ten times as long, and does not count."""
    now, calls = [0.0], {"short": 0, "long": 0}
    last = [""]

    def way(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            calls[name] += 1
            now[0] += seconds * (1 if last[0] == name else 10)
            last[0] = name

        return run

    ways = {"short": way("short", 0.001), "long": way("long", 0.05)}
    times = in_turn(ways, rounds=3, clock=lambda: now[0])
    assert times["short"] == pytest.approx([0.001] * 3)
    assert times["long"] == pytest.approx([0.05] * 3)
    assert calls["short"] > 3 * calls["long"]
    assert clock_of("cuda") is time.perf_counter
    assert clock_of("cpu") is (time.process_time if torch.get_num_threads() == 1 else time.perf_counter)


def test_advice_follows_the_times() -> None:
    dense, half, fast = Timing(0.4, 1.0, 0.5), Timing(0.2, 2.0, 1.0), Timing(0.05, 8.0, 4.0)
    routes = (Route("dense", dense, half), Route("dense bfloat16", half, fast), Route("sparse", fast, half))
    found = Bench((*routes, Route("compact", refused="it cannot be followed")), 0.02, batch=8, threads=1)
    assert (
        found.recommendation("step")
        == "to train: sparse, 8.0 times as fast as dense float32, 4.0 as bfloat16"
    )
    assert found.recommendation("forward") == "to run: dense bfloat16; no route is faster here"
    assert found.to_json()["recommended"] == {"step": "sparse", "forward": "dense bfloat16"}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.ticket.safetensors"
    disbud.prune(build("lenet-300-100", input_shape=(1, 28, 28)), "magnitude", sparsity=0.95).save(path)
    run = ["bench", "lenet-300-100", str(path), "--batch", "8", "--rounds", "2"]
    assert main(run) == 0
    told = capsys.readouterr().out
    assert all(f"\n{name} " in told for name in NAMES)
    assert "95.00% of 266,200 weights removed by magnitude, 5.0% of the multiply-adds left" in told
    assert "to train: " in told
    assert main([*run, "--json"]) == 0
    read = json.loads(capsys.readouterr().out)
    assert [route["name"] for route in read["routes"]] == NAMES
    assert read["batch"] == 8
    assert main([*run[:3], "--batch", "0"]) == 2
    assert "--batch 0: should be at least 1" in capsys.readouterr().err
