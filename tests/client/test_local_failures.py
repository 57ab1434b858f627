"""Retries and failures of ``execute_local``."""

import subprocess
import sys
import threading
from itertools import pairwise

import pytest
from helpers import add, dag_of, identity

from handoff_dask import (
    DAG,
    Function,
    FunctionFailedError,
    RetryPolicy,
    RunTimeoutError,
    current,
    execute_local,
)

sequential_and_threaded = pytest.mark.parametrize("max_concurrency", [1, 3])


class Flaky:
    """Fails the first ``failures`` times, each time with a different error."""

    def __init__(self, failures, kind=OSError):
        self.failures, self.kind = failures, kind
        self.calls = 0

    def __call__(self, *args):
        self.calls += 1
        if self.calls <= self.failures:
            raise self.kind(f"number {self.calls}")
        return self.calls


ALWAYS = 10**9


@pytest.mark.parametrize(
    ("function", "run", "calls"),
    [
        ({}, {}, 4),  # the default is 3 retries
        ({}, {"max_retries": 2}, 3),
        ({}, {"max_retries": 0}, 1),
        ({"max_retries": 2}, {}, 3),
        ({"max_retries": 0}, {"max_retries": 5}, 1),
        ({"max_retries": 2}, {"retry": RetryPolicy(max_retries=7)}, 3),
        ({"retry": RetryPolicy(max_retries=1)}, {"max_retries": 5}, 2),
        ({"retry": RetryPolicy(max_retries=1)}, {"retry": RetryPolicy(max_retries=5)}, 2),
        ({"retry": RetryPolicy(max_retries=1), "max_retries": 2}, {}, 3),
        ({}, {"retry": RetryPolicy(max_retries=1)}, 2),
        ({}, {"retry": RetryPolicy(retry_on=KeyError)}, 1),
        ({}, {"retry": RetryPolicy(retry_on=(KeyError, EnvironmentError), max_retries=1)}, 2),
        ({"retry": RetryPolicy(retry_on=())}, {}, 1),
    ],
)
@sequential_and_threaded
def test_number_of_attempts(max_concurrency, function, run, calls):
    code = Flaky(ALWAYS)
    with pytest.raises(FunctionFailedError) as caught:
        execute_local(dag_of(Function("f", code, **function)), max_concurrency=max_concurrency, **run)
    assert code.calls == calls
    assert len(caught.value.attempts) == calls
    assert str(caught.value.__cause__) == f"number {calls}"


@sequential_and_threaded
def test_success_after_failures(max_concurrency):
    dag = dag_of(Function("f", Flaky(2)), Function("g", identity, args=["f"]))
    result = execute_local(dag, max_concurrency=max_concurrency)
    assert result.results == {"f": 3, "g": 3}
    record = result.records["f"]
    assert record.status == "finished"
    assert [(a.number, a.outcome, a.error) for a in record.attempts] == [
        (1, "failed", "OSError('number 1')"),
        (2, "failed", "OSError('number 2')"),
        (3, "finished", None),
    ]
    times = [t for a in record.attempts for t in (a.started, a.stopped)]
    assert times == sorted(times)
    assert len(result.records["g"].attempts) == 1


@sequential_and_threaded
def test_current_gives_the_attempt_number(max_concurrency):
    seen = []

    def code():
        seen.append(current().attempt)
        if len(seen) < 3:
            raise OSError

    execute_local(dag_of(Function("f", code)), max_concurrency=max_concurrency)
    assert seen == [1, 2, 3]


@sequential_and_threaded
def test_fields_of_the_error(max_concurrency):
    code = Flaky(ALWAYS)
    dag = dag_of(
        Function("a", int, extra_args=[7]),
        Function("f", code, args=["a"], cost={"cpu": 2}),
        Function("g", identity, args=["f"]),
        id="mine",
    )
    with pytest.raises(FunctionFailedError, match="'f' of DAG 'mine' failed after 2 attempts") as caught:
        execute_local(dag, max_retries=1, max_concurrency=max_concurrency)
    error = caught.value
    assert (error.dag_id, error.function_id) == ("mine", "f")
    first, second = error.attempts
    assert (first.number, first.node, first.outcome, first.error) == (
        1,
        "local",
        "failed",
        "OSError('number 1')",
    )
    assert second.error == "OSError('number 2')"
    assert "__call__" in second.traceback
    assert first.started <= first.stopped <= second.started <= second.stopped
    run = error.run
    assert (run.id, run.dag, run.status) == (error.run_id, dag, "failed")
    assert run.results == {"a": 7}
    assert run.allocations == {"a": "local"}
    assert {id: record.status for id, record in run.records.items()} == {"a": "finished", "f": "failed"}
    assert run.records["f"].attempts == error.attempts
    assert run.records["f"].cost == {"cpu": 2}


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, type("Own", (BaseException,), {})])
@sequential_and_threaded
def test_base_exceptions_fail_the_function_and_are_not_retried(max_concurrency, kind):
    code = Flaky(ALWAYS, kind)
    with pytest.raises(FunctionFailedError) as caught:
        execute_local(dag_of(Function("f", code)), max_concurrency=max_concurrency)
    assert type(caught.value.__cause__) is kind
    assert code.calls == 1


@sequential_and_threaded
def test_keyboard_interrupt(max_concurrency):
    """Ctrl-C interrupts the run; it is not a failure of the function that it happens to hit."""
    code = Flaky(ALWAYS, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        execute_local(dag_of(Function("f", code)), max_concurrency=max_concurrency)
    assert code.calls == 1


@sequential_and_threaded
def test_waits_between_attempts(max_concurrency):
    """Waits last at least as long as the policy says, and grow up to ``max_delay``."""
    policy = RetryPolicy(max_retries=4, delay=0.01, backoff=2, max_delay=0.03)
    with pytest.raises(FunctionFailedError) as caught:
        execute_local(dag_of(Function("f", Flaky(ALWAYS))), retry=policy, max_concurrency=max_concurrency)
    attempts = caught.value.attempts
    waited = [later.started - earlier.stopped for earlier, later in pairwise(attempts)]
    assert len(waited) == 4
    for n, seconds in enumerate(waited, 1):
        assert seconds > policy.wait(n, 0.0) - 0.001  # tolerates a small difference between the clocks


def branches():
    """Build a DAG with a failing function, its dependents, and an independent branch."""
    fail, called = Flaky(ALWAYS), []

    def note(id):
        called.append(id)
        return id

    dag = dag_of(
        Function("bad", fail),
        Function("after_bad", lambda bad: note("after_bad"), args=["bad"]),
        Function("deep", lambda *_: note("deep"), args=["after_bad", "good"]),
        Function("good", lambda: note("good")),
        Function("after_good", lambda good: note("after_good"), args=["good"]),
    )
    return dag, called


@sequential_and_threaded
def test_without_fail_fast_independent_branches_finish(max_concurrency):
    dag, called = branches()
    with pytest.raises(FunctionFailedError) as caught:
        execute_local(dag, max_retries=0, fail_fast=False, max_concurrency=max_concurrency)
    assert caught.value.function_id == "bad"
    assert sorted(called) == ["after_good", "good"]
    assert caught.value.run.results == {"good": "good", "after_good": "after_good"}


def test_with_fail_fast_no_more_functions_start():
    dag, called = branches()
    with pytest.raises(FunctionFailedError) as caught:
        execute_local(dag, max_retries=0, max_concurrency=1)
    assert caught.value.function_id == "bad"
    assert called == []


def test_with_fail_fast_running_functions_may_finish():
    """``slow`` finishes after the run has failed: its result is kept, but its dependents do not start.

    It waits for the thread of the failed function to end, which happens when the pool shuts down.
    """
    failing, called = [], []
    both_run = threading.Barrier(2, timeout=30)

    def fail():
        failing.append(threading.current_thread())
        both_run.wait()
        raise OSError("broken")

    def slow():
        both_run.wait()
        failing[0].join(30)
        assert not failing[0].is_alive()
        return "done"

    dag = dag_of(
        Function("fail", fail),
        Function("slow", slow),
        *(Function(n, called.append, args=["slow"]) for n in range(3)),
    )
    with pytest.raises(FunctionFailedError) as caught:
        execute_local(dag, max_retries=0, max_concurrency=2)
    assert caught.value.function_id == "fail"
    assert caught.value.run.results == {"slow": "done"}
    assert called == []


def test_with_fail_fast_pending_retries_are_abandoned():
    """The run does not wait for ``flaky``, whose second attempt would start an hour later."""
    first = threading.Event()

    def flaky():
        first.set()
        raise OSError("flaky")

    def fail():
        assert first.wait(30)
        raise KeyError("final")

    dag = dag_of(
        Function("flaky", flaky, retry=RetryPolicy(delay=3600, max_delay=3600)),
        Function("fail", fail, max_retries=0),
    )
    with pytest.raises(FunctionFailedError) as caught:
        execute_local(dag, max_concurrency=2)
    assert caught.value.function_id == "fail"
    assert len(caught.value.run.records["flaky"].attempts) == 1


def test_the_first_of_several_failures_is_reported():
    """The other failures are in the records."""
    dag = dag_of(
        Function("first", Flaky(ALWAYS)),
        Function("second", Flaky(ALWAYS)),
        Function("needs_both", add, args=["first", "second"]),
    )
    with pytest.raises(FunctionFailedError) as caught:
        execute_local(dag, max_retries=1, fail_fast=False, max_concurrency=1)
    assert caught.value.function_id == "first"
    records = caught.value.run.records
    assert {id: (r.status, len(r.attempts)) for id, r in records.items()} == {
        "first": ("failed", 2),
        "second": ("failed", 2),
    }


@pytest.mark.parametrize("threads", [1, 4])
def test_a_timeout_of_zero(threads):
    dag = DAG().add_function(Function("f", "operator:add", extra_args=[1, 1]))
    with pytest.raises(RunTimeoutError) as caught:
        execute_local(dag, timeout=0, max_concurrency=threads)
    assert caught.value.run.done()
    assert caught.value.run.elapsed >= 0
    assert "failed" in repr(caught.value.run)


def test_ctrl_c_waits_for_running_functions_and_starts_no_others(tmp_path):
    script = tmp_path / "interrupted.py"
    script.write_text(
        """
import os, signal, threading, time
import handoff_dask as handoff
from handoff_dask import DAG, Function

done = []
both_nap = threading.Barrier(2, timeout=30)
interrupted = threading.Event()

def interrupt(*arguments):
    interrupted.set()
    signal.default_int_handler(*arguments)

signal.signal(signal.SIGINT, interrupt)

def nap(i):
    both_nap.wait()
    if i == 0:
        os.kill(os.getpid(), signal.SIGINT)
    assert interrupted.wait(30)
    time.sleep(0.6)  # until the run no longer starts functions
    done.append(i)

dag = DAG("naps")
for i in range(8):
    dag.add_function(Function(id=i, code=nap, extra_args=[i]))
try:
    handoff.execute_local(dag, max_concurrency=2)
except KeyboardInterrupt:
    print(sorted(done))
"""
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[0, 1]\n", "")
