"""Runs survive a broken connection to the scheduler, and end clearly if the scheduler was restarted."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import dask
import pytest
from distributed import Client, Scheduler, SpecCluster, Worker
from distributed.scheduler import ClientState
from helpers import add, dag_of, gate, identity, pass_gate, plugin_of, settle, until
from proxy import Proxy

import handoff_dask as handoff
from handoff_dask import Function
from handoff_dask._client.connection import is_closed
from handoff_dask._client.progress import wait_with_display
from handoff_dask._display.progress import progress_html, progress_line


@contextmanager
def behind_a_proxy(grace="30s"):
    """A cluster in this process, and a client that reaches its scheduler through a proxy."""
    options = {"protocol": "tcp", "host": "127.0.0.1", "port": 0, "dashboard_address": ":0"}
    worker = {
        "cls": Worker,
        "options": {"nthreads": 2, "resources": {"cpu": 2}, "dashboard": False, "host": "127.0.0.1"},
    }
    with (
        dask.config.set({"handoff.client-grace": grace}),
        SpecCluster(
            workers={"a": worker}, scheduler={"cls": Scheduler, "options": options}, silence_logs=50
        ) as cluster,
    ):
        proxy = Proxy(cluster.scheduler_address)
        try:
            with Client(proxy.address, set_as_default=False, timeout="10s") as client:
                yield cluster, proxy, client
            settle(cluster)
        finally:
            proxy.close()


def chain(door):
    return dag_of(
        Function("before", identity, extra_args=[1], cost={"cpu": 1}),
        Function("during", pass_gate, extra_args=[door, 2], cost={"cpu": 1}),
        Function("after", add, args=["before", "during"], cost={"cpu": 2}),
    )


def reconnected(client, before):
    return lambda: client.status == "running" and client.scheduler_comm is not before


def test_a_run_continues_after_a_cut():
    with behind_a_proxy() as (_, proxy, client):
        door = gate("cut")
        run = handoff.submit(chain("cut"), client)
        door.await_inside(1)
        futures = dict(run.futures)
        before = client.scheduler_comm
        proxy.cut()
        until(reconnected(client, before))
        door.open()
        result = run.result(timeout=20)
        assert result["after"] == 3
        assert [len(record.attempts) for record in result.records.values()] == [1, 1, 1]
        # Futures that the user obtained before the cut still work.
        assert client.gather(futures) == {"before": 1, "during": 2, "after": 3}
        del futures


def test_a_run_that_ends_while_the_connection_is_broken():
    with behind_a_proxy() as (cluster, proxy, client):
        door = gate("ends")
        run = handoff.submit(chain("ends"), client)
        door.await_inside(1)
        proxy.cut(refusing=True)
        until(lambda: client.status == "connecting")
        door.open()
        active = plugin_of(cluster).runs[run.id]
        until(lambda: active.run.ended)
        proxy.mend()
        assert run.result(timeout=20)["after"] == 3


def test_results_of_a_run_that_had_finished_survive():
    with behind_a_proxy() as (_, proxy, client):
        run = handoff.submit(dag_of(Function("x", identity, extra_args=[5])), client)
        assert run.wait(20)
        before = client.scheduler_comm
        proxy.cut()
        until(reconnected(client, before))
        until(lambda: "x" in run.results)
        assert run.results["x"] == 5
        assert run.result(20).results == {"x": 5}


def fail(value):
    raise ValueError("on purpose")


def test_a_failure_while_the_connection_is_broken_is_raised_after_reconnecting():
    with behind_a_proxy() as (cluster, proxy, client):
        door = gate("fails")
        dag = dag_of(
            Function("held", pass_gate, extra_args=["fails"], cost={"cpu": 1}),
            Function("fails", fail, args=["held"], cost={"cpu": 2}),
            Function("waits", identity, args=["fails"], cost={"cpu": 1}),
        )
        run = handoff.submit(dag, client, max_retries=0)
        door.await_inside(1)
        proxy.cut(refusing=True)
        until(lambda: client.status == "connecting")
        door.open()
        active = plugin_of(cluster).runs[run.id]
        until(lambda: active.run.ended)
        # No task stays parked until the client returns.
        until(lambda: not cluster.scheduler.unrunnable)
        proxy.mend()
        with pytest.raises(handoff.FunctionFailedError, match="'fails'") as caught:
            run.result(timeout=20)
        assert isinstance(caught.value.__cause__, ValueError)


def test_requests_wait_for_the_connection():
    with behind_a_proxy() as (_, proxy, client):
        door = gate("requests")
        run = handoff.submit(chain("requests"), client)
        door.await_inside(1)
        proxy.cut(refusing=True)
        until(lambda: client.status == "connecting")
        mending = threading.Timer(0.2, proxy.mend)
        mending.start()
        assert run.records["during"].status == "running"
        assert "before" not in run.explain("after")
        assert run.cancel()
        assert run.status == "cancelled"
        door.open()
        mending.join()


def test_the_grace_period_expires():
    with behind_a_proxy(grace="100ms") as (cluster, proxy, client):
        door = gate("grace")
        run = handoff.submit(chain("grace"), client)
        door.await_inside(1)
        proxy.cut(refusing=True)
        plugin = plugin_of(cluster)
        until(lambda: plugin.runs[run.id].run.ended)
        door.open()
        until(lambda: not plugin.runs)
        until(lambda: [kept.info.error for kept in plugin.archive.runs] == ["its client was lost"])
        assert not cluster.scheduler.unrunnable
        proxy.mend()
        check_lost(run, "handoff.client-grace")


class Recorder:
    """A display that records all updates."""

    def __init__(self):
        self.updates = []

    def update(self, progress):
        self.updates.append(progress)

    def close(self):
        pass


def check_lost(run, text):
    """Check that all attributes and displays of a lost run state why it was lost."""
    display = Recorder()
    assert run._client.sync(wait_with_display, run, 20, display)
    assert text in progress_line(display.updates[-1])
    assert text in progress_html("", display.updates[-1], [])
    with pytest.raises(handoff.RunCancelledError, match=text) as caught:
        run.result(timeout=20)
    assert "checkpoint=" in str(caught.value)
    assert run.done()
    assert run.status == "cancelled"
    assert not run.cancel()
    assert text in run.explain("after")
    assert "cancelled" in repr(run)
    assert text in repr(run)
    assert text in run._repr_html_()
    assert dict(run.results) == {}
    with pytest.raises(KeyError, match=text):
        run.results["before"]
    assert all(future.cancelled() for future in run.futures.values())
    assert isinstance(dict(run.records), dict)


def test_no_grace_period():
    with behind_a_proxy(grace="0s") as (cluster, proxy, client):
        door = gate("none")
        run = handoff.submit(chain("none"), client)
        door.await_inside(1)
        proxy.cut()
        plugin = plugin_of(cluster)
        door.open()
        until(lambda: not plugin.runs)
        check_lost(run, "handoff.client-grace")


def test_a_client_that_gives_up(monkeypatch):
    with behind_a_proxy(grace="1s") as (_, proxy, client):
        door = gate("gives up")
        run = handoff.submit(chain("gives up"), client)
        door.await_inside(1)
        with monkeypatch.context() as patch:
            # Only now: on a busy machine, connecting and closing may take longer.
            patch.setattr(client, "_timeout", 0.2)
            proxy.cut(refusing=True)
            with pytest.raises(handoff.RunCancelledError, match="lost the connection"):
                run.result(timeout=20)
        door.open()
        assert not run.cancel()
        assert "lost the connection" in run.explain("after")


def test_runs_without_a_handle_are_forgotten_when_the_client_reconnects():
    with behind_a_proxy() as (cluster, proxy, client):
        door = gate("released")
        run = handoff.submit(chain("released"), client)
        other = handoff.submit(dag_of(Function("y", identity, extra_args=[1])), client)
        door.await_inside(1)
        proxy.cut(refusing=True)
        until(lambda: client.status == "connecting")
        del run
        proxy.mend()
        door.open()
        assert other.result(20)["y"] == 1
        plugin = plugin_of(cluster)
        until(lambda: list(plugin.runs) == [other.id])


def test_several_cuts():
    with behind_a_proxy() as (_, proxy, client):
        dag = dag_of(*[Function(n, slow, extra_args=[n], cost={"cpu": 1}) for n in range(40)])
        running = [handoff.submit(dag, client) for _ in range(2)]
        for _ in range(4):
            before = client.scheduler_comm
            proxy.cut()
            until(reconnected(client, before))
        for run in running:
            result = run.result(timeout=30)
            assert result.results == {n: n for n in range(40)}


def slow(n):
    time.sleep(0.01)
    return n


def test_an_asynchronous_client():
    with behind_a_proxy() as (_, proxy, _):

        async def main():
            async with Client(proxy.address, asynchronous=True, set_as_default=False) as client:
                door = gate("asynchronous")
                run = handoff.submit(chain("asynchronous"), client)
                while not door.inside:
                    await asyncio.sleep(0.01)
                proxy.cut()
                door.open()
                return (await run)["after"]

        assert asyncio.run(main()) == 3


SCHEDULER = """
import asyncio, sys
from distributed import Scheduler

async def main():
    async with Scheduler(host="127.0.0.1", port=int(sys.argv[1]), dashboard=False) as scheduler:
        print(scheduler.address, flush=True)
        await scheduler.finished()

asyncio.run(main())
"""


def start_scheduler(port):
    process = subprocess.Popen(
        [sys.executable, "-c", SCHEDULER, str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return process, process.stdout.readline().strip()


def test_the_scheduler_is_killed_and_restarted():
    process, address = start_scheduler(0)
    again = None
    try:
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "2"]
        worker += ["--no-dashboard", "--no-nanny", "--death-timeout", "20"]
        nodes = subprocess.Popen(worker, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with Client(address, set_as_default=False, timeout="20s") as client:
            client.wait_for_workers(1, timeout=30)
            run = handoff.submit(
                dag_of(
                    Function("before", abs, extra_args=[1]), Function("after", "time:sleep", extra_args=[60])
                ),
                client,
            )
            until(lambda: run.records["before"].status == "finished")
            process.kill()
            process.wait()
            again, _ = start_scheduler(int(address.rpartition(":")[2]))
            check_lost(run, "restarted")
            assert run.records["before"].status == "finished"
    finally:
        for started in (process, again, nodes):
            if started is not None:
                started.kill()
                started.wait()
                if started.stdout:
                    started.stdout.close()


def test_a_client_that_registers_again_before_the_scheduler_notices_its_broken_connection():
    with behind_a_proxy() as (cluster, _, client):
        run = handoff.submit(dag_of(Function("x", identity, extra_args=[5])), client)
        assert run.result(20)["x"] == 5
        client.sync(register_again, cluster.scheduler, client.id)
        del run  # the cluster settles only if no client wants the task any more


async def register_again(scheduler, client):
    """Register a client as Dask does, which forgets the keys that the client wants."""
    scheduler.clients[client] = ClientState(client)
    scheduler.plugins["handoff"].add_client(scheduler, client)


@pytest.mark.parametrize(
    ("status", "listens", "expected"),
    [
        ("connecting", True, False),
        ("connecting", False, True),
        ("running", True, False),
        ("closed", True, True),
    ],
)
def test_a_client_that_has_stopped_listening_counts_as_closed(status, listens, expected):
    """Dask's client stops listening if the first message that it reads is unexpected."""
    listening = SimpleNamespace(done=lambda: not listens)
    client = SimpleNamespace(status=status, _handle_report_task=listening)
    assert is_closed(client) == expected
