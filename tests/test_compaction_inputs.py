"""What a model is run on and in which type: types by name, logarithms, labels, complex weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compaction_oracle import check_exact, close, keeping, masked, rows, seeded
from disbud import DisbudError, Ticket
from disbud.compaction import Compacted, compact
from disbud.seeds import generator

X = torch.randn(5, 4, generator=generator(0, "x"))


class Between(nn.Module):
    """Two layers with something of the test's own before them and between them."""

    def __init__(self, before: Callable[[Tensor], Tensor], between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)
        self.before, self.between = before, between

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self.a(self.before(x))))  # type: ignore[no-any-return]


def same(x: Tensor) -> Tensor:
    return x


def in_its_type(model: nn.Module, ticket: Ticket, example: Tensor, tolerance: float = 1e-5) -> Compacted:
    """Compact a model that runs in one type only, and hold the outcome to the masked network in that type."""
    found = compact(model, ticket, example=example)
    with torch.no_grad():
        assert close(found.model.eval()(example), masked(model, ticket).eval()(example), tolerance)
    return found


# Types that a forward names

NAMED: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "float": (lambda x: x.float() / 255, torch.relu),
    "to": (lambda x: x.to(torch.float32), torch.relu),
    "to with a device": (lambda x: x.to("cpu", dtype=torch.float32), torch.relu),
    "a constant": (same, lambda h: h.relu() * torch.full((), 3.0, dtype=torch.float32)),
    "cast between": (same, lambda h: h.float().relu().to(torch.float32)),
}


@pytest.mark.parametrize("how", sorted(NAMED))
def test_a_forward_that_names_float32_is_compacted(how: str) -> None:
    model = seeded(lambda: Between(*NAMED[how])).float()
    found = in_its_type(model, keeping(model, b=(slice(None), [1, 4])), X)
    assert found.model.a.out_features == 4
    assert found.model.a.weight.dtype == torch.float32


def test_images_as_bytes_are_compacted() -> None:
    model = seeded(lambda: Between(lambda x: x.float() / 255, torch.relu)).float()
    example = torch.randint(256, (5, 4), generator=generator(0, "bytes")).to(torch.uint8)
    assert in_its_type(model, keeping(model, b=(slice(None), 1)), example).model.a.out_features == 5


class Recurrent(nn.Module):
    """Its state begins as zeros of torch's default type."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.h, self.b = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(len(x), 6)
        for _ in range(2):
            state = self.a(x) + self.h(state)
        return self.b(torch.relu(state))  # type: ignore[no-any-return]


def test_a_state_of_the_default_type_is_followed() -> None:
    model = seeded(Recurrent).float()
    in_its_type(model, keeping(model, b=(slice(None), 1), h=(slice(None), 1)), X)


def test_the_default_type_comes_back_whatever_happens() -> None:
    model = seeded(lambda: Between(same, torch.relu)).float()
    before = torch.get_default_dtype()
    compact(model, keeping(model), example=X)
    assert torch.get_default_dtype() == before
    with pytest.raises(
        RuntimeError, match="shapes cannot be multiplied"
    ):  # torch's own: the example is wrong
        compact(model, keeping(model), example=torch.zeros(1, 9))
    assert torch.get_default_dtype() == before
    assert torch.zeros(1).float().dtype == torch.float32


def test_a_type_that_float64_cannot_stand_beside_is_said() -> None:
    table = torch.ones(6, 6)  # neither a buffer nor made in forward
    model = seeded(lambda: Between(same, lambda h: h.relu() @ table)).float()
    with pytest.raises(DisbudError, match=r"runs on the example, but not in float64.* should be a buffer"):
        compact(model, keeping(model), example=X)


# Numbers that a forward is not defined on


def test_a_logarithm_is_compacted_on_the_examples_own_numbers() -> None:
    model = seeded(lambda: Between(torch.log, torch.relu)).float()
    ticket = keeping(model, b=(slice(None), [1, 4]))
    assert in_its_type(model, ticket, X.abs() + 0.1).model.a.out_features == 4
    with pytest.raises(DisbudError, match=r"not finite, neither on random inputs .* meant for"):
        compact(model, ticket, example=-X.abs())


def test_a_derivative_that_is_not_finite_is_said() -> None:
    model = seeded(lambda: Between(same, lambda h: (h - h).sqrt())).float()
    with pytest.raises(DisbudError, match=r"the derivative of .*: the full model gives what is not finite"):
        compact(model, keeping(model), example=X)


# Training


class Labelled(nn.Module):
    """Gives a loss in training, with a head of its own for it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.aux = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        h = self.a(x).relu()
        if not self.training:
            return self.b(h)  # type: ignore[no-any-return]
        if labels is None:
            raise ValueError("no labels")
        return functional.cross_entropy(self.b(h), labels) + functional.cross_entropy(self.aux(h), labels)


@pytest.mark.parametrize("on_the_ticket", [True, False])
def test_what_only_training_reads_is_followed_or_the_model_refused(on_the_ticket: bool) -> None:
    model = seeded(Labelled)
    masks = dict(keeping(model, b=(slice(None), [0, 1, 2])).masks)
    if not on_the_ticket:
        del masks["aux.weight"]
    ticket, labels = Ticket(masks), torch.arange(5) % 3
    with pytest.raises(DisbudError, match=r"training was not followed \(ValueError: no labels\).*aux\."):
        compact(model, ticket, example=X)
    found = compact(model, ticket, example=(X, labels))
    assert found.model.a.out_features == 8
    x = X.double()
    full = masked(model, ticket)
    assert close(found.model.train()(x, labels).detach(), full.train()(x, labels).detach())
    both = Ticket({**masks, "aux.weight": keeping(model, aux=(slice(None), 2)).masks["aux.weight"]})
    found, full = compact(model, both, example=(X, labels)), masked(model, both)
    assert found.model.a.out_features == found.model.aux.in_features == 7
    assert close(found.model.train()(x, labels).detach(), full.train()(x, labels).detach())


def test_labels_that_no_part_is_read_for_need_not_be_given() -> None:
    class Asking(Between):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                raise ValueError("no labels")
            return super().forward(x)

    model = seeded(lambda: Asking(same, torch.relu)).float()
    assert in_its_type(model, keeping(model, b=(slice(None), 1)), X).model.a.out_features == 5


# Sizes that no tensor shows


@pytest.mark.parametrize(
    "norm", [nn.InstanceNorm2d, lambda n: nn.BatchNorm2d(n, affine=False, track_running_stats=False)]
)
def test_a_norm_without_tensors_says_the_channels_that_are_left(norm: Callable[[int], nn.Module]) -> None:
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            norm(6),
            nn.ReLU(),
            nn.Conv2d(6, 3, 1),
            nn.AvgPool2d(4),
            nn.Flatten(),
        )
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = check_exact(model, keeping(model, _3=(slice(None), [0, 5])), *rows(3, 4, 4))
    assert found.model[1].num_features == found.model[0].out_channels == 4
    assert not found.model[1]._forward_pre_hooks
    assert "1.num_features" not in found.kept


def test_a_norm_without_tensors_that_is_used_twice_has_one_size() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Linear(8, 3)
            self.norm = nn.InstanceNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.cat([self.norm(self.a(x)), self.norm(input=self.b(x))], 1)
            return self.head(x.relu().mean((2, 3)))  # type: ignore[no-any-return]

    model = seeded(Twice)
    assert (
        check_exact(model, keeping(model, head=(slice(None), 2)), *rows(3, 4, 4)).model.norm.num_features == 4
    )
    both = check_exact(model, keeping(model, head=(slice(None), [2, 6])), *rows(3, 4, 4))
    assert both.model.norm.num_features == both.model.a.out_channels == both.model.b.out_channels == 3


# Parameters of other kinds


def test_complex_weights_stay_complex() -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(5, 3)
            self.mix = nn.Linear(6, 5, dtype=torch.cfloat)
            self.filter = nn.Parameter(torch.randn(5, dtype=torch.cfloat))

        def forward(self, x: Tensor) -> Tensor:
            x = self.mix(self.a(x).relu().to(torch.cfloat)) * self.filter
            return self.b(x.imag)  # type: ignore[no-any-return]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Mixing()
    with torch.no_grad():
        model.a.bias[2] = -1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = in_its_type(model, keeping(model, a=2), X)
    assert found.model.mix.weight.dtype == torch.cfloat
    assert found.model.a.out_features == 5
    assert torch.equal(found.model.mix.weight, model.mix.weight[:, [0, 1, 3, 4, 5]])


def test_an_input_may_be_complex() -> None:
    model = seeded(lambda: Between(lambda x: x.abs(), torch.relu)).float()
    example = torch.complex(X, X.flip(0))
    assert in_its_type(model, keeping(model, b=(slice(None), 1)), example).model.a.out_features == 5


def test_parameters_in_one_memory_are_refused() -> None:
    model = seeded(
        lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    )
    model[2].weight.data = model[0].weight.data
    with pytest.raises(DisbudError, match=r"0.weight and 2.weight are two parameters in the same memory"):
        compact(model, keeping(model), example=X)
    model[2].weight = model[0].weight
    found = compact(model, keeping(model), example=X)
    assert found.model[2].weight is found.model[0].weight
    apart = seeded(lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)))
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(apart.parameters()), apart.parameters())
    check_exact(apart, keeping(apart, _0=1), *rows(4))  # one memory, and none of it twice


class Remembering(nn.Linear):
    """Has something in its state that is no tensor."""

    said = "nothing"

    def get_extra_state(self) -> dict[str, str]:
        return {"said": self.said}

    def set_extra_state(self, state: dict[str, str]) -> None:
        self.said = state["said"]


def test_what_a_module_adds_to_its_state_goes_over() -> None:
    model = seeded(lambda: nn.Sequential(Remembering(4, 6), nn.ReLU(), nn.Linear(6, 3)))
    found = compact(model, keeping(model, _2=(slice(None), 1)), example=X)
    found.model[0].said = "much"
    model.load_state_dict(found.expand())
    assert model[0].said == "much"
    tensors = {name: value for name, value in found.model.state_dict().items() if isinstance(value, Tensor)}
    assert found.expand(tensors).keys() == tensors.keys()
