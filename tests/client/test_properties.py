"""Random runs on a cluster: results, attempts, capacities and limits are right, and nothing is left."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
from helpers import examples, settle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import handoff_dask as handoff
from handoff_dask import DAG, Collocated, Function, RetryPolicy, RunCancelledError

CAPACITY = {
    "node1": {"cpu": 4, "memory": 8192, "gpu": 1, "threads": 4},
    "node2": {"cpu": 2, "memory": 4096, "threads": 2},
}
ANYWHERE = [{}, {}, {"cpu": 1}, {"cpu": 2}, {"memory": 3000}, {"cpu": 0.5, "memory": 1500}]
ON_NODE1 = [{"gpu": 1}, {"gpu": 0.5}, {"cpu": 3}, {"cpu": 1, "gpu": 0.5}]

CALLS: Counter = Counter()
LOCK = threading.Lock()


def count(name, seconds, failing, *inputs):
    """Return one more than the sum of the inputs, after ``failing`` failed attempts."""
    with LOCK:
        CALLS[name] += 1
        attempt = CALLS[name]
    time.sleep(seconds)  # simulated work
    if attempt <= failing:
        raise OSError("not yet")
    return 1 + sum(inputs)


@st.composite
def function_specs(draw, i, limited):
    """The spec of function ``i``: inputs, cost, constraints, and behaviour."""
    collocated = draw(st.integers(0, i - 1)) if i and draw(st.integers(0, 4)) == 4 else None
    cost = dict(draw(st.sampled_from(ANYWHERE if collocated is not None else ANYWHERE + ON_NODE1)))
    pins = [None, None, None, "node1", *(["node2"] if cost in ANYWHERE else [])]
    if limited and draw(st.booleans()):
        cost["db"] = draw(st.sampled_from([1, 0.5]))
    return {
        "inputs": sorted(draw(st.sets(st.integers(0, i - 1), max_size=2))) if i else [],
        "cost": cost,
        "collocated": collocated,
        "pin": draw(st.sampled_from(pins)) if collocated is None else None,
        "failing": draw(st.sampled_from([0, 0, 0, 0, 1, 2])),
        "seconds": draw(st.sampled_from([0.0, 0.001, 0.005])),
        "priority": draw(st.sampled_from([0, 0, 1])),
    }


@st.composite
def run_specs(draw):
    limited = draw(st.booleans())
    n = draw(st.integers(1, 12))
    options = {
        "max_concurrency": draw(st.sampled_from([None, None, 1, 2])),
        "limits": {"db": 1.5} if limited else None,
        "keep": draw(st.sampled_from(["all", "all", "sinks", "first"])),
        "priority": draw(st.sampled_from([0, 1])),
        "allocation_strategy": draw(st.sampled_from(["best_fit", "load_balanced", "first_available"])),
        "retry": RetryPolicy(max_retries=2, elsewhere=draw(st.booleans())),
    }
    if options["keep"] == "first":
        options["keep"] = [0]
    return (
        [draw(function_specs(i, limited)) for i in range(n)],
        options,
        draw(st.sampled_from([False] * 4 + [True])),
    )


def dag_of(name, specs):
    dag = DAG(name)
    for i, f in enumerate(specs):
        node = f["pin"] if f["collocated"] is None else Collocated(f["collocated"])
        dag.add_function(
            Function(
                i,
                count_inputs_last,
                args=f["inputs"],
                kwargs={},
                extra_kwargs={"of": ((name, i), f["seconds"], f["failing"])},
                cost=f["cost"],
                node=node,
                priority=f["priority"],
            )
        )
    return dag


def count_inputs_last(*inputs, of):
    return count(*of, *inputs)


def values(specs):
    found = []
    for f in specs:
        found.append(1 + sum(found[i] for i in f["inputs"]))
    return found


def most_used(intervals):
    """Return the peak use of each resource."""
    most = Counter()
    for moment, _, _ in intervals:
        for name in {name for _, _, cost in intervals for name in cost}:
            used = sum(cost.get(name, 0) for a, b, cost in intervals if a <= moment < b)
            most[name] = max(most[name], used)
    return most


def check_run(name, specs, options, result):
    """Check the results and attempts of a finished run."""
    expected = values(specs)
    sinks = set(range(len(specs))) - {i for f in specs for i in f["inputs"]}
    kept = {"all": set(range(len(specs))), "sinks": sinks}.get(str(options["keep"]), {0})
    assert dict(result.results) == {i: expected[i] for i in kept}
    for i, f in enumerate(specs):
        record = result.records[i]
        outcomes = [a.outcome for a in record.attempts]
        assert outcomes == ["failed"] * f["failing"] + ["finished"]
        assert CALLS[name, i] == len(outcomes)
        assert f["pin"] in (None, record.node)
        for j in f["inputs"]:
            assert result.records[j].stopped <= record.started
        if f["collocated"] is not None:
            assert record.node == result.records[f["collocated"]].node
    intervals = [
        (a.started, a.stopped, {"db": result.records[i].cost.get("db", 0), "runs": 1})
        for i in range(len(specs))
        for a in result.records[i].attempts
    ]
    used = most_used(intervals)
    assert used["db"] <= 1.5
    assert used["runs"] <= (options["max_concurrency"] or len(specs))


def check_nodes(all_records):
    """Check that all runs together never exceeded a node's capacity."""
    for node, capacity in CAPACITY.items():
        intervals = [
            (a.started, a.stopped, {**record.cost, "threads": 1})
            for records in all_records
            for record in records.values()
            for a in record.attempts
            if a.node == node and a.started is not None and a.stopped is not None
        ]
        used = most_used(intervals)
        assert all(used[name] <= most + 1e-9 for name, most in capacity.items()), used
        assert "gpu" in capacity or not used["gpu"]


@given(st.lists(run_specs(), min_size=1, max_size=3))
@settings(
    deadline=None,
    max_examples=examples(25),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@pytest.mark.timeout(600)
def test_random_runs(cluster, client, drawn):
    CALLS.clear()
    all_records = []
    handles = [
        handoff.submit(dag_of(f"r{n}", specs), client, **options)
        for n, (specs, options, _) in enumerate(drawn)
    ]
    for handle, (_, _, cancel) in zip(handles, drawn, strict=True):
        if cancel:
            handle.cancel()
    for n, (handle, (specs, options, cancel)) in enumerate(zip(handles, drawn, strict=True)):
        try:
            result = handle.result(timeout=60)
        except RunCancelledError:
            assert cancel
            assert all(CALLS[f"r{n}", i] <= f["failing"] + 1 for i, f in enumerate(specs))
            all_records.append(dict(handle.records))
        else:
            check_run(f"r{n}", specs, options, result)
            all_records.append(dict(result.records))
            del result
    check_nodes(all_records)
    del handle, handles
    settle(cluster)
    assert not cluster.scheduler.tasks
