"""Failures, retries, timeouts and cancellation of runs, and errors found before anything runs."""

from __future__ import annotations

import pickle
import signal
import sys
import threading
import time

import pytest
from distributed import Client
from helpers import GATES, add, dag_of, gate, identity, pass_gate, plugin_of, until

import handoff_dask as handoff
from handoff_dask import (
    DAG,
    AllocationError,
    Collocated,
    Function,
    FunctionFailedError,
    RetryPolicy,
    RunCancelledError,
    RunError,
    RunTimeoutError,
)


class Unpicklable(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


CALLS: dict[str, list] = {}


def attempt_until(name, succeed_at, error=OSError):
    """Fail before call number ``succeed_at``; then return the number of the call."""
    calls = CALLS.setdefault(name, [])
    attempt = handoff.current()
    calls.append((attempt.attempt, attempt.node))
    if len(calls) < succeed_at:
        raise error(f"attempt {len(calls)}")
    return len(calls)


def fail(error=ValueError, text="no good"):
    raise error(text)


def test_a_failed_function_is_retried_elsewhere_and_every_attempt_recorded(client):
    CALLS.clear()
    result = handoff.execute(dag_of(Function("f", attempt_until, extra_args=["again", 3])), client)
    assert result["f"] == 3
    record = result.records["f"]
    assert [a.number for a in record.attempts] == [1, 2, 3]
    assert [a.outcome for a in record.attempts] == ["failed", "failed", "finished"]
    assert [(a.number, a.node) for a in record.attempts] == CALLS["again"]
    assert record.attempts[0].node != record.attempts[1].node
    assert "OSError('attempt 1')" in record.attempts[0].error
    assert "attempt_until" in record.attempts[0].traceback
    times = [t for a in record.attempts for t in (a.queued, a.started, a.stopped)]
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("function_retries", "run_retries", "attempts"), [(None, 2, 3), (0, 2, 1), (1, 0, 2), (None, 0, 1)]
)
def test_retries_are_counted_exactly(client, function_retries, run_retries, attempts):
    with pytest.raises(FunctionFailedError) as caught:
        handoff.execute(
            dag_of(Function("f", fail, max_retries=function_retries)), client, max_retries=run_retries
        )
    error = caught.value
    assert [a.number for a in error.attempts] == list(range(1, attempts + 1))
    assert all(a.outcome == "failed" for a in error.attempts)


def test_three_retries_are_the_default(client):
    with pytest.raises(FunctionFailedError) as caught:
        handoff.execute(dag_of(Function("f", fail)), client)
    assert len(caught.value.attempts) == 4


def test_fields_of_a_failure(client):
    dag = dag_of(
        Function("ok", identity, extra_args=[5]),
        Function("bad", fail, kwargs={}, max_retries=0, extra_args=[KeyError, "lost"]),
        Function("after", identity, args=["bad"]),
        id="failing",
    )
    with pytest.raises(
        FunctionFailedError, match=r"function 'bad' of DAG 'failing' failed after 1 attempt"
    ) as caught:
        handoff.execute(dag, client, fail_fast=False)
    error = caught.value
    assert (error.function_id, error.dag_id) == ("bad", "failing")
    assert isinstance(error.__cause__, KeyError)
    assert error.__cause__.args == ("lost",)
    (attempt,) = error.attempts
    assert attempt.node in ("node1", "node2")
    assert attempt.started <= attempt.stopped
    assert error.run.id == error.run_id
    assert error.run.status == "failed"
    assert dict(error.run.results) == {"ok": 5}
    assert {id: r.status for id, r in error.run.records.items()} == {
        "ok": "finished",
        "bad": "failed",
        "after": "skipped",
    }
    assert error.run.futures["bad"].status == "error"
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.args, str(copy)) == (error.args, str(error))
    assert isinstance(copy.__cause__, KeyError)


def fail_beside(name):
    """Fail once another function waits at the gate."""
    GATES[name].await_inside(1)
    fail()


def test_fail_fast_starts_no_more_functions(client):
    door = gate("fast")
    dag = dag_of(
        Function("bad", fail_beside, extra_args=["fast"], max_retries=0, node="node1"),
        Function("held", pass_gate, extra_args=["fast", 1], cost={"cpu": 2}, node="node2"),
        *[Function(i, identity, args=["held"], cost={"cpu": 2}) for i in range(3)],
    )
    run = handoff.submit(dag, client)
    with pytest.raises(FunctionFailedError):
        run.result(timeout=20)  # although "held" still runs
    door.open()
    until(lambda: run.records["held"].status == "finished")
    assert run.results["held"] == 1
    assert {run.records[i].status for i in range(3)} == {"cancelled"}


def test_without_fail_fast_independent_branches_finish(client):
    dag = dag_of(
        Function("bad", fail, max_retries=0),
        Function("b1", identity, args=["bad"]),
        Function("good", identity, extra_args=[1]),
        Function("g1", add, args=["good"], extra_args=[1]),
    )
    with pytest.raises(FunctionFailedError) as caught:
        handoff.execute(dag, client, fail_fast=False)
    assert caught.value.run.results.gather() == {"good": 1, "g1": 2}
    assert caught.value.others == ()


def fail_with(error, door=None):
    """Raise an error. In the second attempt, open a gate first."""
    if door is not None and handoff.current().attempt == 2:
        GATES[door].open()
    raise error


@pytest.mark.parametrize(
    "execute", [handoff.execute, lambda dag, client, **o: handoff.execute_local(dag, **o)]
)
def test_without_fail_fast_all_failures_are_reported(client, execute):
    gate("failures")
    dag = dag_of(
        Function("first", fail_with, extra_args=[KeyError("one"), "failures"], max_retries=1),
        Function("then", identity, args=["first"]),
        Function("good", pass_gate, extra_args=["failures"]),
        Function("second", lambda _: fail_with(ValueError("two")), args=["good"], max_retries=0),
    )
    with pytest.raises(FunctionFailedError) as caught:
        execute(dag, client, fail_fast=False)
    error = caught.value
    assert all(f.run is error.run for f in error.failures)
    failures = {f.function_id: f for f in error.failures}  # the order is arbitrary
    first, second = failures.pop("first"), failures.pop("second")
    assert not failures
    assert (len(first.attempts), len(second.attempts)) == (2, 1)
    assert (type(first.__cause__), type(second.__cause__)) == (KeyError, ValueError)
    nodes = {a.node for a in first.attempts}
    same = "same error on 2 nodes: not the nodes' fault" if len(nodes) == 2 else "same error each time"
    lines = {
        "first": f"function 'first' after 2 attempts ({same}): KeyError('one')",
        "second": f"function 'second' after 1 attempt, on {second.attempts[0].node!r}: ValueError('two')",
    }
    listed = [f"\n  - {lines[f.function_id]}" for f in error.failures]
    assert str(error) == "2 functions of DAG 'test' failed:" + "".join(listed)
    copy = pickle.loads(pickle.dumps(error))
    assert [type(f.__cause__) for f in copy.failures] == [type(f.__cause__) for f in error.failures]
    assert str(copy) == str(error)


def test_a_function_that_no_longer_fits_anywhere_is_among_the_failures(client, cluster, monkeypatch):
    """The first failure determines the type of the error."""
    door = gate("shrinks")
    dag = dag_of(
        Function("bad", fail_with, extra_args=[KeyError("one")], max_retries=0),
        Function("held", pass_gate, extra_args=["shrinks"], cost={"cpu": 1}),
        Function("large", identity, args=["held"], cost={"gpu": 1}),
    )
    run = handoff.submit(dag, client, fail_fast=False)
    door.await_inside(1)
    until(lambda: run.records["bad"].status == "failed")
    monkeypatch.setattr(plugin_of(cluster).state.placement.infeasible, "timeout", 0.1)
    handoff.register_node("node1", {"gpu": 0}, client)
    try:
        door.open()
        with pytest.raises(FunctionFailedError) as caught:
            run.result(timeout=20)
    finally:
        handoff.register_node("node1", {"gpu": 1}, client)
    assert [f.function_id for f in caught.value.failures] == ["bad", "large"]
    assert "function 'large': AllocationError(" in str(caught.value)


@pytest.mark.parametrize("error", [Unpicklable, SystemExit, KeyboardInterrupt])
def test_unpicklable_errors_and_exits_are_failures_too(client, error):
    with pytest.raises(FunctionFailedError) as caught:
        handoff.execute(dag_of(Function("f", fail, extra_args=[error])), client, max_retries=0)
    assert caught.value.function_id == "f"
    assert error.__name__ in caught.value.attempts[0].error
    assert handoff.execute(dag_of(Function("f", identity, extra_args=[1])), client)["f"] == 1


def test_code_that_cannot_be_imported_is_a_failure(client):
    with pytest.raises(FunctionFailedError) as caught:
        handoff.execute(dag_of(Function("f", "no_such_module:f")), client, max_retries=1)
    assert len(caught.value.attempts) == 1
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_only_errors_in_retry_on_are_retried(client):
    CALLS.clear()
    policy = RetryPolicy(max_retries=5, retry_on=(OSError, KeyError))
    with pytest.raises(FunctionFailedError) as caught:
        handoff.execute(dag_of(Function("f", fail, extra_args=[ValueError])), client, retry=policy)
    assert len(caught.value.attempts) == 1
    result = handoff.execute(dag_of(Function("f", attempt_until, extra_args=["os", 3])), client, retry=policy)
    assert len(result.records["f"].attempts) == 3


def test_a_delayed_retry_holds_no_resources(client):
    policy = RetryPolicy(max_retries=2, delay=3600, max_delay=3600)
    run = handoff.submit(dag_of(Function("f", fail, cost={"gpu": 1}, retry=policy)), client)
    until(lambda: run.records["f"].status == "delayed")
    assert handoff.resources_available("node1", {"gpu": 1}, client)
    run.cancel()


def test_retries_are_delayed_for_longer_and_longer(client):
    CALLS.clear()
    policy = RetryPolicy(max_retries=2, delay=0.15, backoff=2)
    f = Function("f", attempt_until, extra_args=["late", 3], retry=policy)
    attempts = handoff.execute(dag_of(f), client).records["f"].attempts
    assert attempts[1].started - attempts[0].stopped >= 0.15
    assert attempts[2].started - attempts[1].stopped >= 0.30


def test_a_pinned_function_is_retried_on_its_pin(client):
    CALLS.clear()
    result = handoff.execute(
        dag_of(Function("f", attempt_until, extra_args=["pinned", 3], node="node2")), client
    )
    assert {a.node for a in result.records["f"].attempts} == {"node2"}


def inline_fail(x):
    raise ValueError("inside")


def test_a_failing_inline_function_is_reported_under_its_dependent(client):
    dag = dag_of(
        Function("source", identity, extra_args=[1]),
        Function("inline", inline_fail, args=["source"], type="inline"),
        Function("user", identity, args=["inline"], max_retries=0),
    )
    with pytest.raises(FunctionFailedError) as caught:
        handoff.execute(dag, client)
    assert caught.value.function_id == "user"
    assert "inline_fail" in caught.value.attempts[0].traceback


# ---------------------------------------------------------------------- functions that fit nowhere


def test_a_cost_that_no_node_covers_is_rejected_before_anything_runs(client):
    ran = gate("never")
    dag = dag_of(
        Function("fits", pass_gate, extra_args=["never"]),
        Function("big", identity, extra_args=[1], cost={"cpu": 3, "memory": 5000, "gpu": 2}),
        Function("huge", identity, extra_args=[1], cost={"licence": 1}),
        id="greedy",
    )
    with pytest.raises(AllocationError) as caught:
        handoff.execute(dag, client)
    error = caught.value
    big, huge = error.shortfalls
    assert (big.function_ids, big.nearest) == (("big",), "node1")
    assert big.asked == {"cpu": 3, "memory": 5000, "gpu": 2}
    assert big.offered == {"cpu": 4, "memory": 8192, "gpu": 1}
    assert huge.function_ids == ("huge",)
    text = str(error)
    for part in ("'greedy'", "'big'", "gpu 2", "'node1'", "gpu 1", "licence 1", "wait_for_nodes"):
        assert part in text
    assert ran.entered == 0
    assert error.run.status == "failed"
    assert str(pickle.loads(pickle.dumps(error))) == text


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (Function("f", fail, node="node9"), r"pinned to 'node9', but the nodes are 'node1', 'node2'"),
        (
            Function("f", fail, node=["node2"], cost={"gpu": 1}),
            r"no node it is pinned to has 'gpu' \(available: cpu, memory\)",
        ),
        (Function("f", fail, cost={"db": 9}), r"too large for the run's limits \(db 2\)"),
    ],
)
def test_other_reasons_for_an_allocation_error(client, function, text):
    with pytest.raises(AllocationError, match=text):
        handoff.execute(dag_of(function), client, limits={"db": 2})


def test_a_collocation_group_needs_a_node_where_each_member_alone_fits(client):
    dag = dag_of(
        Function("gpu", identity, extra_args=[1], cost={"gpu": 1}),
        Function("here", identity, args=["gpu"], node=Collocated("gpu"), cost={"memory": 8000}),
    )
    assert set(handoff.execute(dag, client).allocations.values()) == {"node1"}
    dag.add_function(Function("too", identity, extra_args=[1], node=Collocated("gpu"), cost={"memory": 9000}))
    with pytest.raises(AllocationError) as caught:
        handoff.execute(dag, client)
    (shortfall,) = caught.value.shortfalls
    assert set(shortfall.function_ids) == {"gpu", "here", "too"}
    assert shortfall.asked == {"gpu": 1, "memory": 9000}


def test_pinned_functions_that_do_not_fit_together_take_turns(client):
    door = gate("turns")
    dag = dag_of(
        *[Function(i, pass_gate, extra_args=["turns"], cost={"cpu": 2}, node="node2") for i in range(3)]
    )
    run = handoff.submit(dag, client)
    door.await_inside(1)
    door.open()
    assert set(run.result().allocations.values()) == {"node2"}
    assert door.most == 1


# ---------------------------------------------------------------------- timeouts and cancellation


def test_execute_cancels_a_run_after_its_timeout(client):
    door = gate("slow")
    dag = dag_of(
        Function("quick", identity, extra_args=[1]),
        Function("slow", pass_gate, extra_args=["slow"]),
        Function("after", identity, args=["slow"]),
    )
    with pytest.raises(RunTimeoutError, match=r"its timeout of 2 s with 1 of 3 functions finished") as caught:
        handoff.execute(dag, client, timeout=2)  # long enough for the first function on any machine
    door.open()
    error = caught.value
    assert isinstance(error, TimeoutError)
    assert (error.timeout, error.finished, error.total) == (2, 1, 3)
    assert error.run.status == "cancelled"


def test_after_cancel_running_functions_hold_their_allocation_until_they_end(client):
    door = gate("cancel")
    dag = dag_of(
        Function("running", pass_gate, extra_args=["cancel"], cost={"gpu": 1}),
        Function("waiting", identity, extra_args=[1], cost={"gpu": 1}),
        Function("after", identity, args=["running"]),
    )
    run = handoff.submit(dag, client)
    door.await_inside(1)
    assert run.cancel()
    assert run.done()
    assert run.status == "cancelled"
    assert not run.cancel()
    assert not handoff.resources_available("node1", {"gpu": 1}, client)
    statuses = {id: r.status for id, r in run.records.items()}
    assert statuses == {"running": "running", "waiting": "cancelled", "after": "cancelled"}
    with pytest.raises(RunCancelledError) as caught:
        run.result()
    assert caught.value.run is run
    door.open()
    until(lambda: handoff.resources_available("node1", {"gpu": 1}, client))
    until(lambda: all(f.cancelled() for f in run.futures.values()))


@pytest.mark.skipif(sys.platform == "win32", reason="signals go to the main thread on POSIX only")
def test_an_interrupt_of_execute_cancels_the_run(client, cluster):
    door = gate("interrupt")
    dag = dag_of(Function("f", pass_gate, extra_args=["interrupt"]), Function("g", identity, args=["f"]))

    def interrupt():
        door.await_inside(1)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        handoff.execute(dag, client)
    thread.join()
    door.open()


def test_an_error_in_the_core_fails_the_run(client, cluster, monkeypatch):
    handoff.discover_nodes(client)
    state = cluster.scheduler.plugins["handoff"].state

    def broken(f, now):
        raise RuntimeError("a bug")

    monkeypatch.setattr(state, "ready", broken)
    with pytest.raises(RunError, match="a bug"):
        handoff.execute(dag_of(Function("f", identity, extra_args=[1])), client, timeout=20)
    monkeypatch.undo()
    assert handoff.execute(dag_of(Function("f", identity, extra_args=[1])), client)["f"] == 1


# ---------------------------------------------------------------------- errors before anything runs


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"max_retries": -1}, ValueError, "max_retries must not be negative"),
        ({"max_retries": 1.5}, TypeError, "max_retries must be a whole number"),
        ({"retry": 3}, TypeError, "retry must be a RetryPolicy"),
        ({"max_concurrency": 0}, ValueError, "max_concurrency must be a whole number of at least 1"),
        ({"limits": {"db": -1}}, ValueError, "limits: db must not be negative"),
        ({"limits": [1]}, TypeError, "limits must be a mapping"),
        ({"limits": {"max_concurrency": 1}}, ValueError, "a limit cannot be named 'max_concurrency'"),
        ({"allocation_strategy": "worst"}, ValueError, "allocation_strategy must be one of"),
        ({"keep": "some"}, ValueError, 'keep must be "all", "sinks" or a list'),
        ({"keep": 7}, TypeError, "keep must be"),
        ({"keep": ["nothing"]}, ValueError, "has no function 'nothing'"),
        ({"keep": [[1]]}, ValueError, r"has no function \[1\]"),
        ({"fail_fast": 1}, TypeError, "fail_fast must be True or False"),
        ({"priority": "high"}, TypeError, "priority must be a number"),
        ({"timeout": -1}, ValueError, "timeout must not be negative"),
        ({"timeout": "soon"}, ValueError, "timeout must be a number"),
        ({"wait_for_nodes": float("nan")}, ValueError, "wait_for_nodes must be finite"),
    ],
)
def test_invalid_options_are_named(client, options, error, text):
    with pytest.raises(error, match=text):
        handoff.execute(dag_of(Function("f", identity, extra_args=[1])), client, **options)


@pytest.mark.parametrize("bad", [42, object(), 3.5, ["tcp://x"]])
def test_an_invalid_client_is_named(bad):
    with pytest.raises(TypeError, match=r"client must be a distributed.Client, a cluster, the address"):
        handoff.execute(dag_of(Function("f", identity, extra_args=[1])), bad)


@pytest.mark.parametrize("address", ["nonsense", "tcp://192.0.2.1", "carrier-pigeon://192.0.2.1:8786", ":x"])
def test_an_invalid_address_is_named(address):
    before = set(Client._instances)
    with pytest.raises(ValueError, match=f"client: {address!r} is not the address of a scheduler"):
        handoff.execute(dag_of(Function("f", identity, extra_args=[1])), address)
    assert set(Client._instances) <= before, "no half-created client is left"


def test_unpicklable_ids_are_named(client):
    with pytest.raises(handoff.SerializationError, match="the id of the DAG cannot be pickled"):
        handoff.execute(dag_of(Function("f", identity, extra_args=[1]), id=threading.Lock()), client)
    with pytest.raises(handoff.SerializationError, match="id cannot be pickled"):
        handoff.execute(dag_of(Function(threading.Lock(), identity, extra_args=[1])), client)


def test_a_value_that_is_not_a_dag_is_named(client):
    with pytest.raises(TypeError, match=r"dag must be a handoff_dask.DAG, not \{\}"):
        handoff.execute({}, client)


def test_an_invalid_dag_reaches_no_cluster(client, cluster):
    before = cluster.scheduler.transition_counter
    dag = dag_of(Function("a", identity, args=["b"]), Function("b", identity, args=["a"]))
    with pytest.raises(handoff.CyclicDependencyError):
        handoff.execute(dag, client)
    assert cluster.scheduler.transition_counter == before


def test_unpicklable_code_and_arguments_are_named(client, caplog):
    lock = threading.Lock()
    with pytest.raises(handoff.SerializationError, match=r"function 'f': code cannot be pickled"):
        handoff.execute(dag_of(Function("f", lambda: lock)), client)
    with pytest.raises(
        handoff.SerializationError, match=r"'g': extra_args\[1\] cannot .*create it in the fun"
    ):
        handoff.execute(dag_of(Function("g", print, extra_args=[1, lock])), client)
    with pytest.raises(handoff.SerializationError, match=r"'g': extra_kwargs\['sep'\] cannot be pickled"):
        handoff.execute(dag_of(Function("g", print, extra_args=[1], extra_kwargs={"sep": lock})), client)
    assert not caplog.records, "the error says it; Dask's log would repeat it with tracebacks"


def test_input_functions_are_rejected(client):
    dag = dag_of(Function("in", type="input"), Function("f", identity, args=["in"]))
    dag.validate()
    with pytest.raises(handoff.InvalidFunctionError, match="'in' is an input function"):
        handoff.execute(dag, client)


def test_a_closed_client_is_refused(cluster):
    client = Client(cluster, set_as_default=False)
    client.close()
    with pytest.raises(handoff.ClusterNotReadyError, match="is closed"):
        handoff.execute(DAG("x"), client)


def test_durations_of_records_cover_the_code(client):
    result = handoff.execute(dag_of(Function("f", time.sleep, extra_args=[0.05])), client)
    assert 0.05 <= result.records["f"].duration < 5


def test_partial_results_survive_a_client_created_for_the_call(cluster):
    dag = dag_of(Function("ok", identity, extra_args=[5]), Function("bad", fail, args=[], max_retries=0))
    with pytest.raises(FunctionFailedError) as caught:
        handoff.execute(dag, cluster, fail_fast=False)
    assert dict(caught.value.run.results) == {"ok": 5}
    assert "ok" in caught.value.run.results


def fail_after_gate(name):
    pass_gate(name)
    raise OSError("late")


def test_a_failure_after_cancellation_does_not_change_the_error(client):
    door = gate("late")
    run = handoff.submit(dag_of(Function("f", fail_after_gate, extra_args=["late"])), client)
    door.await_inside(1)
    run.cancel()
    door.open()
    until(lambda: run.records["f"].status == "failed")
    with pytest.raises(RunCancelledError):
        run.result()


def test_an_id_may_be_nan(client):
    nan = float("nan")
    dag = dag_of(Function(nan, identity, extra_args=[1], cost={"fpga": 1}))
    with pytest.raises(AllocationError) as caught:
        handoff.execute(dag, client)
    assert repr(caught.value.shortfalls[0].function_ids) == "(nan,)"
    assert handoff.execute(dag_of(Function(nan, identity, extra_args=[1])), client).results == {nan: 1}


@pytest.mark.parametrize("keep", ["all", "sinks", [3]])
def test_all_transitive_dependents_of_a_failed_function_are_skipped(client, keep):
    """Dask itself does not report unwanted tasks whose dependents have all failed."""
    dependencies = {1: [0], 2: [1], 3: [2], 4: [0, 1], 5: [0, 4]}
    dag = dag_of(Function(0, fail), *[Function(n, add, args=args) for n, args in dependencies.items()])
    run = handoff.submit(dag, client, max_retries=0, fail_fast=False, keep=keep)
    with pytest.raises(FunctionFailedError) as caught:
        run.result(20)
    assert caught.value.function_id == 0
    assert [record.status for record in run.records.values()] == ["failed", *["skipped"] * 5]
