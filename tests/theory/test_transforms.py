"""Transforms: formulas, means, accuracy at the ends, text forms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from inferalign.core.errors import InputError, UnknownName
from inferalign.theory.grid import default_grid
from inferalign.theory.procedures import best_of_n, sample, worst_of_n
from inferalign.theory.transforms import (
    OPTIMAL,
    Exponential,
    Identity,
    Log,
    Optimal,
    Power,
    Tabulated,
    Transform,
    one_shot,
    parse_transform,
)

CLOSED = [Identity(), Log(), *map(Exponential, (5.0, 10, -5, -10, 0.5, -300)), *map(Power, (1.0, 7, -7, -1, 2.5))]


def the(transform: Transform | Optimal) -> Transform:
    assert isinstance(transform, Transform)
    return transform


def table() -> Tabulated:
    grid = default_grid()
    return Tabulated(grid, -(grid.s**2))


@pytest.mark.parametrize(
    ("text", "x", "value", "normalised"),
    [
        ("identity", 0.3, 0.3, 0.3),
        ("log", 0.5, -math.log(2), -math.log(2)),
        ("exp:10", 0.9, math.exp(9), math.exp(-1)),
        ("exp:-10", 0.1, -math.exp(-1), -math.exp(-1)),
        ("power:7", 0.5, 2**-7, 2**-7),
        ("power:-7", 0.5, -(2**-7), -(2**-7)),
    ],
)
def test_values(text: str, x: float, value: float, normalised: float) -> None:
    transform = the(parse_transform(text))
    assert transform(x) == pytest.approx(value, rel=1e-14)
    assert transform.normalised(x) == pytest.approx(normalised, rel=1e-14)


@pytest.mark.parametrize("transform", CLOSED, ids=lambda t: t.name)
def test_each_increases_and_knows_its_mean(transform: Transform) -> None:
    x = np.linspace(1e-6, 1, 301)
    assert np.all(np.diff(transform(x)) >= 0)
    mean, _ = quad(lambda v: float(transform(v)), 0, 1, points=[0.01, 0.1, 0.9], epsabs=1e-8, epsrel=1e-7)
    assert transform.reference_mean == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("transform", [*CLOSED, table()], ids=lambda t: t.name)
def test_from_top_is_the_normalised_form_less_its_top(transform: Transform) -> None:
    x = np.linspace(0.001, 1, 97)
    plain = transform.normalised(x) - transform.normalised(1.0)
    scale = np.abs(transform.normalised(x)).max()
    np.testing.assert_allclose(transform.from_top(x, 1 - x), plain, rtol=1e-12, atol=1e-13 * scale)


@pytest.mark.parametrize("transform", CLOSED, ids=lambda t: t.name)
def test_from_top_keeps_its_digits_next_to_one(transform: Transform) -> None:
    """At 1 - 1e-15 the value over s is the slope at 1, but for powers of s."""
    if isinstance(transform, Power) and transform.k < -1:
        assert transform.from_top(np.array([1.0]), np.array([1e-15])) == -(1e-15**-transform.k)
        return
    s, h = np.array([1e-15]), 1e-6
    slope = (transform.normalised(1.0) - transform.normalised(1 - h)) / h
    assert transform.from_top(1 - s, s) / -s == pytest.approx(slope, rel=1e-3)


def test_a_table_keeps_to_its_nodes_and_ends() -> None:
    transform = table()
    grid = transform.grid
    assert transform.from_top(grid.u, grid.s) is transform.values
    np.testing.assert_allclose(transform.from_top(grid.u.copy(), grid.s), transform.values, rtol=1e-9)
    assert transform(1.0) == 0
    assert transform.reference_mean == pytest.approx(-1 / 3, rel=1e-12)
    np.testing.assert_allclose(transform(np.array([0.2, 0.77])), [-0.64, -(0.23**2)], atol=1e-5)


@given(text=st.sampled_from(["exp", "power"]), number=st.floats(1, 400), negative=st.booleans())
def test_names_are_read_back(text: str, number: float, negative: bool) -> None:
    transform = the(parse_transform(f"{text}:{-number if negative else number!r}"))
    assert parse_transform(transform.name) == transform


def test_names_are_short() -> None:
    names = [
        the(parse_transform(text)).name for text in ("exp:10", "exp:-10.0", "exp:2.5", "power:7", "log", "identity")
    ]
    assert names == ["exp:10", "exp:-10", "exp:2.5", "power:7", "log", "identity"]
    assert Exponential(-5).formula == "-e^(-5x)"
    assert Power(-7).formula == "-(1-x)^7"


def test_one_shot_is_the_limit_of_the_first_order_condition() -> None:
    """-int_x^1 g(u)^2 du by quadrature, up to scale and constant."""
    x = np.array([0.2, 0.5, 0.8])
    for selection in (best_of_n(4), worst_of_n(3)):
        exact = [
            -quad(lambda v, by=selection: float(by.g(np.array(v), np.array(1 - v))) ** 2, start, 1)[0] for start in x
        ]
        ours = one_shot(selection)(x)
        assert (ours[1] - ours[0]) / (ours[2] - ours[0]) == pytest.approx(
            (exact[1] - exact[0]) / (exact[2] - exact[0]), rel=1e-9
        )
    assert parse_transform("one-shot", best_of_n(4)) == Power(7)
    assert parse_transform("one-shot", worst_of_n(4)) == Power(-7)
    assert parse_transform("one-shot", sample()) == Identity()


def test_optimal_is_a_marker() -> None:
    assert parse_transform("optimal") is OPTIMAL


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optimum", "Did you mean 'optimal'"),
        ("ident", "Did you mean 'identity'"),
        ("expo:10", "Did you mean 'exp'"),
        ("nonsense", "Give one of: identity, log"),
        ("exp", "for example `exp:10`"),
        ("exp:ten", "for example `exp:10`"),
        ("exp:0", "not 0"),
        ("exp:nan", "not 0"),
        ("exp:900", "from -500 to 500"),
        ("power:0.5", "at least 1"),
        ("power:inf", "at least 1"),
        ("one-shot", "name the procedure"),
        ("identity:3", "unknown transform"),
    ],
)
def test_what_cannot_be_read(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_transform(text)


def test_an_unknown_name_is_its_own_error() -> None:
    with pytest.raises(UnknownName):
        parse_transform("sigmoid")


@pytest.mark.parametrize("x", [-0.1, 1.1, float("nan")])
def test_raw_rewards_are_refused(x: float) -> None:
    for transform in CLOSED:
        with pytest.raises(InputError, match="calibrate the rewards first"):
            transform.normalised(x)


def test_log_refuses_zero() -> None:
    with pytest.raises(InputError, match="smoothed form"):
        Log()([0.0, 0.5])


def test_a_table_must_fit_its_grid() -> None:
    grid = default_grid()
    for values in (np.zeros(3), np.full(grid.u.size, np.nan), np.ones(grid.u.size)):
        with pytest.raises(InputError, match="one a node"):
            Tabulated(grid, values)


def test_one_shot_wants_a_closed_form() -> None:
    class Guess:
        name, n, g_increasing = "estimated", None, False

        def g(self, q: np.ndarray, s: np.ndarray) -> np.ndarray:
            return 2 * q

        def G(self, q: np.ndarray, s: np.ndarray) -> np.ndarray:
            return q**2

        def tail(self, q: np.ndarray, s: np.ndarray) -> np.ndarray:
            return 1 - q**2

    with pytest.raises(InputError, match="give `optimal`"):
        one_shot(Guess())
