"""A client in its own process."""

from __future__ import annotations

import asyncio
import inspect

import distributed
import pytest
from distributed import Client, Worker, wait
from helpers import identity, until

from handoff_dask._adapter._dask import client as ends
from handoff_dask._adapter._dask import graphs, running


def fails(*args):
    raise ValueError("on purpose")


def test_request(client):
    assert isinstance(client.sync(ends.request, client, "ncores"), dict), (
        "requests are made otherwise: session"
    )
    with pytest.raises(TypeError, match="nothing"):  # what is raised there
        client.sync(ends.request, client, "ncores", nothing=1)


def test_ask_versions(client, cluster):
    here, there, workers = client.sync(ends.ask_versions, client, ["distributed", "not-there"])
    assert here == {"distributed": distributed.__version__, "not-there": None}, "versions.with_versions"
    assert there == here
    assert workers == dict.fromkeys(cluster.scheduler.workers, here)


def test_send(client, cluster):
    heard = []
    cluster.scheduler.stream_handlers["test-send"] = lambda **message: heard.append(message["x"])
    ends.send(client, {"op": "test-send", "x": 1})
    until(lambda: heard == [1])  # else the scheduler is not told that a handle is gone: connection.drop
    del cluster.scheduler.stream_handlers["test-send"]


def test_hear(client, cluster):
    heard = []
    ends.hear(client, "test-hear", lambda **message: heard.append(message["x"]))
    wait(client.submit(identity, 1, pure=False))

    async def say():
        cluster.scheduler.client_send(client.id, {"op": "test-hear", "x": 1})

    client.sync(say)
    until(lambda: heard == [1])  # else runs never hear of their end: Connection


def test_has_stopped_listening(cluster):
    with Client(cluster, set_as_default=False) as client:
        assert not ends.has_stopped_listening(client)
        assert isinstance(client._handle_report_task, asyncio.Task), "a client listens otherwise: is_closed"
        task, client.status = client._handle_report_task, "connecting"
        assert not ends.has_stopped_listening(client)
        client.loop.add_callback(task.cancel)
        until(lambda: ends.has_stopped_listening(client))
        client.status = "running"


def test_connection(cluster):
    with Client(cluster, set_as_default=False) as client:
        before = ends.connection(client)
        assert callable(before.abort), "a connection cannot be given up: Connection._reattach"
        client.sync(before.comm.close)
        until(
            lambda: client.status == "running" and ends.connection(client) is not before
        )  # else: Connection


def test_is_connected_by(cluster):
    with Client(cluster, set_as_default=False) as client:
        comm = ends.connection(client)
        assert ends.is_connected_by(client, comm)
        assert not ends.is_connected_by(client, object())
        client.sync(comm.comm.close)
        assert not ends.is_connected_by(client, comm), "a connection that broke looks open: gathering"
        until(lambda: client.status == "running" and ends.connection(client) is not comm)


async def is_told_apart(dask_worker):
    made = Client(dask_worker.scheduler.address, name="worker", asynchronous=True, set_as_default=False)
    async with made:
        return ends.was_made_by_worker(made)


def test_was_made_by_worker(client):
    assert all(client.run(is_told_apart).values()), (
        "clients of workers are called otherwise: session takes them for the user's"
    )
    assert 'name="worker"' in inspect.getsource(Worker._get_client), "a worker names its client otherwise"
    assert not ends.was_made_by_worker(client)


class Graph:
    """As compile.Graph: no expression, but what is asked of one."""

    def __dask_graph__(self):
        return {
            ("x", 0): graphs.Task(("x", 0), identity, 1),
            ("x", 1): graphs.Task(("x", 1), add, graphs.TaskRef(("x", 0))),
        }

    def __dask_annotations__(self):
        return {"mine": {("x", 1): {"x": 2}}}


class Order:
    def __contains__(self, key):
        return True

    def __getitem__(self, key):
        return key[1]


def add(x):
    return x + running.annotation(running.find_running().task, "mine")["x"]


def test_send_graph(client, cluster):
    futures = ends.send_graph(client, Graph(), [("x", 1)], Order())
    assert list(futures) == [("x", 1)]
    assert futures["x", 1].result(20) == 3, "a graph does not arrive as it is: compile.Graph, Submission.send"
    assert cluster.scheduler.tasks["x", 1].priority[-1] == 1, "priorities are not ours: compile.NumberOrder"


def test_gather(client):
    futures = [client.submit(identity, n, pure=False) for n in (1, 2)]
    assert client.sync(ends.gather, client, futures) == [1, 2], "gathering.gather"
    with pytest.raises(ValueError, match="on purpose"):
        client.sync(ends.gather, client, [client.submit(fails, pure=False)])


def test_is_held(client):
    future = client.submit(identity, 1, pure=False)
    assert ends.is_held(client, future)
    future.release()
    until(
        lambda: not ends.is_held(client, future)
    )  # else it is wanted again after a break: Submission.reclaim


def test_is_known(client):
    future = client.submit(identity, 1, pure=False)
    assert ends.is_known(client, future)
    future.release()
    until(lambda: not ends.is_known(client, future))  # else its result is waited for: gathering


def test_error_of(client):
    future = client.submit(fails, pure=False)
    wait(future)
    assert repr(ends.error_of(future)) == "ValueError('on purpose')", "Submission.why_unread, gathering"
    assert ends.error_of(client.submit(identity, 1, pure=False)) is None


def test_lost_connection(cluster):
    with Client(cluster, set_as_default=False) as client:
        future = client.submit(identity, 1, pure=False)
        wait(future, client=client) if "client" in inspect.signature(wait).parameters else future.result(20)
        assert not ends.lost_connection(future)
        client.sync(client.scheduler_comm.comm.close)
        until(lambda: ends.lost_connection(future))  # else a run does not say why it ended: why_closed
        until(lambda: client.status == "running")


def test_take_up(cluster):
    with Client(cluster, set_as_default=False) as client:
        future = client.submit(identity, 1, pure=False)
        future.result(20)
        client.sync(client.scheduler_comm.comm.close)
        until(lambda: client.status == "running" and future.status == "cancelled")
        before = future._state
        ends.take_up(client, future)
        assert (future.status, client.futures[future.key]) == ("pending", before), "Submission.reclaim"
        assert ends.error_of(future) is None


def test_cancel_here(client):
    future = client.submit(identity, 1, pure=False)
    wait(future)
    ends.cancel_here(client, future, "gone")
    assert future.status == "cancelled", "Submission.lose"
    assert ends.lost_connection(future)
    assert not ends.is_known(client, future)
    client.cancel(future, force=True)
    client._send_to_scheduler({"op": "client-releases-keys", "keys": [future.key], "client": client.id})
