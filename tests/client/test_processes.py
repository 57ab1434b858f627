"""Results that cannot be sent from one process to another."""

from __future__ import annotations

import threading

import pytest
from distributed import Client
from helpers import dag_of, identity, until

import handoff_dask as handoff
from handoff_dask import Function, FunctionFailedError


class Unloadable:
    """Can be pickled, but not unpickled."""

    def __reduce__(self):
        return int, ("not a number",)


def node_of(value):
    return handoff.current().node


@pytest.fixture(scope="module")
def processes():
    nodes = {"a": {"cpu": 2}, "b": {"cpu": 2}}
    with handoff.local_cluster(nodes, processes=True) as cluster, Client(cluster) as client:
        yield client


@pytest.mark.parametrize("code", [threading.Lock, Unloadable])
def test_a_result_that_cannot_be_moved_fails_its_function(processes, code):
    """In plain Dask its dependents would wait forever."""
    dag = dag_of(
        Function("makes", lambda: code(), node="a", max_retries=2),
        Function("uses", node_of, args=["makes"], node="b"),
        Function("other", identity, extra_args=[1]),
    )
    with pytest.raises(FunctionFailedError) as caught:
        handoff.execute(dag, processes, keep=["uses", "other"], fail_fast=False, timeout=60)
    error = caught.value
    assert error.function_id == "makes"
    assert [(a.node, a.outcome) for a in error.attempts] == [("a", "failed")] * 3
    assert "its result could not be moved to another node" in str(error)
    assert isinstance(error.__cause__, Exception)
    statuses = {id: record.status for id, record in error.run.records.items()}
    assert statuses == {"makes": "failed", "uses": "skipped", "other": "finished"}
    # The run may end before a node reports that it no longer waits for the result.
    for name in "ab":
        until(lambda name=name: handoff.resources_available(name, {"cpu": 2}, processes))


def test_a_result_that_the_client_cannot_unpickle_is_named(processes):
    """The function itself has not failed: no attempt has an error."""
    dag = dag_of(Function("bad", Unloadable), Function("good", identity, extra_args=[1]))
    with pytest.raises(
        FunctionFailedError, match=r"result of function 'bad'.*be fetched.*ValueError"
    ) as info:
        handoff.execute(dag, processes, timeout=60)
    assert info.value.function_id == "bad"
    assert isinstance(info.value.__cause__, ValueError)
    assert [(a.outcome, a.error) for a in info.value.attempts] == [("finished", None)]
    assert info.value.run.results["good"] == 1


def test_the_retry_runs_where_its_result_need_not_be_moved(processes):
    dag = dag_of(
        Function("makes", lambda: threading.Lock(), max_retries=1),
        Function("uses", node_of, args=["makes"], node="b"),
    )
    result = handoff.execute(dag, processes, keep=["uses"], timeout=60, allocation_strategy="first_available")
    assert [(a.node, a.outcome) for a in result.records["makes"].attempts] == [
        ("a", "failed"),
        ("b", "finished"),
    ]
    assert result.results == {"uses": "b"}


class UnpicklableOnNodeA:
    """Cannot be pickled on the node where its function runs first."""

    def __init__(self, node):
        self.node = node

    def __reduce__(self):
        if self.node == "a":
            raise RuntimeError("not from here")
        return str, (self.node,)


@pytest.mark.parametrize("keep", ["all", ["makes"]])
def test_a_kept_result_that_cannot_be_pickled_is_retried_like_any_failure(processes, keep):
    dag = dag_of(
        Function("makes", lambda: UnpicklableOnNodeA(handoff.current().node), max_retries=1),
        Function("uses", str, args=["makes"], node="b"),
    )
    result = handoff.execute(dag, processes, keep=keep, timeout=60, allocation_strategy="first_available")
    attempts = result.records["makes"].attempts
    assert [(a.node, a.outcome) for a in attempts] == [("a", "failed"), ("b", "finished")]
    assert "its result, of type UnpicklableOnNodeA, does not pickle: not from here" in attempts[0].error
    assert result["makes"] == "b"


@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize("nested", [False, True])
def test_a_kept_result_that_can_never_be_pickled(processes, retries, nested):
    code = (lambda: {"deep": [threading.Lock()]}) if nested else threading.Lock
    dag = dag_of(Function("lock", code, max_retries=retries), Function("other", identity, extra_args=[1]))
    with pytest.raises(FunctionFailedError, match=r"does not pickle: .* '_thread\.lock'") as caught:
        handoff.execute(dag, processes, fail_fast=False, timeout=60)
    assert [a.outcome for a in caught.value.attempts] == ["failed"] * (retries + 1)
    assert isinstance(caught.value.__cause__, TypeError)
    assert caught.value.run.records["other"].status == "finished"


def test_a_result_that_is_not_fetched_need_not_be_picklable(processes):
    dag = dag_of(
        Function("makes", threading.Lock, node="a", max_retries=0),
        Function("uses", lambda lock: lock.locked(), args=["makes"], node="a"),
    )
    assert handoff.execute(dag, processes, keep=["uses"], timeout=60)["uses"] is False
    sink = dag_of(Function("makes", threading.Lock, node="a", max_retries=0))
    assert handoff.execute(sink, processes, keep=[], timeout=60).records["makes"].status == "finished"


def test_results_that_stay_in_one_process_need_not_be_picklable():
    with handoff.local_cluster({"a": {"cpu": 1}}) as cluster, Client(cluster) as client:
        lock = handoff.execute(dag_of(Function("makes", threading.Lock)), client, timeout=60)["makes"]
    assert lock.acquire()
