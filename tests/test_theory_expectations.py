"""Moments that mean-field maps are made of, and the maps' slopes: closed forms beside scipy's own quadrature."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy import integrate, special

from adaptive_quadrature import quad
from disbud import theory
from disbud.theory import moments

NAMES = [
    "tanh",
    "relu",
    "leaky-relu:slope=0.2",
    "elu",
    "gelu",
    "silu",
    "hard-tanh",
    "erf",
    "sigmoid",
    "linear",
]
GAPS = [0.0, 1e-10, 1e-4, 0.1, 0.5, 1.0, 1.5, 1.9999, 2 - 1e-10, 2.0]


def plain(name: str) -> theory.Activation:
    """The named activation without its closed forms, so that quadrature has to do it."""
    return replace(theory.activation(name), closed=None)


def named(name: str) -> theory.Activation:
    """By name, or "clipped": kinks at no round numbers, and not mirror images of each other."""
    if name != "clipped":
        return theory.activation(name)
    return theory.activation(
        lambda x: np.clip(x, -0.3, 0.7),
        derivative=lambda x: 1.0 * ((x > -0.3) & (x < 0.7)),
        kinks=[-0.3, 0.7],
    )


@pytest.mark.parametrize("name", [*NAMES, "clipped"])
@pytest.mark.parametrize("q", [1e-3, 1.0, 300.0])
def test_moments_of_one_variable_agree_with_adaptive_quadrature(name: str, q: float) -> None:
    phi, at = named(name), np.array([q])
    square = quad(lambda x: phi.function(x) ** 2, q, phi.kinks)
    slope = quad(lambda x: phi.derivative(x) ** 2, q, phi.kinks)
    rise = quad(lambda x: x * phi.function(x) * phi.derivative(x) / q, q, phi.kinks)
    for one in (phi, replace(phi, closed=None)):
        assert moments.second_moment(one, at)[0] == pytest.approx(square, rel=1e-11)
        assert moments.slope_moment(one, at)[0] == pytest.approx(slope, rel=1e-11)
        assert moments.growth(one, at)[0] == pytest.approx(rise, rel=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_are_those_of_the_functions(name: str) -> None:
    phi = theory.activation(name)
    x = np.array([-7.0, -2.1, -0.9, -0.1, 0.1, 0.7, 1.4, 30.0])
    measured = (phi.function(x + 1e-6) - phi.function(x - 1e-6)) / 2e-6
    assert phi.derivative(x) == pytest.approx(measured, abs=1e-7)


def test_hard_tanh_has_its_own_closed_form() -> None:
    # E[clip(sZ)^2] = q (1 - 2 Q(1/s) - 2 phi(1/s)/s) + 2 Q(1/s), by parts; the slope is 1 inside.
    for q in (0.2, 1.0, 9.0):
        s = math.sqrt(q)
        tail, density = special.ndtr(-1 / s), math.exp(-1 / (2 * q)) / math.sqrt(2 * math.pi)
        expected = q * (1 - 2 * tail - 2 * density / s) + 2 * tail
        found = theory.variance_map("hard-tanh", q, sigma_w=1.0)
        assert found == pytest.approx(expected, rel=1e-12)
        assert theory.chi("hard-tanh", q, sigma_w=1.0) == pytest.approx(1 - 2 * tail, rel=1e-12)


@pytest.mark.parametrize("name", ["relu", "leaky-relu:slope=0.2", "erf", "linear"])
@pytest.mark.parametrize("q", [0.01, 1.0, 50.0])
def test_moments_of_two_variables_agree_with_closed_forms_up_to_full_correlation(name: str, q: float) -> None:
    # The closed forms end in arcsines, the quadrature knows only phi.
    phi, bare = theory.activation(name), plain(name)
    for gap in GAPS:
        product, slopes = moments.product_moment(phi, q, gap), moments.slope_product(phi, q, gap)
        assert moments.product_moment(bare, q, gap) == pytest.approx(product, rel=1e-12, abs=1e-14 * q)
        assert moments.slope_product(bare, q, gap) == pytest.approx(slopes, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("gap", GAPS)
def test_moments_of_powers_are_exact(gap: float) -> None:
    # Isserlis: E[u1^3 u2^3] = q^3 (9 c + 6 c^3), E[9 u1^2 u2^2] = 9 q^2 (1 + 2 c^2).
    cube = theory.activation(lambda x: x**3, derivative=lambda x: 3 * x**2)
    c, q = 1 - gap, 0.7
    expected = q**3 * (9 * c + 6 * c**3)
    assert moments.product_moment(cube, q, gap) == pytest.approx(expected, rel=1e-12, abs=1e-14)
    assert moments.slope_product(cube, q, gap) == pytest.approx(9 * q**2 * (1 + 2 * c**2), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "c"), [("elu", 0.999), ("elu", 0.5), ("elu", -0.9), ("hard-tanh", 0.6), ("clipped", -0.999999)]
)
def test_kinked_products_agree_with_nested_adaptive_quadrature(name: str, c: float) -> None:
    # Conditional on the noise that u2 has of its own, and u1 in pieces between its own kinks and u2's.
    phi, q = named(name), 1.3
    s, r = math.sqrt(q), math.sqrt(1 - c * c)
    nodes, weights = np.polynomial.legendre.leggauss(60)

    def inner(z: float) -> float:
        kinks = [place for kink in phi.kinks for place in (kink / s, (kink / s - r * z) / c)]
        total = 0.0
        for low, high in pairwise(sorted([-9.0, 9.0, *(x for x in kinks if abs(x) < 9)])):
            x = low + (high - low) * (nodes + 1) / 2
            values = phi.function(s * x) * phi.function(s * (c * x + r * z)) * np.exp(-(x**2) / 2)
            total += (high - low) / 2 * float(weights @ values)
        return total * math.exp(-z * z / 2) / (2 * math.pi)

    expected = sum(integrate.quad(inner, a, a + 1, epsabs=1e-11, limit=400)[0] for a in range(-9, 9))
    assert moments.product_moment(phi, q, 1 - c) == pytest.approx(expected, abs=2e-10)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_left_to_full_correlation_keeps_its_digits(name: str) -> None:
    # E[(phi(u1) - phi(u2))^2] / 2 -> q gap E[phi'^2]; at a gap of 1e-10 the product form would keep six digits.
    phi, q, gap = plain(name), 0.8, 1e-10
    expected = q * gap * float(moments.slope_moment(phi, np.array([q]))[0])
    assert moments.half_difference(phi, q, gap) == pytest.approx(expected, rel=1e-4)


def test_the_correlation_map_of_relu_is_the_arc_cosine_one() -> None:
    for c in (-1.0, -0.3, 0.0, 0.6, 1.0):
        expected = (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi
        assert theory.correlation_map("relu", c, q=2.0, sigma_w=1.3) == pytest.approx(expected, abs=1e-12)


def test_the_slope_of_the_correlation_map_is_its_slope() -> None:
    for name in ("tanh", "elu", "gelu"):
        for c in (-0.4, 0.2, 0.9):
            args = {"q": 0.9, "sigma_w": 1.4, "sigma_b": 0.3}
            up, down = (theory.correlation_map(name, c + step, **args) for step in (1e-5, -1e-5))
            assert theory.correlation_slope(name, c, **args) == pytest.approx((up - down) / 2e-5, rel=1e-7)
