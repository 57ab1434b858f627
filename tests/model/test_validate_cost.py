"""A cost maps resource names to finite, non-negative numbers."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from helpers import dag_of

from handoff_dask import Function, InvalidCostError, InvalidDAGError


@pytest.mark.parametrize(
    "cost",
    [
        None,
        {},
        {"cpu": 0},
        {"cpu": 0.0, "memory": 1000, "gpu": 1},
        {"cpu": 0.2},
        {"cpu": 1e-300},
        {"cpu": 1e308},
        {"cpu": 2**70},
        {"a licence of the third kind": 1},
        {"cpu": Fraction(1, 3), "memory": Decimal("0.1")},
        {"cpu": np.float32(0.5), "memory": np.int64(3), "gpu": np.uint8(1), "disk": np.float64(0.25)},
    ],
)
def test_valid(cost):
    dag_of(Function("f", list, cost=cost)).validate()


BAD = [
    ({"cpu": -1}, "cpu must not be negative, but is -1"),
    ({"cpu": -0.5}, r"cpu must not be negative, but is -0\.5"),
    ({"cpu": -1e-300}, "cpu must not be negative"),
    ({"cpu": Fraction(-1, 3)}, "cpu must not be negative"),
    ({"cpu": np.int64(-2)}, "cpu must not be negative"),
    ({"cpu": float("nan")}, "cpu must be finite, but is nan"),
    ({"cpu": Decimal("nan")}, "cpu must be finite"),
    ({"memory": float("inf")}, "memory must be finite, but is inf"),
    ({"memory": np.float64("-inf")}, "memory must be finite"),
    ({"memory": 10**400}, "memory must be finite"),
    ({"memory": Fraction(10**400)}, "memory must be finite"),
    ({"cpu": True}, "cpu must be a number, not True"),
    ({"cpu": np.True_}, "cpu must be a number"),
    ({"cpu": "2"}, "cpu must be a number, not '2'"),
    ({"cpu": None}, "cpu must be a number, not None"),
    ({"cpu": 1j}, "cpu must be a number, not 1j"),
    ({"cpu": [1]}, r"cpu must be a number, not \[1\]"),
    ({"cpu": np.array([1, 2])}, "cpu must be a number"),
    ({1: 1}, "resource names must be non-empty strings, not 1"),
    ({"": 1}, "resource names must be non-empty strings, not ''"),
    ({None: 1}, "resource names must be non-empty strings, not None"),
    ({"threads": 1}, "'threads' cannot be set"),
    ({"cpu": 1, "threads": 0}, "'threads' cannot be set"),
    (0, "cost must be a mapping, not 0"),
    (2.5, r"cost must be a mapping, not 2\.5"),
    ([], r"cost must be a mapping, not \[\]"),
    ([("cpu", 1)], "cost must be a mapping"),
    ("cpu", "cost must be a mapping, not 'cpu'"),
    ("", "cost must be a mapping, not ''"),
    (False, "cost must be a mapping, not False"),
    (np.array([1, 2]), "cost must be a mapping"),
]


@pytest.mark.parametrize(("cost", "text"), BAD)
@pytest.mark.parametrize("type", ["regular", "inline"])
def test_invalid(cost, text, type):
    dag = dag_of(Function("fine", list, cost={"cpu": 1}), Function("f", list, cost=cost, type=type))
    with pytest.raises(InvalidDAGError, match=text) as caught:
        dag.validate()
    assert caught.type is InvalidCostError
    assert caught.value.function_ids == ("f",)
    assert len(caught.value.problems) == 1
    assert "'f'" in caught.value.problems[0]


def test_each_invalid_resource_is_reported():
    dag = dag_of(Function("f", list, cost={"cpu": -1, "gpu": 1, "memory": "much", "threads": 2}))
    with pytest.raises(InvalidCostError) as caught:
        dag.validate()
    assert caught.value.function_ids == ("f",)
    assert [problem.rpartition("}: ")[2].split()[0] for problem in caught.value.problems] == [
        "cpu",
        "memory",
        "'threads'",
    ]
