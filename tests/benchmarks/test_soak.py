"""Runs leave nothing behind: sizes on the scheduler and in the client return to their old values."""

from __future__ import annotations

import logging

import dask
import pytest
import soak
from distributed import Client
from helpers import settle, until

import handoff_dask as handoff
from handoff_dask import FunctionFailedError, RunCancelledError
from handoff_dask._client.connection import connection_of

NODES = {"node1": {"cpu": 4, "memory": 8192, "gpu": 1}, "node2": {"cpu": 2, "memory": 4096}}


@pytest.fixture(autouse=True)
def _disable_logging():
    """pytest keeps log records, and with their tracebacks everything that the frames hold."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def cluster():
    with (
        dask.config.set({**soak.WITHOUT_LOGS, "distributed.scheduler.events-cleanup-delay": "0s"}),
        handoff.local_cluster(NODES) as cluster,
    ):
        yield cluster


def sizes(cluster, client):
    """Measure the sizes on the scheduler and in the client."""
    soak.flush(client)
    settle(cluster)
    until(lambda: soak.is_idle(cluster.scheduler))
    found = soak.measure_sizes(cluster.scheduler)
    # The code that is short at the moment, which depends on the speed of the machine; there are few codes.
    found.pop("plugin.state.placement.estimates._short")
    # Code that took long enough to tell the speed of a node, which depends on the machine, too.
    speeds = "plugin.state.placement.estimates.speeds."
    found = {name: n for name, n in found.items() if not name.startswith(speeds) and name != "objects: _Sums"}
    found["client.futures"] = len(client.futures)
    found["client.refcount"] = len(client.refcount)
    found["client.stream_handlers"] = len(client._stream_handlers)
    found["listening"] = len(connection_of(client).runs)
    return found


@pytest.mark.slow
def test_sequential_and_concurrent_runs_leave_nothing(cluster):
    with Client(cluster, set_as_default=False) as client:
        soak.run_sequentially(client, range(10))
        soak.run_concurrently(client, range(5))
        before = sizes(cluster, client)
        assert before["listening"] == 0
        soak.run_sequentially(client, range(30))
        soak.run_concurrently(client, range(5))
        assert soak.settled_differences(lambda: sizes(cluster, client), before) == {}


def fail():
    raise ValueError("always")


@pytest.mark.slow
def test_failed_and_cancelled_runs_leave_nothing(cluster):
    def execute(client, number):
        dag = soak.dag_of(number, 8)
        dag.add_function(handoff.Function("bad", fail, max_retries=1, priority=number % 3 - 1))
        with pytest.raises(FunctionFailedError):
            handoff.execute(dag, client, fail_fast=bool(number % 2), **soak.options())
        run = handoff.submit(soak.dag_of(number, 8), client, **soak.options())
        run.cancel()
        with pytest.raises(RunCancelledError):
            run.result()
        with Client(cluster, set_as_default=False) as other:  # closes while its run is running
            handoff.submit(soak.dag_of(number, 8), other, **soak.options())

    with Client(cluster, set_as_default=False) as client:
        for number in range(6):
            execute(client, number)
        before = sizes(cluster, client)
        for number in range(15):
            execute(client, number)
        assert soak.settled_differences(lambda: sizes(cluster, client), before) == {}


def test_growth_is_detected():
    before = {"a": 1, "b": 2, "objects: Program": 4}
    assert soak.differences(before, {**before, "objects: Program": 0}) == {}
    assert soak.differences(before, {**before, "b": 3, "c": 4}) == {"b": (2, 3), "c": (0, 4)}
    assert soak.differences(before, {**before, "objects: Program": 9}) == {"objects: Program": (4, 9)}
    assert soak.differences(before, {**before, "a": 0}) == {"a": (1, 0)}
    assert soak.differences(before, {**before, "objects: Run": 1}) == {"objects: Run": (0, 1)}
    assert soak.differences(before, {**before, "objects: _Code": 512}) == {}
    assert soak.differences(before, {**before, "objects: _Code": 513}) == {"objects: _Code": (0, 513)}


def test_growth_is_found_at_any_depth(cluster):
    with Client(cluster, set_as_default=False) as client:
        handoff.discover_nodes(client)
    plugin = cluster.scheduler.plugins["handoff"]
    before = soak.sizes_of(plugin, "plugin")
    plugin.unknown_keys["client"] = ["left"]
    plugin.state.placement.estimates.learn("some code", 1.0, 1.0)
    plugin.membership._registered["gone"] = {"cpu": 1}
    after = soak.sizes_of(plugin, "plugin")
    assert set(soak.differences(before, after)) >= {
        "plugin.unknown_keys",
        "plugin.state.placement.estimates._seen",
        "plugin.membership._registered",
    }


@pytest.mark.slow
def test_script(capsys):
    assert soak.main(["--runs", "3", "--at-once", "2", "--width", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert all(line.split()[-1] == "0" for line in lines[2:])
