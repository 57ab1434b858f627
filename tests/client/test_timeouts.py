"""A function's timeout ends its attempt, whatever the code does, and its node keeps working."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from helpers import dag_of, on_cluster_and_locally_if_slow, run_locally, run_on_cluster, until

import handoff_dask as handoff
from handoff_dask import (
    Function,
    FunctionCrashedError,
    FunctionFailedError,
    FunctionTimeoutError,
    RetryPolicy,
)


def sleep_long():
    time.sleep(3600)


def sleep_in_c():
    ctypes.CDLL(None).sleep(3600)


def sleep_holding_the_gil():
    ctypes.PyDLL(None).sleep(3600)


def ignore_signals():
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(3600)


def sleep_without_descriptors():
    os.closerange(3, 64)
    time.sleep(3600)


def leave_a_fork_behind():
    if not os.fork():
        os.setsid()
        time.sleep(20)
        os._exit(0)
    time.sleep(3600)


async def sleep_long_in_a_coroutine():
    import asyncio

    await asyncio.sleep(3600)


def process_id(*args):
    return os.getpid()


def with_tests_on_path():
    """Return an environment for programs that import these tests."""
    tests = str(Path(__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])}


@pytest.mark.parametrize(
    ("run", "code"),
    [
        (run_on_cluster, sleep_long),
        (run_locally, sleep_in_c),
        (run_on_cluster, sleep_holding_the_gil),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (run_locally, sleep_long),
                (run_on_cluster, sleep_in_c),
                (run_locally, sleep_holding_the_gil),
                (run_on_cluster, ignore_signals),
                (run_locally, ignore_signals),
                (run_on_cluster, sleep_long_in_a_coroutine),
                (run_locally, sleep_long_in_a_coroutine),
            )
        ),
    ],
)
def test_an_attempt_is_ended_whatever_it_does(client, run, code):
    warm = dag_of(Function("warm", process_id, timeout=60))
    run(warm, client)  # so that starting a process does not count towards the timeout
    dag = dag_of(Function("stuck", code, timeout=0.2, max_retries=1, cost={"cpu": 4}))
    with pytest.raises(FunctionFailedError) as caught:
        run(dag, client)
    error = caught.value
    assert isinstance(error.__cause__, FunctionTimeoutError)
    assert error.__cause__.timeout == 0.2
    assert [a.outcome for a in error.attempts] == ["failed", "failed"]
    assert "exceeded its timeout of 0.2 s and was terminated" in str(error)
    for attempt in error.attempts:
        assert attempt.stopped is not None
        assert attempt.started is not None
        assert attempt.stopped - attempt.started >= 0.2


def test_the_node_runs_the_next_function_after_the_timeout(client):
    """The next function needs the only GPU, which the stuck function holds."""
    dag = dag_of(
        Function("stuck", sleep_long, timeout=0.3, max_retries=0, cost={"gpu": 1}, priority=1),
        Function("next", process_id, cost={"gpu": 1}),
    )
    run = handoff.submit(dag, client, fail_fast=False)
    assert run.wait(60)
    records = run.records
    assert (records["stuck"].status, records["next"].status) == ("failed", "finished")
    assert records["next"].started >= records["stuck"].attempts[0].stopped


@on_cluster_and_locally_if_slow
def test_a_function_that_leaves_a_fork_behind_is_ended_in_time(client, run):
    """The fork does not keep the pipe to the node open."""
    begin = time.monotonic()
    with pytest.raises(FunctionFailedError) as caught:
        run(dag_of(Function("f", leave_a_fork_behind, timeout=0.5, max_retries=0)), client)
    assert isinstance(caught.value.__cause__, FunctionTimeoutError)
    assert time.monotonic() - begin < 15  # the fork lives for 20 s


@on_cluster_and_locally_if_slow
def test_a_function_that_closes_its_pipe_to_the_node_has_crashed(client, run):
    with pytest.raises(FunctionFailedError) as caught:
        run(dag_of(Function("f", sleep_without_descriptors, timeout=60, max_retries=0)), client)
    assert isinstance(caught.value.__cause__, FunctionCrashedError)


class Unloadable:
    """Can be pickled, but not unpickled."""

    def __reduce__(self):
        return open, ("/nonexistent/file",)


@on_cluster_and_locally_if_slow
def test_a_result_that_cannot_be_unpickled_is_a_failure(client, run):
    with pytest.raises(FunctionFailedError) as caught:
        run(dag_of(Function("f", Unloadable, timeout=60, max_retries=1)), client)
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert len(caught.value.attempts) == 2


def run_timed_function_in_fork(path):
    """Run a function with a timeout in a fork, as in a forked process pool."""
    child = os.fork()
    if not child:
        try:
            result = handoff.execute_local(dag_of(Function("f", process_id, timeout=60)))
            Path(path).write_text(str(result["f"]))
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def test_a_fork_starts_its_own_processes(tmp_path):
    program = (
        "from client.test_timeouts import *\n"
        "first = handoff.execute_local(dag_of(Function('f', process_id, timeout=60)))['f']\n"
        f"run_timed_function_in_fork({str(tmp_path / 'pid')!r})\n"
        "print(first, handoff.execute_local(dag_of(Function('f', process_id, timeout=60)))['f'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        env=with_tests_on_path(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    first, last = done.stdout.split()
    assert first == last
    assert (tmp_path / "pid").read_text() not in ("", first)
    assert "ResourceWarning" not in done.stderr


@on_cluster_and_locally_if_slow
def test_a_timeout_is_retried_like_any_failure(client, run):
    # Lambdas are pickled by value: the second attempt need not import this module within its timeout.
    f = Function(
        "f",
        lambda: time.sleep(3600) if handoff.current().attempt == 1 else handoff.current().attempt,
        timeout=4,
        max_retries=1,
    )
    result = run(dag_of(f), client)
    assert result.results == {"f": 2}
    assert [a.outcome for a in result.records["f"].attempts] == ["failed", "finished"]


@on_cluster_and_locally_if_slow
def test_retry_on_may_exclude_timeouts(client, run):
    policy = RetryPolicy(max_retries=3, retry_on=(ValueError,))
    with pytest.raises(FunctionFailedError) as caught:
        run(dag_of(Function("f", sleep_long, timeout=0.2, retry=policy)), client)
    assert len(caught.value.attempts) == 1


def exit_with(status):
    os._exit(status)


def segfault():
    os.kill(os.getpid(), signal.SIGSEGV)


@on_cluster_and_locally_if_slow
@pytest.mark.parametrize(
    ("function", "text"),
    [
        (Function("f", exit_with, extra_args=[3]), "exited with status 3"),
        (Function("f", segfault), "was killed by signal 11 (SIGSEGV)"),
    ],
)
def test_a_crash_fails_only_the_function(client, run, function, text):
    """The node survives."""
    dag = dag_of(
        Function(
            "f", function.code, extra_args=function.extra_args, timeout=60, max_retries=1, node=function.node
        ),
        Function("other", process_id),
    )
    with pytest.raises(FunctionFailedError) as caught:
        run(dag, client, fail_fast=False)
    assert isinstance(caught.value.__cause__, FunctionCrashedError)
    assert text in str(caught.value)
    assert len(caught.value.attempts) == 2
    assert caught.value.run.records["other"].status == "finished"


def add_to(x, y, *, z):
    print("not among the replies")
    sys.stdout.flush()
    os.write(1, b"nor is this\n")
    assert sys.stdin.read() == ""
    return x + y + z


def with_current(x):
    c = handoff.current()
    return x, c.run_id, c.dag_id, c.function_id, c.attempt, c.node, c.cost, c.devices


@on_cluster_and_locally_if_slow
def test_arguments_output_and_current_in_a_process(client, run):
    dag = dag_of(
        Function("array", np.arange, extra_args=[100_000]),
        Function("one", lambda x: x + 1, args=["array"], type="inline"),
        Function("sum", add_to, args=["one", "array"], extra_kwargs={"z": 1}, timeout=60),
        Function("who", with_current, args=["sum"], timeout=60, cost={"cpu": 1, "gpu": 1}),
    )
    result = run(dag, client)
    values, run_id, dag_id, id, attempt, node, cost, devices = result.results["who"]
    np.testing.assert_array_equal(values, 2 * np.arange(100_000) + 2)
    assert values.flags.writeable
    assert (run_id, dag_id, id, attempt) == (result.run_id, "test", "who", 1)
    assert (node, cost) == (result.allocations["who"], {"cpu": 1, "gpu": 1})
    if run is run_on_cluster:
        assert devices == {"gpu": [0]}


class TwoArgumentError(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


def raise_two_argument_error():
    raise TwoArgumentError(1, 2)


def raise_with_a_cause():
    try:
        {}["key"]
    except KeyError as error:
        raise ValueError("no such key") from error


@on_cluster_and_locally_if_slow
def test_the_error_carries_the_exception_and_its_cause(client, run):
    with pytest.raises(FunctionFailedError) as caught:
        run(dag_of(Function("f", raise_with_a_cause, timeout=60, max_retries=0)), client)
    cause = caught.value.__cause__
    assert isinstance(cause, ValueError)
    assert isinstance(cause.__cause__, KeyError)
    assert "raise_with_a_cause" in caught.value.attempts[0].traceback


def raise_system_exit():
    raise SystemExit(4)


@on_cluster_and_locally_if_slow
@pytest.mark.parametrize("code", [raise_two_argument_error, raise_system_exit, lambda: (i for i in range(3))])
def test_unpicklable_exceptions_and_results_are_failures(client, run, code):
    with pytest.raises(FunctionFailedError) as caught:
        run(dag_of(Function("f", code, timeout=60, max_retries=0)), client)
    assert len(caught.value.attempts) == 1


@on_cluster_and_locally_if_slow
def test_processes_are_reused(client, run):
    dag = dag_of(*(Function(i, process_id, args=[i - 1] if i else [], timeout=60) for i in range(5)))
    assert len(set(run(dag, client).results.values())) == 1


@on_cluster_and_locally_if_slow
def test_an_idle_process_that_died_is_reaped_with_its_threads(client, run):
    """Immediately, not only when the next function needs a process."""
    pid = run(dag_of(Function("f", process_id, timeout=60)), client).results["f"]
    assert threads_of(pid)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(pid))
    until(lambda: not threads_of(pid))
    assert run(dag_of(Function("f", process_id, timeout=60)), client).results["f"] != pid


def threads_of(pid):
    return [t for t in threading.enumerate() if re.fullmatch(rf"handoff-child_.*-{pid}", t.name)]


def start_another_process(path):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    Path(path).write_text(str(child.pid))
    child.wait()


def test_processes_started_by_the_function_end_with_it(client, tmp_path):
    path = tmp_path / "pid"
    # Afterwards, a process that has imported this module is idle: the import takes none of the timeout.
    handoff.execute(dag_of(Function("warm", process_id, timeout=60)), client)
    f = Function("f", start_another_process, extra_args=[str(path)], timeout=4, max_retries=0)
    with pytest.raises(FunctionFailedError):
        handoff.execute(dag_of(f), client)
    pid = int(path.read_text())
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def write_pid_and_hold_the_gil(path):
    Path(path).write_text(str(os.getpid()))
    sleep_holding_the_gil()


def test_no_process_outlives_a_killed_node(tmp_path):
    """Not even code that holds the GIL, so that no thread of its own process could end it."""
    path = tmp_path / "pid"
    program = tmp_path / "program.py"
    program.write_text(
        "import handoff_dask as handoff\n"
        "from client.test_timeouts import write_pid_and_hold_the_gil\n"
        f"f = handoff.Function('f', write_pid_and_hold_the_gil, extra_args=[{str(path)!r}], timeout=3600)\n"
        "dag = handoff.DAG('d')\n"
        "dag.add_function(f)\n"
        "handoff.execute_local(dag)\n"
    )
    with subprocess.Popen([sys.executable, str(program)], env=with_tests_on_path()) as process:
        until(lambda: path.exists() and path.read_text(), 60)
        process.kill()
    pid = int(path.read_text())
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
