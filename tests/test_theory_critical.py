"""Critical sparsity: published values, and brute force over all the scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special

from disbud import DisbudError, theory
from disbud.theory import scores


def brute(
    scales: list[float], sizes: list[int], law: str, draws: int, seed: int = 0
) -> tuple[float, list[float]]:
    """The mean critical sparsity from every single score, and how often each layer goes first."""
    stream, found, first = np.random.default_rng(seed), [], []
    for _ in range(draws):
        layers = []
        for scale, size in zip(scales, sizes, strict=True):
            score = np.abs(stream.standard_normal(size)) * scale
            layers.append(score * np.abs(stream.standard_normal(size)) if law == "sensitivity" else score)
        largest = [layer.max() for layer in layers]
        threshold = min(largest)
        found.append(sum((layer <= threshold).sum() for layer in layers) / sum(sizes))
        first.append(int(np.argmin(largest)))
    return float(np.mean(found)), (np.bincount(first, minlength=len(sizes)) / draws).tolist()


@pytest.mark.parametrize(
    ("log_chi", "published"),
    [(0.05, 0.91), (0.1, 0.64), (0.2, 0.34), (0.4, 0.17), (0.8, 0.089), (1.6, 0.047)],
)
def test_published_critical_sparsities(log_chi: float, published: float) -> None:
    # 100 layers of width 100, that is of 100 x 100 weights.
    for sign in (1, -1):
        found = theory.critical_sparsity([100 * 100] * 100, log_chi=sign * log_chi)
        assert found.mean == pytest.approx(published, abs=0.01)
        assert found.expected == pytest.approx(found.mean, abs=4 * found.deviation / math.sqrt(200))
        assert found.mean < found.bound < 2.5 * found.mean


def test_sensitivities_agree_with_brute_force_for_unequal_layers() -> None:
    sizes, moments = [300, 50, 1000, 80], [1.0, 0.2, 0.02, 3.0]
    scales = [math.sqrt(m) for m in moments]
    mean, first = brute(scales, sizes, "sensitivity", 2000)
    found = theory.critical_sparsity(sizes, sensitivities=moments, draws=2000)
    error = found.deviation / math.sqrt(2000)
    assert mean == pytest.approx(found.expected, abs=4 * error)
    assert found.mean == pytest.approx(found.expected, abs=4 * error)
    assert found.first == pytest.approx(first, abs=0.06)
    assert found.expected < found.bound


def test_the_spread_is_that_of_brute_force() -> None:
    scales = [math.exp(-0.3 * layer) for layer in range(6)]
    stream = np.random.default_rng(1)
    values = []
    for _ in range(2000):
        z = (
            np.abs(stream.standard_normal((6, 40)) * stream.standard_normal((6, 40)))
            * np.array(scales)[:, None]
        )
        values.append((z <= z.max(1).min()).mean())
    found = theory.critical_sparsity([40] * 6, log_chi=0.6, draws=2000)
    assert found.deviation == pytest.approx(np.std(values), rel=0.08)
    assert found.mean == pytest.approx(np.mean(values), abs=4 * found.deviation * math.sqrt(2 / 2000))


def test_magnitude_pruning_empties_the_layer_of_the_widest_input() -> None:
    sizes, fan_in = [200 * 40, 40 * 40, 40 * 10], [200, 40, 40]
    mean, first = brute([n**-0.5 for n in fan_in], sizes, "magnitude", 400)
    found = theory.critical_sparsity(sizes, "magnitude", fan_in=fan_in, draws=400)
    assert found.mean == pytest.approx(mean, abs=0.002)
    assert found.expected == pytest.approx(found.mean, abs=0.001)
    assert found.first == (1, 0, 0)
    assert first == [1, 0, 0]
    assert found.expected < found.bound
    # Layers alike empty last of all.
    assert theory.critical_sparsity(sizes, "magnitude").expected > found.expected


def test_bounds_hold_and_the_closed_form_of_the_docstring_bounds_them() -> None:
    for size in (1, 10, 10**6):
        for log_chi in (0.05, 0.3, 1.0, 3.0):
            found, k = theory.critical_sparsity([size] * 40, log_chi=log_chi), log_chi / 2
            closed = (1 + math.log(1 + math.log(size)) / k + 1 / (1 - math.exp(-k / 2))) / 40
            assert found.expected <= found.bound <= closed
    for fan_in in ([9, 9, 9], [1000, 10, 10], [10, 500, 90]):
        found = theory.critical_sparsity([5000, 300, 20], "magnitude", fan_in=fan_in)
        assert found.expected <= found.bound <= 1


def test_the_inequalities_behind_the_bounds() -> None:
    log_x = np.linspace(-60, math.log(600), 5000)
    x = np.exp(log_x)
    assert (np.exp(scores.log_distribution("sensitivity", log_x)) <= np.sqrt(x) * (1 + 1e-9)).all()
    assert (scores.log_survival("sensitivity", log_x) <= -x + 1e-9).all()
    assert (
        np.exp(scores.log_distribution("magnitude", log_x)) <= x * math.sqrt(2 / math.pi) * (1 + 1e-5)
    ).all()


def test_the_law_of_a_product_of_normals() -> None:
    x = np.array([1e-9, 1e-5, 1e-3, 0.1, 1.0, 3.0, 10.0])
    # scipy has the integral of K0, good to about 1e-9.
    expected = 2 / math.pi * special.iti0k0(x)[1]
    assert np.exp(scores.log_distribution("sensitivity", np.log(x))) == pytest.approx(expected, rel=2e-6)
    levels = scores.log_survival("sensitivity", np.log(x[2:]))
    assert scores.log_quantile("sensitivity", levels) == pytest.approx(np.log(x[2:]), abs=1e-6)


def test_the_same_seed_gives_the_same_numbers_and_touches_no_global_stream() -> None:
    before = np.random.get_state()[1].tolist()
    one, again, other = (theory.critical_sparsity([50] * 5, log_chi=1.0, seed=seed) for seed in (3, 3, 4))
    assert one == again
    assert one.mean != other.mean
    assert one.expected == other.expected
    assert np.random.get_state()[1].tolist() == before


def test_gradients_that_grow_backwards_leave_the_last_layer_empty() -> None:
    assert theory.critical_sparsity([500] * 10, log_chi=1.0).first[-1] > 0.8
    assert theory.critical_sparsity([500] * 10, log_chi=-1.0).first[0] > 0.8


def test_a_single_layer_empties_at_the_end() -> None:
    found = theory.critical_sparsity([10], log_chi=1.0)
    assert (found.mean, found.first, found.bound) == (1, (1.0,), 1)
    assert found.expected == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("sizes", "settings", "message"),
    [
        ([], {"log_chi": 1.0}, "sizes is a number for each layer"),
        ([3, 0], {"log_chi": 1.0}, "whole and above 0"),
        ([3, 4], {}, "give either log_chi"),
        ([3, 4], {"log_chi": 1.0, "sensitivities": [1.0, 2.0]}, "give either log_chi"),
        ([3, 4], {"log_chi": math.nan}, "log_chi is a finite number"),
        ([3, 4], {"sensitivities": [1.0]}, "sensitivities are 2 numbers above 0"),
        ([3, 4], {"sensitivities": [1.0, 0.0]}, "sensitivities are 2 numbers above 0"),
        ([3, 4], {"log_chi": 1.0, "fan_in": [2, 2]}, "fan_in is for magnitude"),
        ([3, 4], {"method": "magnitude", "log_chi": 1.0}, "magnitudes do not depend on gradients"),
        ([3, 4], {"method": "magnitude", "fan_in": [2]}, "fan_in is 2 numbers"),
        ([3, 4], {"method": "magnitud"}, "did you mean 'magnitude'"),
        ([3, 4], {"log_chi": 1.0, "draws": 1}, "draws is a whole number of at least 2"),
    ],
)
def test_errors_say_what_would_work(sizes: list[int], settings: dict[str, object], message: str) -> None:
    with pytest.raises(DisbudError, match=message):
        theory.critical_sparsity(sizes, **settings)
