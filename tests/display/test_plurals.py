"""Numbers and nouns agree: one function is not "1 functions"."""

import pytest
from helpers import dag_of

import handoff_dask as handoff
from handoff_dask import Function, RunTimeoutError
from handoff_dask._error_texts import count


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0 nodes"), (1, "1 node"), (2, "2 nodes"), (12345, "12,345 nodes")]
)
def test_count(n, text):
    assert count(n, "node") == text


def test_reprs_of_one_function():
    dag = dag_of(Function("f", int), id="one")
    schedule = handoff.simulate(dag, {"a": {"cpu": 1}})
    assert repr(dag) == "<DAG 'one': 1 function>"
    assert repr(schedule) == "<schedule of DAG 'one': 1 function in 1 s, lower bound 1 s>"
    assert repr(schedule.records) == "<records of 1 function>"


def test_errors_about_one_function():
    assert str(RunTimeoutError("d", "r", 1, 0, 1)).endswith("with 0 of 1 function finished")
    assert str(RunTimeoutError("d", "r", 1, 0, 2)).endswith("with 0 of 2 functions finished")
