"""Mean-field maps, fixed points, phases and edges: published values, closed forms, and scipy's own quadrature."""

from __future__ import annotations

import inspect
import math
import pickle
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy import integrate, special

from disbud import DisbudError, theory
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


def quad(function, q: float, kinks: tuple[float, ...] = ()) -> float:
    """E[f(sqrt(q) Z)] by scipy's adaptive rule between the kinks."""
    cuts = sorted({-12.0, 0.0, 12.0, *(k / math.sqrt(q) for k in kinks if abs(k) < 12 * math.sqrt(q))})

    def weighted(z: float) -> float:
        value = float(function(np.array([math.sqrt(q) * z]))[0])
        return value * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    return sum(
        integrate.quad(weighted, low, high, epsabs=1e-14, epsrel=1e-13, limit=400)[0]
        for low, high in pairwise(cuts)
    )


def plain(name: str) -> theory.Activation:
    """The named activation without its closed forms, so that quadrature has to do it."""
    return replace(theory.activation(name), closed=None)


# Expectations


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


# The edge of chaos


@pytest.mark.parametrize(
    ("name", "sigma_b", "sigma_w", "q"),
    [
        ("tanh", 0.05, 1.1225, 0.154),
        ("tanh", 0.1, 1.1934, 0.273),
        ("tanh", 0.2, 1.3041, 0.512),
        ("tanh", 0.3, 1.3956, 0.764),
        ("tanh", 0.5, 1.5497, 1.318),
        ("elu", 0.2, 1.2293, 1.107),
    ],
)
def test_published_edges_of_chaos(name: str, sigma_b: float, sigma_w: float, q: float) -> None:
    edge = theory.edge_of_chaos(name, sigma_b)
    assert edge.sigma_w == pytest.approx(sigma_w, abs=6e-5)
    assert edge.q == pytest.approx(q, abs=6e-4)
    assert edge.stable


@pytest.mark.parametrize("name", ["tanh", "elu", "gelu", "silu", "hard-tanh", "erf", "sigmoid"])
def test_an_edge_solves_both_equations_to_ten_digits(name: str) -> None:
    phi, sigma_b = theory.activation(name), 0.4
    edge = theory.edge_of_chaos(name, sigma_b)
    slope = quad(lambda x: phi.derivative(x) ** 2, edge.q, phi.kinks)
    square = quad(lambda x: phi.function(x) ** 2, edge.q, phi.kinks)
    assert edge.sigma_w**2 * slope == pytest.approx(1, abs=1e-10)
    assert sigma_b**2 + edge.sigma_w**2 * square == pytest.approx(edge.q, rel=1e-10)
    assert edge.chi == pytest.approx(1, abs=1e-12)


def test_gauss_hermite_alone_would_miss_the_edge_of_elu() -> None:
    z, w = np.polynomial.hermite_e.hermegauss(64)
    phi, edge = theory.activation("elu"), theory.edge_of_chaos("elu", 0.2)
    by_hermite = edge.sigma_w**2 * float(w @ phi.derivative(math.sqrt(edge.q) * z) ** 2) / w.sum()
    assert abs(by_hermite - 1) > 1e-3


def test_edges_of_relu_and_linear_hold_every_variance_and_bear_no_biases() -> None:
    for name, sigma_w in (
        ("relu", math.sqrt(2)),
        ("leaky-relu:slope=0.2", math.sqrt(2 / 1.04)),
        ("linear", 1),
    ):
        edge = theory.edge_of_chaos(name)
        assert (edge.sigma_w, edge.every_q, edge.stable) == (pytest.approx(sigma_w, abs=1e-12), True, True)
        with pytest.raises(DisbudError, match=r"no edge of chaos at sigma_b = 0\.1.*take sigma_b = 0"):
            theory.edge_of_chaos(name, 0.1)


def test_without_biases_the_edge_is_the_slope_at_zero() -> None:
    for name, sigma_w in (("tanh", 1.0), ("elu", 1.0), ("erf", math.sqrt(math.pi) / 2), ("hard-tanh", 1.0)):
        edge = theory.edge_of_chaos(name)
        assert (edge.sigma_w, edge.q, edge.stable) == (pytest.approx(sigma_w, abs=1e-12), 0, True)
    assert not theory.edge_of_chaos("gelu").stable


def test_gelu_and_silu_have_unstable_edges_with_small_biases() -> None:
    for name in ("gelu", "silu"):
        edge = theory.edge_of_chaos(name, 0.2)
        assert not edge.stable
        for start, end in ((edge.q * 1.01, math.inf), (edge.q * 0.99, None)):
            points = theory.fixed_points(name, sigma_w=edge.sigma_w, sigma_b=0.2)
            reached = points.reached(start)
            assert reached == end if end else reached < edge.q / 1.5
        assert theory.edge_of_chaos(name, 1.0).stable


def test_an_edge_is_found_where_zero_is_no_fixed_point() -> None:
    edge = theory.edge_of_chaos(theory.activation(lambda x: x.tanh() + 0.4, name="lifted"))
    assert edge.q > 0.1
    assert edge.chi == pytest.approx(1, abs=1e-12)


def test_where_there_is_no_edge_the_error_says_what_there_is() -> None:
    with pytest.raises(DisbudError, match=r"tanh has no edge of chaos at sigma_b = 1e\+07; it has one up to"):
        theory.edge_of_chaos("tanh", 1e7)
    for sigma_b in (0.0, 0.5):
        with pytest.raises(DisbudError, match="whatever the biases"):
            theory.edge_of_chaos(theory.activation(lambda x: x.clamp(min=0) + 1, kinks=[0]), sigma_b)


@pytest.mark.parametrize("name", ["tanh", "erf", "hard-tanh"])
def test_without_biases_chaos_makes_inputs_orthogonal(name: str) -> None:
    for factor in (1.2, 1.7, 2.6):
        phase = theory.phase(name, sigma_w=theory.edge_of_chaos(name).sigma_w * factor)
        assert (phase.name, phase.correlation) == ("chaotic", 0)


# Fixed points and phases


def iterated(name: str, start: float, steps: int = 3000, **sigmas: float) -> float:
    q = start
    for _ in range(steps):
        q = theory.variance_map(name, q, **sigmas)
        if q > 1e6:
            return math.inf
    return q


@pytest.mark.parametrize(
    ("name", "sigma_w", "sigma_b", "kinds"),
    [
        ("tanh", 0.5, 0.0, ["stable"]),
        ("tanh", 2.0, 0.0, ["unstable", "stable"]),
        ("tanh", 2.0, 0.3, ["stable"]),
        ("elu", 1.3, 0.0, ["unstable", "stable"]),
        ("relu", 1.0, 0.5, ["stable"]),
        ("relu", 1.5, 0.5, []),
        ("relu", 1.0, 0.0, ["stable"]),
        ("gelu", 1.7, 0.1, ["stable", "unstable"]),
        ("gelu", 1.7, 0.5, []),
        ("silu", 1.9, 0.01, ["stable", "unstable"]),
        ("sigmoid", 4.0, 0.0, ["stable"]),
    ],
)
def test_fixed_points_are_where_iteration_leads(
    name: str, sigma_w: float, sigma_b: float, kinds: list[str]
) -> None:
    sigmas = {"sigma_w": sigma_w, "sigma_b": sigma_b}
    found = theory.fixed_points(name, **sigmas)
    for point in found.points:
        assert theory.variance_map(name, point.q, **sigmas) == pytest.approx(point.q, rel=1e-9, abs=1e-30)
        if point.q:
            up, down = (theory.variance_map(name, point.q * (1 + e), **sigmas) for e in (1e-5, -1e-5))
            assert point.slope == pytest.approx((up - down) / (2e-5 * point.q), abs=1e-6)
    assert [point.stability for point in found.points] == kinds
    for start in (0.01, 1.0, 30.0):
        end = iterated(name, start, **sigmas)
        assert found.reached(start) == pytest.approx(end, rel=1e-4, abs=1e-9)


def test_at_the_edge_of_relu_every_variance_stays() -> None:
    found = theory.fixed_points("relu", sigma_w=math.sqrt(2))
    assert (found.every, found.points, found.reached(0.3)) == (True, (), 0.3)


def test_points_between_two_of_the_grid_are_found_too() -> None:
    # A stable and an unstable one meet as sigma_w grows; just before, they are a hair apart, the grid's step is 12 %.
    low, high = 1.7, 1.85
    for _ in range(25):
        middle = (low + high) / 2
        points = theory.fixed_points("gelu", sigma_w=middle, sigma_b=0.1).points
        low, high = (middle, high) if len(points) == 2 else (low, middle)
    first, second = theory.fixed_points("gelu", sigma_w=low, sigma_b=0.1).points
    assert first.slope < 1 < second.slope
    assert 1 < second.q / first.q < 1.01
    assert theory.fixed_points("gelu", sigma_w=high + 1e-4, sigma_b=0.1).points == ()


@pytest.mark.parametrize(("name", "sigma_b"), [("tanh", 0.2), ("elu", 0.2), ("erf", 0.1), ("hard-tanh", 0.3)])
def test_phases_and_depths_are_those_of_the_iterated_maps(name: str, sigma_b: float) -> None:
    edge = theory.edge_of_chaos(name, sigma_b)
    for factor, phase_name in ((0.8, "ordered"), (1.0, "edge"), (1.6, "chaotic")):
        sigmas = {"sigma_w": edge.sigma_w * factor, "sigma_b": sigma_b}
        if name == "elu" and factor > 1:
            sigmas["sigma_w"] = edge.sigma_w * 1.1
        phase = theory.phase(name, **sigmas)
        assert phase.name == phase_name
        assert phase.chi == pytest.approx(theory.chi(name, phase.q, sigma_w=phase.sigma_w), rel=1e-12)
        if phase_name == "edge":
            assert phase.correlation == 1
            assert phase.correlation_depth == phase.gradient_depth == math.inf
            continue
        assert phase.gradient_depth == pytest.approx(1 / abs(math.log(phase.chi)))
        start = c = phase.correlation - 1e-5
        for _ in range(10):
            c = theory.correlation_map(name, c, q=phase.q, **sigmas)
        rate = math.log((phase.correlation - start) / (phase.correlation - c)) / 10
        assert phase.correlation_depth == pytest.approx(1 / rate, rel=1e-3)


def test_in_the_ordered_phase_both_depths_are_one() -> None:
    phase = theory.phase("tanh", sigma_w=0.9, sigma_b=0.3)
    assert (phase.correlation, phase.correlation_depth) == (1, pytest.approx(phase.gradient_depth))


def test_near_the_edge_the_fixed_correlation_is_still_found() -> None:
    edge = theory.edge_of_chaos("tanh", 0.2)
    gaps = []
    for excess in (1e-3, 1e-4, 1e-5):
        phase = theory.phase("tanh", sigma_w=edge.sigma_w * (1 + excess), sigma_b=0.2)
        gaps.append((1 - phase.correlation) / (phase.chi - 1))
        assert phase.name == "chaotic"
    # 1 - c vanishes in proportion to chi - 1: 2 (chi - 1) / C''(1).
    assert gaps[1:] == pytest.approx(gaps[:-1], rel=0.02)


@pytest.mark.parametrize("sigma_w", [0.5, 1.0, math.sqrt(2), 3.0])
def test_bias_free_relu_nets_differ_in_scale_only(sigma_w: float) -> None:
    phase = theory.phase("relu", sigma_w=sigma_w)
    assert phase.chi == pytest.approx(sigma_w**2 / 2)
    assert (phase.correlation, phase.correlation_depth) == (1, math.inf)


def test_linear_nets_keep_every_correlation() -> None:
    assert math.isnan(theory.phase("linear", sigma_w=1.0).correlation)
    assert math.isnan(theory.phase("tanh", sigma_w=0.7).correlation)


def test_signals_that_diverge_meet_the_slopes_far_out() -> None:
    gelu, relu = (theory.phase(name, sigma_w=2.0, sigma_b=0.3) for name in ("gelu", "relu"))
    assert gelu.q == relu.q == math.inf
    assert gelu.chi == pytest.approx(relu.chi)
    assert gelu.correlation == relu.correlation == 1
    assert gelu.correlation_depth == relu.correlation_depth == math.inf  # the biases are left behind
    assert theory.phase(theory.activation(lambda x: x**2), sigma_w=2.0).chi == math.inf


def test_a_phase_diagram_is_its_phases() -> None:
    diagram = theory.phase_diagram("tanh", sigma_b=[0.1, 0.3], sigma_w=[0.5, 1.0, 2.0])
    assert diagram.phases[1][2] == theory.phase("tanh", sigma_w=2.0, sigma_b=0.3)
    assert diagram.grid("gradient_depth")[0, 1] == diagram.phases[0][1].gradient_depth
    chi = diagram.grid("chi")
    assert (np.diff(chi, axis=1) > 0).all()
    assert (np.diff(chi, axis=0) < 0).all()  # biases order
    assert pickle.loads(pickle.dumps(diagram)) == diagram
    with pytest.raises(DisbudError, match="did you mean 'chi'"):
        diagram.grid("chii")
    with pytest.raises(DisbudError, match="sigma_w is a sequence of at least one"):
        theory.phase_diagram("tanh", sigma_w=[])


# What cannot be asked


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: theory.chi("tahn", 1.0, sigma_w=1.0), "no activation 'tahn'; did you mean 'tanh'"),
        (lambda: theory.activation("elu:alfa=2"), "did you mean 'alpha'"),
        (lambda: theory.activation("tanh:a=2"), "tanh has no settings"),
        (lambda: theory.activation("elu:2"), "key=value"),
        (lambda: theory.activation("elu:alpha=big"), "alpha is a number"),
        (lambda: theory.activation(3), "a name .* or a function, not a int"),  # type: ignore[arg-type]
        (lambda: theory.activation("relu", kinks=[0]), "named activations have theirs"),
        (lambda: theory.variance_map("tanh", -1.0, sigma_w=1.0), "a variance is a finite number"),
        (lambda: theory.variance_map("tanh", 1.0, sigma_w=0.0), "sigma_w, .* above 0"),
        (lambda: theory.edge_of_chaos("tanh", -0.1), "sigma_b, .* at least 0"),
        (lambda: theory.correlation_map("tanh", 1.2, q=1.0, sigma_w=1.0), "between -1 and 1"),
        (lambda: theory.correlation_slope("tanh", -2.0, q=1.0, sigma_w=1.0), "between -1 and 1"),
        (lambda: theory.phase("tanh", sigma_w=1.0, start=0.0), "start is the variance"),
        (lambda: theory.forward("tanh", depth=0, sigma_w=1.0), "depth is a whole number"),
        (lambda: theory.forward("tanh", depth=2, sigma_w=1.0, input_moment=0.0), "mean square, above 0"),
        (lambda: theory.forward("relu", depth=900, sigma_w=3.0), "ask for a depth below"),
        (lambda: theory.backward("tanh", depth=2, sigma_w=1.0, widths=[3, 4]), "widths are 3 whole numbers"),
    ],
)
def test_errors_say_what_would_work(ask, message: str) -> None:
    with pytest.raises(DisbudError, match=message):
        ask()


def test_the_maths_imports_no_torch() -> None:
    code = (
        "import sys, disbud.theory as t; t.edge_of_chaos('elu', 0.2); t.critical_sparsity([9] * 3, log_chi=1.0);"
        "t.phase('tanh', sigma_w=2.0); print('torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "False\n"
    )


@pytest.mark.parametrize("name", theory.__all__)
def test_every_public_name_has_a_docstring_with_an_example(name: str) -> None:
    assert ">>> " in (inspect.getdoc(getattr(theory, name)) or "")
