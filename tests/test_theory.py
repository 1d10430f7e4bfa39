"""Mean-field fixed points, phases and edges of chaos: published values, iterated maps, an edge's own equations."""

from __future__ import annotations

import inspect
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest

from adaptive_quadrature import quad
from disbud import DisbudError, theory

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
