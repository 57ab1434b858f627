"""Threads and timeouts of ``execute_local``."""

import os
import threading
import time

import pytest
from helpers import add, dag_of, examples, identity
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import acyclic_graphs, build

from handoff_dask import Function, FunctionFailedError, RetryPolicy, RunTimeoutError, execute_local

sequential_and_threaded = pytest.mark.parametrize("max_concurrency", [1, 2])


def of_runs():
    """Return the threads of local runs. Other tests and clusters in this process start and end others."""
    return {t for t in threading.enumerate() if t.name.startswith("handoff_")}


def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return "done"


@settings(deadline=None, max_examples=examples(60))
@given(acyclic_graphs(20), st.booleans(), st.integers(2, 4))
def test_threaded_and_sequential_runs_give_the_same_results(graph, by_name, threads):
    def code(*args, **kwargs):
        return (len(args), *args, *sorted(kwargs.items()))

    dag = build(graph, code, by_name=by_name)
    one, many = (execute_local(dag, max_concurrency=n) for n in (1, threads))
    assert one.results == many.results
    assert set(many.results) == set(graph)
    for result in (one, many):
        position = {id: n for n, id in enumerate(result.results)}
        assert all(position[d] < position[id] for id, deps in graph.items() for d in deps)


@settings(deadline=None, max_examples=examples(60))
@given(acyclic_graphs(12), st.data(), st.integers(1, 3))
def test_failures_skip_their_dependents_only(graph, data, threads):
    bad = set(data.draw(st.lists(st.sampled_from(sorted(graph)), max_size=3))) if graph else set()
    stopped = set(bad)
    for _ in graph:
        stopped |= {id for id, deps in graph.items() if stopped.intersection(deps)}
    called = []

    def code(id, *args):
        called.append(id)
        if id in bad:
            raise OSError(id)

    dag = dag_of()
    for id, deps in graph.items():
        dag.add_function(Function(id, lambda *args, id=id: code(id), args=deps))
    if bad:
        with pytest.raises(FunctionFailedError) as caught:
            execute_local(dag, max_retries=0, fail_fast=False, max_concurrency=threads)
        assert caught.value.function_id in bad
        run = caught.value.run
        assert set(run.results) == set(graph) - stopped
        assert {id for id, record in run.records.items() if record.status == "failed"} == bad & set(called)
    else:
        execute_local(dag, max_retries=0, fail_fast=False, max_concurrency=threads)
    assert sorted(called) == sorted(set(called))
    assert set(graph) - set(called) == {id for id in graph if stopped.intersection(graph[id])}


@pytest.mark.parametrize("n", [2, 3, 5])
def test_max_concurrency(n):
    """Exactly this many functions run at once: each waits for the others at a barrier."""
    barrier, lock = threading.Barrier(n, timeout=30), threading.Lock()
    inside = most = 0

    def meet():
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        barrier.wait()
        with lock:
            inside -= 1
        barrier.wait()

    execute_local(dag_of(*(Function(i, meet) for i in range(4 * n))), max_concurrency=n)
    assert most == n


def test_functions_that_become_ready_together_run_together():
    barrier = threading.Barrier(3, timeout=30)
    dag = dag_of(
        Function("a", list),
        *(Function(n, lambda a: barrier.wait(), args=["a"]) for n in range(3)),
        Function("end", add, args=[0, 1, 2]),
    )
    assert execute_local(dag, max_concurrency=3)["end"] == 0 + 1 + 2


def test_max_concurrency_1_runs_in_the_calling_thread():
    dag = dag_of(
        Function("a", threading.get_ident), Function("b", lambda a: threading.get_ident(), args=["a"])
    )
    assert set(execute_local(dag, max_concurrency=1).results.values()) == {threading.get_ident()}


def test_higher_concurrency_uses_other_threads_and_leaves_none():
    before = of_runs()
    dag = dag_of(*(Function(n, threading.get_ident) for n in range(10)), Function("threads", of_runs))
    results = dict(execute_local(dag, max_concurrency=2).results)
    assert results.pop("threads") - before
    assert threading.get_ident() not in results.values()
    assert not of_runs() - before


def test_default_is_the_number_of_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    barrier = threading.Barrier(3, timeout=30)
    execute_local(dag_of(*(Function(n, barrier.wait) for n in range(3))))


def test_timeout_while_a_function_runs():
    release, ended, called = threading.Event(), [], []
    dag = dag_of(
        Function("a", int),
        Function("stuck", lambda a: ended.append(release.wait(30)), args=["a"]),
        Function("after", called.append, args=["stuck"]),
        id="mine",
    )
    try:
        # Long enough for the first function on any machine.
        with pytest.raises(
            RunTimeoutError, match=r"its timeout of 1\.5 s with 1 of 3 functions finished"
        ) as caught:
            execute_local(dag, timeout=1.5, max_concurrency=2)
        assert ended == []  # the call did not wait for it
    finally:
        release.set()
    error = caught.value
    assert isinstance(error, TimeoutError)
    assert (error.dag_id, error.run_id, error.timeout) == ("mine", error.run.id, 1.5)
    for thread in of_runs():
        thread.join(30)
    assert ended == [True]
    # Functions that finish after the timeout change nothing.
    assert error.run.results == {"a": 0}
    assert set(error.run.records) == set(error.run.allocations) == {"a"}
    assert error.run.status == "failed"
    assert called == []


def test_timeout_before_the_first_function():
    called = []
    dag = dag_of(Function("a", lambda: called.append(1)))
    with pytest.raises(RunTimeoutError, match="0 of 1 function finished"):
        execute_local(dag, timeout=0, max_concurrency=1)
    assert called == []


def test_timeout_that_the_last_function_exceeds():
    """Sequential runs behave like threaded ones."""

    dag = dag_of(Function("a", spin, extra_args=[0.2]))
    with pytest.raises(RunTimeoutError) as caught:
        execute_local(dag, timeout=0.2, max_concurrency=1)
    assert caught.value.run.results == {"a": "done"}


@sequential_and_threaded
@pytest.mark.parametrize("fail_fast", [True, False])
def test_timeout_while_waiting_for_a_retry(max_concurrency, fail_fast):
    calls = []

    def code():
        calls.append(1)
        raise OSError

    dag = dag_of(
        Function("a", code, retry=RetryPolicy(delay=3600, max_delay=3600)),
        Function("b", identity, args=["a"]),
    )
    with pytest.raises(RunTimeoutError, match="0 of 2 functions"):
        execute_local(dag, timeout=1, max_concurrency=max_concurrency, fail_fast=fail_fast)
    for thread in of_runs():
        thread.join(30)
        assert not thread.is_alive()
    assert calls == [1]


@sequential_and_threaded
def test_timeout_that_is_long_enough(max_concurrency):
    dag = dag_of(Function("a", spin, extra_args=[0.02]), Function("b", identity, args=["a"]))
    result = execute_local(dag, timeout=1e300, max_concurrency=max_concurrency)
    assert result.results == {"a": "done", "b": "done"}


@sequential_and_threaded
def test_a_failure_before_the_timeout_is_a_failure(max_concurrency):
    with pytest.raises(FunctionFailedError):
        execute_local(
            dag_of(Function("a", [].pop)), timeout=60, max_retries=0, max_concurrency=max_concurrency
        )
