"""Records, events and shortfalls."""

import pickle
from dataclasses import replace

import pytest
from helpers import add, dag_of, identity

from handoff_dask import Attempt, Event, Function, FunctionRecord, Shortfall, execute_local
from handoff_dask._model.records import Records, Summary, events_of


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
    if not attempts:
        assert (record().started, record().stopped) == (None, None)


def test_record_without_attempts():
    records = Records(
        ["f", "g"],
        {"f": Summary("waiting", ()), "g": Summary("running", [Attempt(1, "n1")])}.get,
        lambda id: {},
    )
    assert records["f"] == FunctionRecord("f", "waiting", None, (), {})
    assert records["g"].node == "n1"
    assert records.allocations == {"g": "n1"}
    assert repr(records) == "<records of 2 functions>"
    assert repr(Records(["f"], {}.get, {}.get)) == "<records of 1 function>"


def test_record_has_the_devices_of_the_last_attempt():
    attempts = [Attempt(1, "n1", devices={"gpu": (0,)}), Attempt(2, "n2", devices={"gpu": (1,)})]
    assert Records(["f"], {"f": Summary("running", attempts)}.get, lambda id: {})["f"].devices == {
        "gpu": (1,)
    }


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
    """Lazily built records are pickled as plain values."""
    copy = pickle.loads(pickle.dumps(result))
    assert copy == result
    assert copy.records["a"] == result.records["a"]
    assert copy["b"] == []


def test_shortfall_text():
    shortfall = Shortfall(("a",), {"gpu": 2, "cpu": 0.5}, "node1", {"gpu": 1, "cpu": 4}, "too little gpu")
    assert str(shortfall) == (
        "function 'a': too little gpu; asked: gpu 2, cpu 0.5; nearest node 'node1' has gpu 1, cpu 4"
    )


def test_shortfall_text_of_several_functions():
    shortfall = Shortfall(tuple("abcde"), {}, None, {}, "there are no nodes")
    assert str(shortfall) == "functions 'a', 'b', 'c' and 2 more: there are no nodes"
    assert str(replace(shortfall, function_ids=tuple("abc"))) == "functions 'a', 'b', 'c': there are no nodes"
    assert str(replace(shortfall, function_ids=tuple("abcd"))).startswith(
        "functions 'a', 'b', 'c' and 1 more: "
    )


@pytest.mark.parametrize(("nearest", "offered"), [(None, {"gpu": 1}), ("node1", {})])
def test_shortfall_without_a_nearest_node(nearest, offered):
    shortfall = Shortfall(("a",), {"gpu": 2}, nearest, offered, "no node has this name")
    assert str(shortfall) == "function 'a': no node has this name; asked: gpu 2"


# events


def test_events_of_attempts_are_in_chronological_order():
    rows = {
        "x": Summary(
            "finished",
            [
                Attempt(1, "a", 1.0, None, 4.0, "lost"),
                Attempt(2, "b", 5.0, 6.0, 9.0, "failed", "ValueError('no')", "Traceback ..."),
                Attempt(3, "a", 10.0, 11.0, 12.0, "finished"),
            ],
        ),
        "y": Summary("running", [Attempt(1, "c", 2.0)]),
        "z": Summary("skipped", []),
    }
    assert events_of(Records(rows, rows.__getitem__, lambda id: {})) == [
        Event(1.0, "x", "ready", None, 1),
        Event(2.0, "y", "ready", None, 1),
        Event(4.0, "x", "lost", "a", 1),
        Event(5.0, "x", "ready", None, 2),
        Event(6.0, "x", "started", "b", 2),
        Event(9.0, "x", "failed", "b", 2, "ValueError('no')"),
        Event(10.0, "x", "ready", None, 3),
        Event(11.0, "x", "started", "a", 3),
        Event(12.0, "x", "finished", "a", 3),
    ]


def test_simultaneous_events_are_in_causal_order():
    rows = {"x": Summary("finished", [Attempt(1, "a", 0.0, 0.0, 0.0, "finished")])}
    events = events_of(Records(rows, rows.__getitem__, lambda id: {}))
    assert [e.event for e in events] == ["ready", "started", "finished"]
