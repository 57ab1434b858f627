"""Amounts are exact: n functions of cost x always fit on a node of n * x."""

import functools
import operator
import re
from decimal import Decimal
from fractions import Fraction
from math import floor

import numpy as np
import pytest
from dask.utils import parse_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from handoff_dask._model.resources import (
    UNIT,
    format_amounts,
    from_units,
    hint_at_bytes,
    parse_amounts,
    parse_memory,
    parse_nodes,
    to_units,
)


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


# strings with a unit of bytes


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("4GB", 3814),  # 4 * 10**9 bytes
        ("4 GiB", 4096),
        ("512 MiB", 512),
        ("512MiB", 512),
        ("  1.5 gib ", 1536),
        (".5GiB", 512),
        ("4g", 3814),
        ("4Gi", 4096),
        ("1e3 MB", 953),
        ("2TB", 1907348),
        ("1PiB", 2**30),
        ("100MB", 95),
        ("1MiB", 1),
        ("512 KiB", 0.5),  # exact below 1 MB
        ("1B", 2**-20),
        ("0GB", 0),
    ],
)
def test_memory_is_read_as_dask_reads_it(text, amount):
    assert parse_memory(text) == amount
    assert type(parse_memory(text)) is type(amount) or amount == 0
    assert parse_memory(text) == (parse_bytes(text) // 2**20 or parse_bytes(text) / 2**20)


@pytest.mark.parametrize(
    "text", ["4 gigs", "4000", "", "GB", "-4GB", "4GB!", "4,5GB", "nanGB", "1e999GB", "auto"]
)
def test_strings_that_are_no_amounts_of_memory(text):
    message = (
        'must be a number of MB (2**20 bytes) or a string with a unit, such as "4GB" or "512 MiB",'
        f" not {text!r}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parse_memory(text)
    with pytest.raises(ValueError, match=f"^{re.escape(f'memory {message}')}$"):
        parse_amounts({"memory": text})


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 10**5), st.sampled_from(["MB", "MiB", "GB", "GiB"]), st.integers(1, 100))
def test_n_byte_strings_fit_on_n_times_the_amount(number, unit, n):
    cost, capacity = (parse_amounts({"memory": f"{x}{unit}"}) for x in (number, n * number))
    assert n * cost.get("memory", 0) <= capacity["memory"] or number * parse_bytes(f"1{unit}") < 2**20


def test_only_memory_may_be_a_string():
    with pytest.raises(ValueError, match=r"^gpu must be a number, not '4GB'$"):
        parse_amounts({"memory": "4GB", "gpu": "4GB"})


@pytest.mark.parametrize("memory", [4e9, 4_000_000_000, 10**8])
def test_memory_that_looks_like_bytes(memory):
    assert hint_at_bytes({"memory": memory}) == (
        f"memory is in MB, but {int(memory)} looks like bytes; did you mean {int(memory) // 2**20}?"
    )


@pytest.mark.parametrize("amounts", [{}, {"memory": 24_000_000}, {"cpu": 4e9}, {"memory": float("inf")}])
def test_memory_that_does_not_look_like_bytes(amounts):
    assert hint_at_bytes(amounts) is None


def test_nodes_with_memory_in_bytes_are_warned_about():
    hint = "node 'a': memory is in MB, but 8000000000 looks like bytes; did you mean 7629?"
    with pytest.warns(UserWarning, match=re.escape(hint)):
        parse_nodes({"a": {"memory": 8e9}, "b": {"memory": "8GB"}})
