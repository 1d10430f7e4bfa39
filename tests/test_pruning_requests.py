"""What one may plausibly write in a request: taken as it is meant, or answered by one clear error; and recorded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import disbud
from disbud import DisbudError, interventions
from test_pruning import moved

X, Y = torch.randn(16, 8, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 4


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def normed() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


def pruned(method: object = "snip", model: nn.Module | None = None, **more: object) -> disbud.Ticket:
    given = {"batches": [(X, Y)], "examples_per_class": None} if method == "snip" else {}
    return disbud.prune(mlp() if model is None else model, method, **{"sparsity": 0.5, **given, **more})  # type: ignore[arg-type]


# Names and densities


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"method": ["snip"]}, r"""there is no method "\['snip'\]"; did you mean 'snip'"""),
        ({"method": None}, "there is no method 'None'"),
        ({"method": abs}, "there is no method '<built-in function abs>'"),
        ({"keep": None}, "there is no way to keep 'None'; known are highest, lowest"),
        ({"keep": ["lowest"]}, "there is no way to keep"),
        ({"schedule": 3}, "there is no schedule '3'"),
        ({"count": 3}, "there is no way to count called '3'"),
        ({"aggregate": {}}, "there is no aggregate of a group's scores '{}'"),
        ({"method": "smart-ratio", "shape": ["linear"]}, "there is no smart-ratio shape"),
        (
            {"method": "smart-ratio", "linear_density": "a"},
            "linear_density is a density from 0 to 1, not 'a'",
        ),
        ({"densities": 0.1}, r"densities is the name of a rule \(uniform, .*by layer name, not 0.1"),
        ({"densities": [0.1, 0.2]}, r"densities is the name of a rule .*, not \[0.1, 0.2\]"),
        ({"densities": True}, "densities is the name of a rule .*, not True"),
        ({"densities": {"0.weight": None, "2.weight": 0.1}}, "from 0 to 1; that of 0.weight is None"),
        ({"densities": {"0.weight": 0.2, "2.weight": "a"}}, "from 0 to 1; that of 2.weight is 'a'"),
        ({"densities": {"0.weight": 0.2, "2.weight": float("nan")}}, "that of 2.weight is nan"),
    ],
)
def test_what_has_no_meaning_is_an_error(more: dict[str, object], said: str) -> None:
    with pytest.raises(DisbudError, match=said):
        pruned(**more)
    if "method" in more and len(more) == 1:
        with pytest.raises(DisbudError, match=said):
            disbud.scores(mlp(), more["method"])  # type: ignore[arg-type]


@pytest.mark.parametrize("odd", [None, 3, ["shuffle"], torch.zeros(2)])
def test_an_intervention_is_named_by_a_text(odd: object) -> None:
    ticket = pruned()
    said = "an intervention is named by a text, such as 'shuffle'"
    with pytest.raises(DisbudError, match=said):
        interventions.on_mask(ticket, odd)  # type: ignore[arg-type]
    with pytest.raises(DisbudError, match=said):
        interventions.on_weights(mlp().state_dict(), ticket, odd)  # type: ignore[arg-type]
    with pytest.raises(DisbudError, match=said):
        interventions.on_data([(X, Y)], odd)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [np.float64, np.float32, float, torch.tensor])
def test_numbers_of_other_libraries_are_numbers_in_the_file_too(
    kind: Callable[[float], float], tmp_path: Path
) -> None:
    densities = {"0.weight": kind(0.25), "2.weight": kind(0.5)}
    ticket = disbud.prune(mlp(), "magnitude", sparsity=0.6, densities=densities)
    assert ticket == disbud.prune(
        mlp(), "magnitude", sparsity=0.6, densities={"0.weight": 0.25, "2.weight": 0.5}
    )
    ticket.save(tmp_path / "a.ticket.safetensors")
    read = disbud.Ticket.load(tmp_path / "a.ticket.safetensors")
    assert read.origin.settings["densities"] == {"0.weight": 0.25, "2.weight": 0.5}
    if kind is not torch.tensor:
        levels = [
            disbud.prune(mlp(), "lottery-ticket", sparsity=0.5, train=moved, per_level=per_level)  # type: ignore[arg-type]
            for per_level in (kind(0.25), 0.25)
        ]
        assert levels[0] == levels[1]
        assert levels[0].origin.settings == levels[1].origin.settings
    with pytest.raises(DisbudError, match="per_level is the fraction"):
        disbud.prune(mlp(), "lottery-ticket", sparsity=0.5, train=moved, per_level=True)


def test_patterns_from_a_generator_are_recorded() -> None:
    for key in ("include", "exclude"):
        ticket = disbud.prune(mlp(), "random", sparsity=0.5, **{key: (name for name in ["2.*"])})  # type: ignore[arg-type]
        listed = disbud.prune(mlp(), "random", sparsity=0.5, **{key: ["2.*"]})  # type: ignore[arg-type]
        assert ticket == listed
        assert ticket.origin.settings == listed.origin.settings
        assert ticket.origin.settings[key] == ["2.*"]


# Batches and losses


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.bool])
def test_labels_are_whole_numbers_of_any_type(dtype: torch.dtype) -> None:
    labels = (Y > 1) if dtype == torch.bool else Y
    expected = disbud.scores(mlp(), "snip", batches=[(X, labels.long())], examples_per_class=None)
    found = disbud.scores(mlp(), "snip", batches=[(X, labels.to(dtype))], examples_per_class=None)
    assert all(torch.equal(found[name], score) for name, score in expected.items())


@pytest.mark.parametrize("batch", [(X.numpy(), Y.numpy()), (X.numpy(), Y), (X, Y.numpy())])
def test_numpy_batches_are_said_to_be_that(batch: object) -> None:
    for per_class in (None, 2):
        with pytest.raises(DisbudError, match=r"a batch holds a numpy ndarray; give tensors, .*from_numpy"):
            pruned(batches=[batch], examples_per_class=per_class)

    def loss(model: nn.Module, arrays: object) -> Tensor:
        x, y = map(torch.as_tensor, arrays)  # type: ignore[call-overload]
        return functional.cross_entropy(model(x), y)

    assert pruned(batches=[batch], loss=loss) == pruned()  # a loss of one's own may read anything


@pytest.mark.parametrize(
    ("loss", "given"),
    [
        (nn.CrossEntropyLoss(), r"CrossEntropyLoss\(\)"),
        (functional.cross_entropy, "torch.nn.functional:cross_entropy"),
        (partial(functional.cross_entropy), "functools:partial"),
        (lambda outputs: outputs.sum(), "<lambda>"),
        ("cross_entropy", "'cross_entropy'"),
    ],
)
def test_a_loss_of_outputs_and_targets_is_not_what_is_called(loss: object, given: str) -> None:
    for ask, more in ((disbud.prune, {"sparsity": 0.5}), (disbud.scores, {})):
        with pytest.raises(
            DisbudError, match=rf"loss is called as loss\(model, batch\) .*in the place of .*{given}"
        ):
            ask(mlp(), "snip", batches=[(X, Y)], examples_per_class=None, loss=loss, **more)  # type: ignore[operator]


class Mean(nn.Module):
    """A loss with state of its own."""

    def forward(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1])


def test_any_callable_of_a_model_and_a_batch_is_a_loss() -> None:
    def scaled(model: nn.Module, batch: tuple[Tensor, Tensor], factor: float) -> Tensor:
        return factor * Mean()(model, batch)  # type: ignore[no-any-return]

    assert pruned(loss=Mean()) == pruned(loss=partial(scaled, factor=2.0)) == pruned()


# Batches of one example


@pytest.mark.parametrize("method", ["snip", "force", "grasp", "prospr", "poise"])
def test_a_batch_of_one_example_under_batch_norm_is_said(method: str) -> None:
    cut = [(X[:1], Y[:1]), (X[1:], Y[1:])]  # poise looks at the first
    with pytest.raises(
        DisbudError, match=r"one example has no spread; give batches of two at least; drop_last=True"
    ):
        disbud.prune(normed(), method, sparsity=0.5, batches=cut, examples_per_class=None)


def test_so_is_one_that_regrouping_leaves_and_a_sample_of_one() -> None:
    x, y = torch.cat([X, X[:1]]), torch.cat([Y, Y[:1]])
    with pytest.raises(DisbudError, match="one example has no spread"):
        disbud.prune(normed(), "snip", sparsity=0.5, batches=[(x, y)], batch_size=5, examples_per_class=4)
    with pytest.raises(DisbudError, match="one example has no spread; give samples=2 or more"):
        disbud.prune(normed(), "ntk-sap", sparsity=0.5, example=X[:1], samples=1)
    in_eval = {"batches": [(X[:1], Y[:1])], "examples_per_class": None, "batch_norm": "eval"}
    assert disbud.prune(normed(), "snip", sparsity=0.5, **in_eval).kept == 48  # type: ignore[arg-type]
    images = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 16, 2))
    disbud.prune(images, "ntk-sap", sparsity=0.5, example=torch.zeros(1, 1, 6, 6), samples=1)  # pixels spread


def test_other_errors_of_a_loss_stay_what_they_are() -> None:
    def loss(model: nn.Module, batch: object) -> Tensor:
        raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$"):
        pruned(loss=loss)
