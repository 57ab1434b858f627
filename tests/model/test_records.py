"""What is known of functions afterwards."""

import pickle

import pytest
from helpers import add, dag_of, identity

from handoff_dask import Attempt, Function, FunctionRecord, Shortfall, execute_local


def test_attempt():
    attempt = Attempt(1)
    assert attempt == Attempt(1, None, None, None, None, "running", None, None, {})
    assert pickle.loads(pickle.dumps(attempt)) == attempt


def record(*attempts):
    return FunctionRecord("f", "finished", "node1", attempts, {"cpu": 1})


def test_record_times_are_of_the_last_attempt():
    first = Attempt(1, started=1.0, stopped=2.0, outcome="failed")
    last = Attempt(2, started=5.0, stopped=7.5, outcome="finished")
    r = record(first, last)
    assert (r.started, r.stopped, r.duration) == (5.0, 7.5, 2.5)
    assert record(last) == record(last)
    assert record(first) != record(last)


@pytest.mark.parametrize("attempts", [(), (Attempt(1, started=1.0),), (Attempt(1, stopped=1.0),)])
def test_record_without_duration(attempts):
    assert record(*attempts).duration is None


@pytest.fixture
def result():
    return execute_local(
        dag_of(
            Function("a", list, cost={"cpu": 0.2}),
            Function("b", identity, args=["a"]),
            Function("c", add),
            id="mine",
        )
    )


def test_records_are_a_mapping(result):
    records = result.records
    assert set(records) == {"a", "b", "c"}
    assert len(records) == 3
    assert records["a"].function_id == "a"
    assert records["a"].cost == {"cpu": 0.2}
    assert records["b"].cost == {}
    assert records == dict(records)
    assert "absent" not in records
    with pytest.raises(KeyError, match="absent"):
        records["absent"]
    with pytest.raises(TypeError):
        records["a"] = 1


def test_result_pickles(result):
    """To keep it, or to send it elsewhere; with plain values for what is made when looked at."""
    copy = pickle.loads(pickle.dumps(result))
    assert copy == result
    assert copy.records["a"] == result.records["a"]
    assert copy["b"] == []


def test_shortfall_text():
    shortfall = Shortfall(("a",), {"gpu": 2, "cpu": 0.5}, "node1", {"gpu": 1, "cpu": 4}, "too little gpu")
    assert str(shortfall) == (
        "function 'a': too little gpu; asked: gpu 2, cpu 0.5; nearest node 'node1' has gpu 1, cpu 4"
    )


def test_shortfall_text_of_many():
    shortfall = Shortfall(tuple("abcde"), {}, None, {}, "there are no nodes")
    assert str(shortfall) == "functions 'a', 'b', 'c' and 2 more: there are no nodes"
