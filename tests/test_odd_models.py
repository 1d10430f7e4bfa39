"""Models and values out of the ordinary: wrapped, frozen, half precision, not finite, without values, checkpointed."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import disbud
from disbud.errors import DisbudError
from disbud.methods.catalogue import CATALOGUE
from networks import NETWORKS
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


def test_checkpointed_activations_are_computed_again_with_the_pruned_weights() -> None:
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = checkpoint(self.inner, x, use_reentrant=False)
            return out

    network = NETWORKS["without-biases"]
    model = network.build()
    more = request("force", network)
    plain = prune(model, "force", sparsity=0.8, **more)
    again = prune(Checkpointed(copy.deepcopy(model)), "force", sparsity=0.8, **more)
    assert [mask.tolist() for mask in again.masks.values()] == [
        mask.tolist() for mask in plain.masks.values()
    ]
