"""Functions in their own process end with their run."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
import types
from pathlib import Path

import psutil
import pytest
from client.test_timeouts import ignore_signals, process_id, sleep_holding_the_gil
from distributed import Client
from helpers import dag_of, gate, pass_gate, settle, until

import handoff_dask as handoff
from handoff_dask import Function, FunctionFailedError, RunCancelledError, RunTimeoutError
from handoff_dask._adapter import stopping


def write_pid_and_call(code, path):
    """Write the process id to a file, then call code that never returns."""
    Path(path).write_text(str(process_id()))
    code()


def sleep_long():
    time.sleep(3600)


@pytest.fixture(scope="module")
def processes():
    nodes = {"a": {"cpu": 2, "seat": 1}, "b": {"cpu": 1}}
    with handoff.local_cluster(nodes, processes=True) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def in_process():
    with handoff.local_cluster({"a": {"cpu": 2, "seat": 1}, "b": {"cpu": 1}}) as cluster:
        yield cluster


@pytest.fixture(params=["in_process", pytest.param("processes", marks=pytest.mark.slow)])
def any_cluster(request):
    cluster = request.getfixturevalue(request.param)
    with Client(cluster, set_as_default=False) as observer:
        # Afterwards, the node and an idle process of it have imported this module.
        warm = Function("warm", write_pid_and_call, extra_args=[int, os.devnull], timeout=60, node="a")
        handoff.execute(dag_of(warm), observer)
        cluster.observer = observer
        yield cluster
    if request.param == "in_process":
        settle(cluster)


class Stuck:
    """A function that never returns and takes the only seat."""

    def __init__(self, path, code=sleep_long, **options):
        self.path = path
        self.function = Function(
            "stuck",
            write_pid_and_call,
            extra_args=[code, str(path)],
            timeout=3600,
            cost={"seat": 1},
            max_retries=3,
            **options,
        )

    def await_running(self):
        until(lambda: self.path.exists() and self.path.read_text())
        self.pid = int(self.path.read_text())

    def assert_stopped(self, observer):
        """Check that its seat becomes free long before it would return, and that its process is gone then."""
        until(lambda: handoff.resources_available("a", {"seat": 1}, observer))
        assert not psutil.pid_exists(self.pid)


@pytest.fixture
def stuck(tmp_path):
    return Stuck(tmp_path / "pid")


def assert_recorded(run):
    record = run.records["stuck"]
    assert record.status == "cancelled"
    (attempt,) = record.attempts
    assert (attempt.node, attempt.outcome, attempt.error) == ("a", "cancelled", None)
    assert attempt.started < attempt.stopped


@pytest.mark.parametrize("code", [sleep_long, ignore_signals, sleep_holding_the_gil])
def test_cancel_ends_the_function(any_cluster, tmp_path, code):
    stuck = Stuck(tmp_path / "pid", code)
    dag = dag_of(stuck.function, Function("after", process_id, args=["stuck"]))
    with Client(any_cluster, set_as_default=False) as client:
        run = handoff.submit(dag, client)
        stuck.await_running()
        run.cancel()
        stuck.assert_stopped(any_cluster.observer)
        until(lambda: run.records["stuck"].status == "cancelled")
        assert_recorded(run)
        assert run.records["after"].status == "cancelled"
        until(lambda: run.futures["stuck"].status == "cancelled")
        with pytest.raises(RunCancelledError):
            run.result()
        # The node still works.
        assert handoff.execute(dag_of(Function("f", process_id, timeout=60, cost={"seat": 1})), client)


def test_removing_the_plugin_ends_the_function(tmp_path):
    stuck = Stuck(tmp_path / "pid")
    with (
        handoff.local_cluster({"a": {"seat": 1, "cpu": 1}}) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        run = handoff.submit(dag_of(stuck.function), client)
        stuck.await_running()
        client.unregister_scheduler_plugin("handoff")
        until(lambda: not psutil.pid_exists(stuck.pid))
        assert run.wait(20)


def test_the_timeout_of_the_run_ends_the_function(any_cluster, stuck):
    with pytest.raises(RunTimeoutError) as caught:
        handoff.execute(dag_of(stuck.function), any_cluster.observer, timeout=3)
    stuck.await_running()
    stuck.assert_stopped(any_cluster.observer)
    until(lambda: caught.value.run.records["stuck"].status == "cancelled")
    assert_recorded(caught.value.run)


def fail_once_file_exists(path):
    until(lambda: Path(path).exists())
    raise ValueError("the first")


def test_the_failure_of_another_function_ends_it_and_is_the_only_failure(any_cluster, stuck, tmp_path):
    bad = Function("bad", fail_once_file_exists, extra_args=[str(tmp_path / "now")], max_retries=0)
    run = handoff.submit(dag_of(stuck.function, bad), any_cluster.observer)
    stuck.await_running()
    (tmp_path / "now").touch()
    with pytest.raises(FunctionFailedError) as caught:
        run.result()
    assert caught.value.function_id == "bad"
    assert caught.value.failures == (caught.value,)
    stuck.assert_stopped(any_cluster.observer)
    until(lambda: run.records["stuck"].status == "cancelled")
    assert_recorded(run)


def test_closing_the_client_ends_the_function(any_cluster, stuck):
    with Client(any_cluster, set_as_default=False) as client:
        run = handoff.submit(dag_of(stuck.function), client)
        stuck.await_running()
    stuck.assert_stopped(any_cluster.observer)
    assert run.done()
    until(lambda: handoff.run_records(run.id, any_cluster.observer)["stuck"].status == "cancelled")


def test_ctrl_c_ends_the_function(any_cluster, stuck):
    def raise_interrupt(number, frame):
        raise KeyboardInterrupt

    def interrupt():
        stuck.await_running()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)

    previous = signal.signal(signal.SIGALRM, raise_interrupt)
    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            handoff.execute(dag_of(stuck.function), any_cluster.observer)
    finally:
        interrupting.join()
        signal.signal(signal.SIGALRM, previous)
    stuck.assert_stopped(any_cluster.observer)


def touch(path):
    Path(path).touch()


def test_a_prefetched_function_of_a_cancelled_run_never_starts(in_process, tmp_path):
    """An external task holds the only thread of the node to which the function was already sent."""
    held = gate("thread")
    with Client(in_process, set_as_default=False) as client:
        thread = client.submit(pass_gate, "thread", workers=["b"], pure=False)
        held.await_inside(1)
        f = Function("f", touch, extra_args=[str(tmp_path / "ran")], timeout=60, node="b")
        run = handoff.submit(dag_of(f), client)
        until(lambda: run.records["f"].status == "running")
        run.cancel()
        held.open()
        thread.result()
        until(lambda: run.records["f"].status == "cancelled")
    settle(in_process)
    assert not (tmp_path / "ran").exists()


def test_an_external_task_that_depends_on_it_gets_an_error(in_process, stuck):
    with Client(in_process, set_as_default=False) as client:
        run = handoff.submit(dag_of(stuck.function), client)
        stuck.await_running()
        later = client.submit(str, run.futures["stuck"])
        run.cancel()
        with pytest.raises(handoff.RunEndedError, match="'stuck' will not run: run "):
            later.result(timeout=20)


def test_a_local_run_ends_the_function(tmp_path):
    """If the run fails or exceeds its timeout."""
    stuck = Stuck(tmp_path / "pid")
    warm = Function("warm", write_pid_and_call, extra_args=[int, os.devnull], timeout=60)
    handoff.execute_local(dag_of(warm))  # imports this module in the process that runs the next one
    begin = time.monotonic()
    with pytest.raises(RunTimeoutError):
        handoff.execute_local(dag_of(stuck.function), timeout=3)
    stuck.await_running()
    until(lambda: not psutil.pid_exists(stuck.pid))
    stuck.path.unlink()
    bad = Function("bad", fail_once_file_exists, extra_args=[str(stuck.path)], max_retries=0)
    with pytest.raises(FunctionFailedError) as caught:
        handoff.execute_local(dag_of(stuck.function, bad), max_concurrency=2)
    assert caught.value.function_id == "bad"
    assert time.monotonic() - begin < 60
    assert not psutil.pid_exists(int(stuck.path.read_text()))


@pytest.mark.parametrize("failures", [2, 99])
def test_stop_requests_are_repeated_a_bounded_number_of_times(monkeypatch, failures):
    warnings = []
    monkeypatch.setattr(stopping, "PAUSE", 0)
    monkeypatch.setattr(stopping.logger, "warning", lambda *arguments: warnings.append(arguments))
    requests = []

    async def run(function, kwargs):
        requests.append(kwargs)
        if len(requests) <= failures:
            raise OSError("not now")
        return {"status": "OK"}

    scheduler = types.SimpleNamespace(
        workers={"tcp://a": None}, rpc=lambda address: types.SimpleNamespace(run=run)
    )

    async def stop():
        stopper = stopping.AttemptStopper(scheduler)
        stopper.stop("tcp://a", [("key", 1)])
        stopper.stop("tcp://gone", [("other", 1)])
        await asyncio.gather(*stopper._tasks)

    asyncio.run(stop())
    assert len(requests) == min(failures + 1, stopping.TRIES)
    assert [address for _, address, _ in warnings] == ["tcp://a"] * (failures == 99)
