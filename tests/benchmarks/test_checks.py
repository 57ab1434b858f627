"""Checks of a run: each test breaks exactly one rule."""

from __future__ import annotations

import pytest
from checks import Interval, find_violations
from traces import Trace, TraceFunction

NODES = {"gpu": {"cpu": 2, "memory": 100, "gpu": 1}, "cpu": {"cpu": 2, "memory": 1000}}
TRACE = Trace(
    "t",
    {
        "a": TraceFunction((), 1.0, {"cpu": 1}),
        "b": TraceFunction(("a",), 2.0, {"cpu": 1, "memory": 80}),
        "c": TraceFunction(("a",), 2.0, {"cpu": 1, "gpu": 1}),
        "d": TraceFunction(("b", "c"), 1.0, {"cpu": 2}),
    },
)
#: In seconds of a clock that did not start with the run.
LOG = {
    "a": Interval("a", "cpu", 10.0, 11.0),
    "b": Interval("b", "gpu", 11.0, 13.0),  # starts exactly when its input ends
    "c": Interval("c", "gpu", 11.2, 13.2),
    "d": Interval("d", "cpu", 13.3, 14.3),
}


def check(trace=TRACE, makespan=4.5, bound=4.0, **changed):
    log = [changed.get(id, interval) for id, interval in LOG.items()]
    return find_violations(trace, NODES, [i for i in log if i is not None], makespan, bound)


def test_correct_run():
    assert check() == []


def test_function_that_never_ran():
    assert check(d=None) == ["d never ran"]


def test_empty_log():
    assert find_violations(TRACE, NODES, [], 4.5, 4.0) == [f"{id} never ran" for id in "abcd"]


def test_function_that_ran_twice():
    again = [*LOG.values(), Interval("d", "gpu", 13.3, 14.3)]
    assert find_violations(TRACE, NODES, again, 4.5, 4.0) == ["d ran 2 times"]


def test_unknown_function():
    more = [*LOG.values(), Interval("x", "gpu", 13.3, 14.3)]
    assert find_violations(TRACE, NODES, more, 4.5, 4.0) == ["x ran, but is not in the trace"]


def test_function_that_was_too_fast():
    assert check(c=Interval("c", "gpu", 11.2, 12.2)) == ["c took 1.000000 s instead of 2.000000 s"]


def test_function_that_started_before_its_input_ended():
    wrong = ["b started before its input a had ended"]
    assert check(b=Interval("b", "gpu", 10.9, 13.0)) == wrong
    assert check(a=None) == ["a never ran", *wrong, "c started before its input a had ended"]


def test_unknown_node():
    assert check(a=Interval("a", "other", 10.0, 11.0)) == ["a ran on other, which is not a node"]


def test_resource_that_the_node_lacks():
    assert check(c=Interval("c", "cpu", 11.2, 13.2)) == [
        "cpu has gpu 0, but 1 were in use when c started, at 11.200000 s"
    ]


@pytest.mark.parametrize(("name", "amount", "capacity"), [("cpu", 2, 2), ("memory", 30, 100), ("gpu", 1, 1)])
def test_exceeded_capacity(name, amount, capacity):
    """Functions b and c overlap on one node, and together ask for too much of one resource."""
    cost = {"b": {"cpu": 0.5, name: capacity - amount + 0.5}, "c": {"cpu": 0.5, name: amount}}
    functions = {
        id: TraceFunction(f.deps, f.seconds, cost.get(id, f.cost)) for id, f in TRACE.functions.items()
    }
    over = capacity + 0.5
    assert check(Trace("t", functions)) == [
        f"gpu has {name} {capacity}, but {over:g} were in use when c started, at 11.200000 s"
    ]


def test_exceeded_threads():
    functions = {f"f-{i}": TraceFunction((), 1.0, {"cpu": 0.1}) for i in range(3)}
    log = [Interval(f"f-{i}", "cpu", 0.0 + i / 10, 1.0 + i / 10) for i in range(3)]
    assert find_violations(Trace("t", functions), NODES, log, 1.5, 1.0) == [
        "cpu has threads 2, but 3 were in use when f-2 started, at 0.200000 s"
    ]


def test_function_may_start_when_another_stops():
    functions = {id: TraceFunction((), 1.0, {"cpu": 2}) for id in ("b", "a")}
    log = [Interval("b", "cpu", 1.0, 2.0), Interval("a", "cpu", 0.0, 1.0)]
    assert find_violations(Trace("t", functions), NODES, log, 2.0, 2.0) == []


def test_inexact_amounts_add_up():
    functions = {f"f-{i}": TraceFunction((), 1.0, {"cpu": 1, "memory": 0.1}) for i in range(6)}
    log = [Interval(f"f-{i}", "node", 0.0, 1.0) for i in range(6)]
    assert find_violations(Trace("t", functions), {"node": {"cpu": 6, "memory": 0.6}}, log, 1.0, 1.0) == []


def test_makespan_below_the_lower_bound():
    assert check(bound=4.6) == ["the makespan, 4.500000 s, is below the lower bound, 4.600000 s"]


def test_makespan_shorter_than_its_functions():
    assert check(makespan=4.2) == ["the run took 4.200000 s, but its functions took 4.300000 s"]
