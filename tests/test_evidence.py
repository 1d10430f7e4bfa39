"""What a data-driven score looks at: how batches are read, chosen, regrouped, counted and hashed."""

from __future__ import annotations

import itertools
import warnings
from collections import UserDict
from collections.abc import Iterable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import disbud
from disbud.batches import cross_entropy, has_class_labels, size_of
from disbud.errors import DisbudError
from disbud.isolation import leaves, on_device
from disbud.methods import evidence as module
from disbud.methods.evidence import Evidence
from networks import NETWORKS

Batch = tuple[Tensor, Tensor]


def labelled(labels: Iterable[int], start: int = 0) -> Batch:
    """Examples whose only feature is their number."""
    y = torch.tensor(list(labels))
    return torch.arange(start, start + len(y), dtype=torch.float32).view(-1, 1), y


def cut(labels: list[int], size: int) -> list[Batch]:
    return [labelled(labels[i : i + size], i) for i in range(0, len(labels), size)]


def read(
    source: Iterable[object], per_class: int | None = 10, batch_size: int = 256, rounds: int = 1
) -> Evidence:
    found = Evidence(source, per_class, batch_size, rounds)
    found.last = list(found.read())  # type: ignore[attr-defined]
    return found


def numbers(found: Evidence) -> list[int]:
    return [int(v) for x, _ in found.last for v in x.view(-1)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [1, 3, 7, 50, 1000])
@pytest.mark.parametrize("per_class", [1, 4, 10])
def test_the_first_examples_of_each_class_are_used_however_they_are_cut(size: int, per_class: int) -> None:
    labels = torch.randint(0, 5, (400,), generator=torch.Generator().manual_seed(0)).tolist()
    found = read(cut(labels, size), per_class)
    expected = sorted(
        i for c in range(5) for i in [k for k, label in enumerate(labels) if label == c][:per_class]
    )
    assert numbers(found) == expected
    assert [labels[i] for i in numbers(found)] == [int(v) for _, y in found.last for v in y]  # type: ignore[attr-defined]
    assert found.examples == 5 * per_class


def test_they_are_regrouped_into_batches() -> None:
    labels = [i % 10 for i in range(500)]
    found = read(cut(labels, 7), 10, batch_size=32)
    assert [len(y) for _, y in found.last] == [32, 32, 32, 4]  # type: ignore[attr-defined]
    assert (found.batches, found.examples) == (4, 100)


def test_none_takes_every_batch_as_it_comes() -> None:
    batches = cut([i % 3 for i in range(50)], 7)
    found = read(batches, None)
    assert all(a is b for a, b in zip(found.last, batches, strict=True))  # type: ignore[attr-defined]
    assert (found.batches, found.examples) == (8, 50)


def test_the_choice_of_examples_is_what_is_scored() -> None:
    network = NETWORKS["linear"]
    model = network.build().double()
    x, y = network.batch(90)
    first = torch.cat([(y == c).nonzero().view(-1)[:10] for c in range(3)]).sort().values
    chosen = disbud.scores(model, "snip", batches=[(x, y)])
    by_hand = disbud.scores(model, "snip", batches=[(x[first], y[first])], examples_per_class=None)
    everything = disbud.scores(model, "snip", batches=[(x, y)], examples_per_class=None)
    regrouped = disbud.scores(model, "snip", batches=[(x, y)], batch_size=7)
    for name in chosen:
        assert torch.equal(chosen[name], by_hand[name])
        assert not torch.equal(chosen[name], everything[name])
        torch.testing.assert_close(regrouped[name], chosen[name], rtol=1e-9, atol=0)


def test_data_sorted_by_class_is_read_to_its_last_class() -> None:
    blocks = [label for label in range(4) for _ in range(6000)]
    for source in (cut(blocks, 100), iter(cut(blocks, 100)), [labelled(blocks)]):
        found = read(source)
        assert sorted({int(v) for _, y in found.last for v in y}) == [0, 1, 2, 3]  # type: ignore[attr-defined]
        assert found.examples == 40


class Counted:
    """Batches without an end, that know how many were taken."""

    def __init__(self, labels: Iterable[int]) -> None:
        self.labels, self.taken = iter(labels), 0

    def __iter__(self) -> Iterator[Batch]:
        while True:
            y = list(itertools.islice(self.labels, 20))
            self.taken += len(y)
            yield labelled(y)


def test_reading_stops_once_nothing_new_comes() -> None:
    endless = Counted(itertools.cycle(range(10)))
    assert read(endless).examples == 100
    assert endless.taken < 100 + 20 + 100 * 10 + 20
    seldom = Counted(itertools.cycle([0, 1, 2, 3] * 50 + [4]))  # one in two hundred
    assert read(seldom).examples == 50


def test_a_stream_of_one_class_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ENDLESS", 2000)
    endless = Counted(itertools.repeat(3))
    assert read(endless).examples == 10
    assert endless.taken < 2100

    class Stream(IterableDataset[Batch]):
        def __iter__(self) -> Iterator[Batch]:
            return iter(Counted(itertools.repeat(3)))

    assert read(DataLoader(Stream(), batch_size=None)).examples == 10
    sized = cut([3] * 4000 + [1] * 10, 100)  # what has an end is read to it
    assert read(sized).examples == 20


def test_an_endless_generator_feeds_several_rounds() -> None:
    network = NETWORKS["linear"]
    x, y = network.batch(30, dtype=torch.float32)
    ticket = disbud.prune(
        network.build(),
        "iterative-snip",
        sparsity=0.8,
        rounds=4,
        batches=itertools.repeat((x, y)),
        examples_per_class=5,
    )
    assert ticket.origin.evidence is not None
    assert ticket.origin.evidence["examples"] == 4 * 15


@pytest.mark.parametrize("per_class", [10, None])
def test_a_one_shot_iterator_shows_every_round_the_same(per_class: int | None) -> None:
    network = NETWORKS["linear"]
    batches = [network.batch(7, seed, dtype=torch.float32) for seed in range(5)]

    def prune(source: Iterable[object]) -> disbud.Ticket:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 35 examples
            return disbud.prune(
                network.build(),
                "iterative-snip",
                sparsity=0.8,
                rounds=4,
                batches=source,
                examples_per_class=per_class,
            )

    whole, once = prune(batches), prune(batch for batch in batches)
    assert whole == once
    assert whole.origin.evidence == once.origin.evidence


def test_a_method_that_stops_reading_sees_the_same_in_every_round() -> None:
    network = NETWORKS["linear"]
    batches = [network.batch(7, seed, dtype=torch.float32) for seed in range(6)]

    def prune(source: Iterable[object]) -> disbud.Ticket:
        return disbud.prune(
            network.build(), "prospr", sparsity=0.5, rounds=2, batches=source, examples_per_class=None
        )

    whole = prune(batches)  # four of them: three steps, and the loss after those
    for count in (4, 6):
        once = prune(iter(batches[:count]))
        assert once == whole
        assert once.origin.evidence == whole.origin.evidence


def test_an_iterator_is_not_kept_longer_than_it_serves() -> None:
    assert read(iter(cut([0, 1], 1)), None)._kept is None
    assert len(read(iter(cut([0, 1], 1)), None, rounds=2)._kept or []) == 2
    assert read(cut([0, 1], 1), None, rounds=2)._kept is None


def test_a_loader_is_read_anew_each_round() -> None:
    found = Evidence(Rounds(), None, 256, rounds=3)
    assert [int(batch[0]) for _ in range(3) for batch in found.read()] == [1, 2, 3]  # type: ignore[index]


class Rounds:
    def __init__(self) -> None:
        self.round = 0

    def __iter__(self) -> Iterator[list[Tensor]]:
        self.round += 1
        return iter([[torch.tensor([float(self.round)])]])


def test_batches_without_an_example_are_passed_over() -> None:
    empty = (torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64))
    for per_class in (2, None):
        found = read([empty, labelled([0, 0, 1, 1]), empty], per_class)
        assert (found.batches, found.examples) == (1, 4)
        nothing: tuple[Iterable[object], ...] = ([], [empty], [empty, empty], iter([]))
        for none in nothing:
            with pytest.raises(
                DisbudError, match=r"batches is empty: a data-driven score needs at least one batch"
            ):
                read(none, per_class)


def test_classes_short_of_examples_are_said() -> None:
    with pytest.warns(UserWarning, match=r"2 of 3 classes have fewer than 10 examples \(class 1 has 3\)"):
        found = read([labelled([0] * 12 + [1] * 3 + [2])])
    assert found.examples == 14


def test_what_counts_as_class_labels() -> None:
    x, y = torch.zeros(4, 2), torch.arange(4)
    assert has_class_labels((x, y))
    assert has_class_labels([x, y.to(torch.uint8)])
    for other in (
        (x, y.float()),
        (x, y > 1),
        (x, y.view(4, 1)),
        (x, y[:3]),
        (x, y, y),
        x,
        {"x": x, "y": y},
        (x, 3),
        None,
    ):
        assert not has_class_labels(other)


def test_mixed_batches_are_refused() -> None:
    with pytest.raises(DisbudError, match=r"some batches are .* pairs with class labels and others are not"):
        read([labelled([0, 1]), {"x": torch.zeros(3)}])


def test_inputs_of_several_shapes_are_taken_as_they_come_or_not_at_all() -> None:
    small, large = (torch.zeros(2, 3), torch.tensor([0, 1])), (torch.zeros(2, 4), torch.tensor([0, 1]))
    with pytest.raises(DisbudError, match=r"inputs of several shapes .* examples_per_class=None"):
        read([small, large], 2)
    assert read([small, large], None).batches == 2


def test_mappings_with_a_loss() -> None:
    network = NETWORKS["transformer"]
    model = network.build().double()
    tokens, y = network.batch(6)

    def loss(m: nn.Module, batch: object) -> Tensor:
        return functional.cross_entropy(m(batch["tokens"]), batch["labels"])  # type: ignore[index]

    expected = disbud.scores(model, "snip", batches=[(tokens, y)], examples_per_class=None)
    fields = {"tokens": tokens, "labels": y, "id": "a"}
    for batch in (fields, UserDict(fields)):
        found = disbud.scores(model, "snip", batches=[batch], loss=loss)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert size_of(batch) == 6
    with pytest.raises(DisbudError, match=r"batches of type dict need a loss: loss=lambda model, batch"):
        disbud.scores(model, "snip", batches=[fields])


def test_language_models_predict_the_next_token() -> None:
    torch.manual_seed(0)
    head = nn.Linear(5, 11)
    model = nn.Sequential(nn.Embedding(11, 5), head).double()
    tokens = torch.randint(0, 11, (4, 7), generator=torch.Generator().manual_seed(1))

    def loss(m: nn.Module, batch: object) -> Tensor:
        assert isinstance(batch, Tensor)
        return functional.cross_entropy(m(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    found = disbud.scores(model, "snip", batches=[tokens], loss=loss)
    (g,) = torch.autograd.grad(loss(model, tokens), [head.weight])
    torch.testing.assert_close(found["1.weight"], (g * head.weight.detach()).abs(), rtol=1e-9, atol=0)
    # Pairs of token sequences are no class labels; without a loss the shapes do not fit, and that is said.
    with pytest.raises(
        DisbudError, match=r"labels of shape \(4, 6\).* do not fit an output of shape \(4, 6, 11\)"
    ):
        disbud.scores(model, "snip", batches=[(tokens[:, :-1], tokens[:, 1:])])


def test_cross_entropy_says_what_does_not_fit() -> None:
    model = nn.Linear(2, 3)
    x = torch.zeros(4, 2)
    for y, said in (
        (
            torch.tensor([0, 1, 2, 3]),
            r"labels of shape \(4,\) from 0 to 3 do not fit an output of shape \(4, 3\)",
        ),
        (torch.tensor([0, -1, 2, 1]), "from -1 to 2 do not fit"),
        (torch.zeros(4), "targets that are not class labels need a loss"),
        (torch.zeros(4, 1, dtype=torch.int64), r"labels of shape \(4, 1\)"),
        ([0, 1, 2, 0], "targets that are not class labels need a loss"),
    ):
        with pytest.raises(DisbudError, match=said):
            cross_entropy(model, (x, y))
    with pytest.raises(DisbudError, match=r"batches of type Tensor need a loss"):
        cross_entropy(model, x)
    with pytest.raises(DisbudError, match=r"the model returns a tuple; give loss"):
        cross_entropy(lambda x: (x, x), (x, torch.zeros(4, dtype=torch.int64)))  # type: ignore[arg-type]
    # Labels of each pixel fit an output of classes by pixel.
    pixels = torch.randint(0, 3, (2, 5, 5), generator=torch.Generator().manual_seed(0))
    assert cross_entropy(nn.Conv2d(1, 3, 1), (torch.zeros(2, 1, 5, 5), pixels)).ndim == 0


def digest(source: Iterable[object], per_class: int | None = None) -> str:
    return str(read(source, per_class).summary()["sha256"])


def test_the_hash_is_of_the_content() -> None:
    x, y = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), torch.arange(6)
    plain = digest([(x, y)])
    assert digest([(x.clone(), y)]) == digest([[x.t().contiguous().t(), y]]) == plain
    changed = x.clone()
    changed[5, 1] += 1e-6
    different = [
        [(changed, y)],
        [(x, y.flip(0))],
        [(x.double(), y)],
        [(x[:3], y[:3]), (x[3:], y[3:])],
        [(x, y), (x, y)],
    ]
    assert len({plain, *map(digest, different)}) == 6
    assert digest([{"x": x, "id": "a"}]) != digest([{"x": x, "id": "b"}])
    assert digest([UserDict(x=x)]) != digest([UserDict(x=changed)])
    for odd in (torch.zeros(0, 3), torch.tensor(3.0), torch.ones(2, dtype=torch.bool), torch.ones(2) * 1j,
                torch.ones(2, dtype=torch.bfloat16), (torch.ones(2) * 1j).conj()):  # fmt: skip
        digest([{"x": x, "odd": odd}])


def test_the_origin_counts_what_was_read() -> None:
    network = NETWORKS["linear"]
    x, y = network.batch(60, dtype=torch.float32)
    one = disbud.prune(network.build(), "snip", sparsity=0.5, batches=[(x, y)]).origin.evidence
    assert one == {"batches": 1, "examples": 30, "sha256": digest([(x, y)], 10)}
    many = disbud.prune(
        network.build(), "iterative-snip", sparsity=0.5, batches=[(x, y)], rounds=3
    ).origin.evidence
    assert many is not None
    assert (many["batches"], many["examples"]) == (3, 90)


def test_odd_settings() -> None:
    for odd in (0, -1, 2.5, True, "10"):
        with pytest.raises(
            DisbudError, match=r"examples_per_class is a whole number .*; None takes every batch"
        ):
            Evidence([], odd, 256)  # type: ignore[arg-type]
        with pytest.raises(DisbudError, match=r"batch_size is a whole number"):
            Evidence([], None, odd)  # type: ignore[arg-type]
    for source in (3, "abc", torch.zeros(3), {"x": torch.zeros(3)}, TensorDataset(torch.zeros(3))):
        with pytest.raises(DisbudError, match=r"batches is an iterable of batches"):
            Evidence(source, 10, 256)  # type: ignore[arg-type]


class Moved(UserDict[str, Tensor]):
    """A mapping that moves itself, as tokenizers return it."""

    def to(self, device: torch.device) -> Moved:
        return Moved({name: value.to(device) for name, value in self.items()})


def test_batches_move_to_the_model() -> None:
    meta = torch.device("meta")
    x = torch.zeros(2)
    for nested in ((x, [x]), {"a": {"b": x}}, Moved(a=x), [Moved(a=x), "text", 3]):
        moved = on_device(nested, meta)
        assert type(moved) is type(nested)
        assert all(leaf.is_meta for leaf in leaves(moved) if isinstance(leaf, Tensor))
        left = on_device(nested, None)
        assert type(left) is type(nested)
        assert all(one is other for one, other in zip(leaves(left), leaves(nested), strict=True))
