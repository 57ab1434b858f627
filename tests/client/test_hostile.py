"""Careless or hostile DAGs either are rejected before anything runs or give the right results."""

import hostile
import pytest
from distributed import Client
from helpers import examples, settle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import handoff_dask as handoff
from handoff_dask import HandoffError, RetryPolicy

#: Options of a run, and the exception that rejects them.
OPTIONS = [
    *[({}, None)] * 8,
    ({"max_retries": 0}, None),
    ({"retry": RetryPolicy(1)}, None),
    ({"keep": "sinks"}, None),
    ({"keep": []}, None),
    ({"max_concurrency": 1, "priority": -2.5, "fail_fast": False}, None),
    ({"limits": {"db": 0}, "allocation_strategy": "first_available", "timeout": 60}, None),
    ({"max_retries": -1}, ValueError),
    ({"max_retries": "3"}, TypeError),
    ({"max_retries": True}, TypeError),
    ({"max_retries": float("nan")}, TypeError),
    ({"retry": 3}, TypeError),
    ({"max_concurrency": 0}, ValueError),
    ({"max_concurrency": 1.5}, ValueError),
    ({"limits": {"db": float("inf")}}, ValueError),
    ({"limits": {5: 1}}, ValueError),
    ({"limits": "db"}, TypeError),
    ({"allocation_strategy": "cheapest"}, ValueError),
    ({"allocation_strategy": 5}, TypeError),
    ({"keep": ["absent"]}, ValueError),
    ({"keep": [[]]}, ValueError),
    ({"keep": 5}, TypeError),
    ({"fail_fast": "yes"}, TypeError),
    ({"timeout": float("nan")}, ValueError),
    ({"timeout": "5"}, ValueError),
    ({"wait_for_nodes": -1}, ValueError),
    ({"priority": float("nan")}, TypeError),
]


@pytest.fixture(scope="module")
def client():
    with (
        handoff.local_cluster(hostile.NODES) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client
        settle(cluster)
        assert not cluster.scheduler.tasks


def kept_results(expected, functions, keep):
    """Return the results that ``keep`` selects."""
    if keep == "all":
        return expected
    if keep != "sinks":
        return {}
    # A function is a sink even if inline functions depend on it, unless a placed function uses these.
    inline = {f["id"]: f for f in functions if f.get("type") == "inline"}
    wanted = [id for f in functions if f["id"] not in inline for id in hostile.dependencies(f)]
    needed = set()
    while wanted:
        id = wanted.pop()
        if id in inline:
            wanted.extend(hostile.dependencies(inline[id]))
        needed.add(id)
    return {id: value for id, value in expected.items() if id not in needed}


@settings(
    deadline=None,
    max_examples=examples(400),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(hostile.descriptions(), st.sampled_from(OPTIONS))
@pytest.mark.timeout(600)
def test_dags_are_rejected_before_anything_runs_or_give_the_right_results(client, functions, drawn):
    options, error = drawn
    if hostile.refusal(functions) is not None:
        return  # no DAG to submit: see tests/model
    dag = hostile.build(functions)
    hostile.RAN.clear()
    faults = hostile.faults(functions)
    expected = error or next(iter(faults), None) or hostile.verdict(functions)
    if expected is not None:
        with pytest.raises((HandoffError, TypeError, ValueError)) as caught:
            handoff.execute(dag, client, **options)
        assert caught.type is expected
        assert hostile.RAN == []
        return
    result = handoff.execute(dag, client, **options)
    ran = len(hostile.RAN)
    assert ran >= sum(f.get("type", "regular") == "regular" for f in functions)
    assert result.results == kept_results(hostile.results(functions), functions, options.get("keep", "all"))
    for f in functions:
        if f.get("type") != "inline":
            assert [a.outcome for a in result.records[f["id"]].attempts] == ["finished"]
