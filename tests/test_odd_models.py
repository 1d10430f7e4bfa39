"""Models and values out of the ordinary: wrapped, frozen, half precision, not finite, without values, checkpointed."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.utils.checkpoint as checkpointing
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import disbud
from disbud.errors import DisbudError
from disbud.graph import effective
from disbud.methods.catalogue import CATALOGUE
from networks import NETWORKS, ROW
from test_pruning import METHODS, keeps_what_it_should, prune, request


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("method", METHODS)
def test_weights_that_are_not_finite_are_named(method: str, odd: float) -> None:
    network = NETWORKS["linear"]
    model = network.build()
    with torch.no_grad():
        dict(model.named_parameters())["2.weight"][1, 1] = odd
    with pytest.raises(DisbudError, match=r"2.weight holds NaN or infinite weights"):
        prune(model, method, sparsity=0.5, **request(method, network))


def test_a_loss_that_is_not_finite_is_said_of_the_scores() -> None:
    network = NETWORKS["linear"]
    x, y = network.batch(6, dtype=torch.float32)
    with pytest.raises(DisbudError, match=r"the scores of 0.weight hold NaN values"):
        prune(network.build(), "snip", sparsity=0.5, batches=[(x / 0, y)], examples_per_class=None)


@pytest.mark.parametrize("method", METHODS)
def test_the_meta_device_holds_no_values(method: str) -> None:
    network = NETWORKS["linear"]
    with pytest.raises(DisbudError, match=r"0.weight is on the meta device and holds no values"):
        prune(network.build().to("meta"), method, sparsity=0.5, **request(method, network))
    if CATALOGUE[method].needs == "batches":
        x, y = network.batch(6, dtype=torch.float32)
        for per_class in (None, 10):
            for batch in ((x.to("meta"), y), (x.to("meta"), y.to("meta"))):
                with pytest.raises(DisbudError, match=r"meta device holds no values"):
                    prune(
                        network.build(), method, sparsity=0.5, batches=[batch], examples_per_class=per_class
                    )


@pytest.mark.parametrize("method", METHODS)
def test_frozen_parameters_are_scored_and_stay_frozen(method: str) -> None:
    network = NETWORKS["conv"]
    model = network.build()
    more = request(method, network)
    free = prune(model, method, sparsity=0.5, **more)
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 3 == 1)
    assert prune(model, method, sparsity=0.5, **more) == free
    assert [p.requires_grad for p in model.parameters()] == [i % 3 == 1 for i in range(6)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_other_precisions(method: str, dtype: torch.dtype) -> None:
    network = NETWORKS["conv"]
    model = network.build().to(dtype)
    ticket = prune(model, method, sparsity=0.6, **request(method, network, dtype=dtype))
    assert keeps_what_it_should(ticket, method, 0.6)


@pytest.mark.parametrize("method", METHODS)
def test_wrappers_change_nothing(method: str) -> None:
    network = NETWORKS["residual"]
    model = network.build()
    more = request(method, network)
    bare = prune(model, method, sparsity=0.7, **more)
    for wrapped in (torch.compile(model), nn.DataParallel(model), torch.compile(nn.DataParallel(model))):
        assert prune(wrapped, method, sparsity=0.7, **more) == bare  # type: ignore[arg-type]
        assert all("module." not in name and "_orig_mod" not in name for name in bare.masks)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("method", METHODS)
def test_the_callers_gradient_mode_does_not_matter(method: str, context: type) -> None:
    network = NETWORKS["batch-norm"]
    model = network.build()
    more = request(method, network)
    outside = prune(model, method, sparsity=0.5, **more)
    with context():
        assert prune(model, method, sparsity=0.5, **more) == outside


class Contrastive(nn.Module):
    """A model whose loss calls a method of its own, as many do."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(6, 4)
        self.head = nn.Linear(4, 3)
        self.weights = 3.0  # a name of disbud's own

    def encode(self, x: Tensor) -> Tensor:
        return torch.tanh(self.encoder(x))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.encode(x))
        return out


def test_a_loss_sees_the_model_itself() -> None:
    network = NETWORKS["linear"]
    torch.manual_seed(0)
    model = Contrastive()
    x, y = network.batch(6, dtype=torch.float32)

    def by_call(m: nn.Module, batch: object) -> Tensor:
        assert isinstance(m, Contrastive)
        assert m.weights == 3.0
        return nn.functional.cross_entropy(m(x), y)

    def by_method(m: nn.Module, batch: object) -> Tensor:
        assert isinstance(m, Contrastive)
        return nn.functional.cross_entropy(m.head(m.encode(x)), y)

    found = [disbud.scores(model, "snip", batches=[{"x": x}], loss=loss) for loss in (by_call, by_method)]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


class Checkpointed(nn.Module):
    """A network of which a part is computed again for its derivative: by neither way, or by one of torch's two."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.norm = nn.BatchNorm1d(8)

    def block(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.second(x)))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        plain = self.reentrant is None
        y = self.block(x) if plain else checkpoint(self.block, x, use_reentrant=self.reentrant)
        out: Tensor = self.head(y)
        return out


def of_seed(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


def looking(method: str) -> dict[str, object]:
    """What the method looks at, of a network that reads rows."""
    network = NETWORKS["linear"]
    steps: dict[str, object] = {"steps": 3} if method == "dpai" else {}
    return request(method, network) | steps | ({} if CATALOGUE[method].trains else {"example": ROW})


# Those that look at more than names and shapes.
LOOKING = [
    name for name in METHODS if not name.startswith(("random", "smart")) and not CATALOGUE[name].trains
]


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("method", LOOKING)
def test_checkpointed_activations_change_nothing(method: str, reentrant: bool) -> None:
    own = dict(vars(checkpointing))
    tickets = [
        prune(of_seed(lambda way=way: Checkpointed(way)), method, sparsity=0.7, **looking(method))
        for way in (None, reentrant)
    ]
    assert tickets[0] == tickets[1]
    assert vars(checkpointing) == own
    if method == "magnitude":
        found = [effective(Checkpointed(way), tickets[0], example=ROW) for way in (None, reentrant)]
        assert found[0] == found[1]


def test_checkpoints_are_torchs_own_again_where_a_model_fails() -> None:
    own = dict(vars(checkpointing))
    wrong = [(torch.ones(4, 5), torch.zeros(4).long())]
    with pytest.raises(RuntimeError, match=r"shapes cannot be multiplied"):
        prune(Checkpointed(reentrant=True), "snip", sparsity=0.5, batches=wrong, examples_per_class=None)
    assert vars(checkpointing) == own


class PartCompiled(nn.Module):
    """A network of which a part is compiled, or nothing."""

    def __init__(self, backend: Callable[..., object] | None) -> None:
        super().__init__()
        inner = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.inner = inner if backend is None else torch.compile(inner, backend=backend)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.inner(x))
        return out


@pytest.mark.parametrize("method", ["grasp", "grasp-abs", "snip", "px", "synflow", "npb"])
def test_compiled_code_is_run_as_it_was_written(method: str) -> None:
    compiled: list[object] = []

    def backend(graph: Callable[..., object], inputs: object) -> Callable[..., object]:
        compiled.append(graph)
        return graph

    more = looking(method)
    plain = prune(of_seed(lambda: PartCompiled(None)), method, sparsity=0.7, **more)
    whole = of_seed(lambda: PartCompiled(None))
    whole.compile(backend=backend)
    for model in (whole, of_seed(lambda: PartCompiled(backend))):
        torch.compiler.reset()
        for warm in (False, True):
            compiled.clear()
            assert prune(model, method, sparsity=0.7, **more) == plain
            assert not compiled
            model.eval()(torch.ones(4, 6))
            assert bool(compiled) is not warm  # it is the caller's again


@pytest.mark.parametrize("method", LOOKING)
def test_batches_made_for_inference_only(method: str) -> None:
    network = NETWORKS["batch-norm"]
    more = request(method, network)
    plain = prune(network.build(), method, sparsity=0.5, **more)
    with torch.inference_mode():
        for key in more.keys() & {"batches"}:
            more[key] = [tuple(tensor.clone() for tensor in batch) for batch in more[key]]  # type: ignore[attr-defined]
        for key in more.keys() & {"example"}:
            more[key] = more[key].clone()  # type: ignore[attr-defined]
    assert prune(network.build(), method, sparsity=0.5, **more) == plain


def test_buffers_made_for_inference_only() -> None:
    network = NETWORKS["batch-norm"]
    more = request("snip", network)
    plain = prune(network.build(), "snip", sparsity=0.5, **more)
    model = network.build()
    with torch.inference_mode():
        made = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for name, buffer in made.items():
        owner, _, key = name.rpartition(".")
        setattr(model.get_submodule(owner), key, buffer)
    assert prune(model, "snip", sparsity=0.5, **more) == plain
    assert all(buffer is made[name] for name, buffer in model.named_buffers())


@pytest.mark.parametrize("method", ["snip", "grasp", "poise", "prospr", "px", "ntk-sap", "synflow", "npb"])
def test_a_model_built_in_inference_mode_gets_the_ticket_of_one_that_was_not(method: str) -> None:
    def built() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    with torch.inference_mode():
        frozen = built()
    batches = [(torch.randn(12, 6), torch.arange(12) % 3)]
    asked = {"sparsity": 0.5, "batches": batches, "examples_per_class": None, "example": torch.zeros(1, 6)}
    assert prune(frozen, method, **asked) == prune(built(), method, **asked)
    assert frozen[0].weight.is_inference()
