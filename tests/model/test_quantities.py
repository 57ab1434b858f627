"""Amounts are exact: n functions of cost x always fit on a node of n * x."""

import functools
import operator
from decimal import Decimal
from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handoff_dask._model.resources import UNIT, format_amounts, from_units, parse_amounts, to_units


def test_twenty_costs_of_a_fifth_fit_on_four():
    # Plain floats drift if added one by one, as in a ledger; sum() compensates for it since Python 3.12.
    assert functools.reduce(operator.add, [0.2] * 20) > 4
    assert 20 * to_units(0.2) <= to_units(4) < 21 * to_units(0.2)


@pytest.mark.parametrize(
    "kind", [lambda n: 1 / n, lambda n: Fraction(1, n), lambda n: 1 / Decimal(n), lambda n: np.float64(1) / n]
)
def test_fractions_of_a_whole(kind):
    """n parts fit, but n + 1 do not."""
    for n in range(1, 1001):
        part = to_units(kind(n))
        assert n * part <= UNIT < (n + 1) * part, n


@pytest.mark.parametrize(
    ("amount", "units"),
    [
        (0, 0),
        (0.0, 0),
        (-0.0, 0),
        (1, UNIT),
        (3.0, 3 * UNIT),
        (0.5, UNIT // 2),
        (1e-300, 1),  # never rounded to zero
        (Fraction(1, 3), UNIT // 3),
        (Decimal("0.25"), UNIT // 4),
        (np.int64(2), 2 * UNIT),
        (np.uint8(200), 200 * UNIT),
        (np.float32(0.5), UNIT // 2),
        (2**60 + 1, (2**60 + 1) * UNIT),
        (1e308, int(1e308) * UNIT),
    ],
)
def test_to_units(amount, units):
    assert to_units(amount) == units
    assert type(to_units(amount)) is int


@settings(deadline=None, max_examples=300)
@given(st.floats(2**-20, 1e15))
def test_rounds_down(amount):
    assert to_units(amount) == floor(Fraction(amount) * UNIT)


@settings(deadline=None, max_examples=300)
@given(st.floats(0.001, 1000), st.integers(1, 1000))
def test_n_amounts_fit_on_n_times_the_amount(amount, n):
    assert n * to_units(amount) <= to_units(n * amount)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.floats(0.001, 100), max_size=50), st.randoms())
def test_releasing_everything_leaves_zero(amounts, random):
    used = sum(map(to_units, amounts))
    random.shuffle(amounts)
    for amount in amounts:
        used -= to_units(amount)
    assert used == 0


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 2**45), max_size=20))
def test_sums_are_exact_in_floats_too(units):
    """Dask's workers keep their used resources in floats."""
    assert sum(u / UNIT for u in units) * UNIT == sum(units)


@pytest.mark.parametrize(
    ("units", "amount"),
    [(UNIT, 1), (0, 0), (UNIT // 2, 0.5), (to_units(0.2), 0.2), (to_units(1 / 3), 0.33333)],
)
def test_from_units(units, amount):
    assert from_units(units) == amount
    assert type(from_units(units)) is type(amount)


def test_parse_amounts():
    assert parse_amounts({"cpu": 2, "gpu": 0, "memory": 0.5}) == {"cpu": 2 * UNIT, "memory": UNIT // 2}
    assert parse_amounts({}) == {}


def test_format_amounts():
    assert format_amounts({"cpu": 2, "memory": 0.5, "seats": 1e6}) == "cpu 2, memory 0.5, seats 1e+06"
    assert format_amounts([("cpu", 1.0)]) == "cpu 1"
    assert format_amounts({}) == "nothing"


@pytest.mark.parametrize("amount", [0.1, 0.2, 0.3, 0.8, 0.29, 2.5, 1000.7])
def test_decimal_amounts_survive_a_round_trip(amount):
    assert from_units(to_units(amount)) == amount
