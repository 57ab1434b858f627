"""``client``: a client in its own process."""

from __future__ import annotations

import asyncio
import inspect

import distributed
import pytest
from distributed import Client, Worker, wait
from helpers import identity, until

from handoff_dask._adapter._dask import client as dask_client
from handoff_dask._adapter._dask import graphs, running


def fails(*args):
    raise ValueError("on purpose")


def test_request(client):
    assert isinstance(client.sync(dask_client.request, client, "ncores"), dict), (
        "requests are sent in another way: session"
    )
    with pytest.raises(TypeError, match="nothing"):  # raised by the scheduler's handler
        client.sync(dask_client.request, client, "ncores", nothing=1)


def test_ask_versions(client, cluster):
    here, there, workers = client.sync(dask_client.ask_versions, client, ["distributed", "not-there"])
    assert here == {"distributed": distributed.__version__, "not-there": None}, (
        "versions are fetched in another way: versions.with_versions"
    )
    assert there == here
    assert workers == dict.fromkeys(cluster.scheduler.workers, here)


def test_send(client, cluster):
    heard = []
    cluster.scheduler.stream_handlers["test-send"] = lambda **message: heard.append(message["x"])
    dask_client.send(client, {"op": "test-send", "x": 1})
    until(lambda: heard == [1])  # else the scheduler never learns that a handle was released: connection.drop
    del cluster.scheduler.stream_handlers["test-send"]


def test_add_stream_handler(client, cluster):
    heard = []
    dask_client.add_stream_handler(client, "test-message", lambda **message: heard.append(message["x"]))
    wait(client.submit(identity, 1, pure=False))

    async def say():
        cluster.scheduler.client_send(client.id, {"op": "test-message", "x": 1})

    client.sync(say)
    until(lambda: heard == [1])  # else a client is never notified of the end of a run: Connection


def test_has_stopped_listening(cluster):
    with Client(cluster, set_as_default=False) as client:
        assert not dask_client.has_stopped_listening(client)
        assert isinstance(client._handle_report_task, asyncio.Task), (
            "a client reads messages in another way: connection.is_closed"
        )
        task, client.status = client._handle_report_task, "connecting"
        assert not dask_client.has_stopped_listening(client)
        client.loop.add_callback(task.cancel)
        until(lambda: dask_client.has_stopped_listening(client))
        client.status = "running"


def test_connection(cluster):
    with Client(cluster, set_as_default=False) as client:
        before = dask_client.connection(client)
        assert callable(before.abort), "a connection cannot be aborted: Connection._reattach"
        client.sync(before.comm.close)
        until(
            lambda: client.status == "running" and dask_client.connection(client) is not before
        )  # else: Connection


def test_is_connected_by(cluster):
    with Client(cluster, set_as_default=False) as client:
        comm = dask_client.connection(client)
        assert dask_client.is_connected_by(client, comm)
        assert not dask_client.is_connected_by(client, object())
        client.sync(comm.comm.close)
        assert not dask_client.is_connected_by(client, comm), "a broken connection looks open: gathering"
        until(lambda: client.status == "running" and dask_client.connection(client) is not comm)


async def is_recognised(dask_worker):
    made = Client(dask_worker.scheduler.address, name="worker", asynchronous=True, set_as_default=False)
    async with made:
        return dask_client.was_made_by_worker(made)


def test_was_made_by_worker(client):
    assert all(client.run(is_recognised).values()), (
        "workers' clients have other ids: session takes them for the user's"
    )
    assert 'name="worker"' in inspect.getsource(Worker._get_client), (
        "a worker gives its client another name: session"
    )
    assert not dask_client.was_made_by_worker(client)


class Graph:
    """Like compile.Graph: not an expression, but with the methods that the scheduler calls on one."""

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
    futures = dask_client.send_graph(client, Graph(), [("x", 1)], Order())
    assert list(futures) == [("x", 1)]
    assert futures["x", 1].result(20) == 3, (
        "the graph does not arrive unchanged: compile.Graph, Submission.send"
    )
    assert cluster.scheduler.tasks["x", 1].priority[-1] == 1, (
        "Dask ignores the priorities: compile.NumberOrder"
    )


def test_gather(client):
    futures = [client.submit(identity, n, pure=False) for n in (1, 2)]
    assert client.sync(dask_client.gather, client, futures) == [1, 2], (
        "results are fetched in another way: gathering.gather"
    )
    with pytest.raises(ValueError, match="on purpose"):
        client.sync(dask_client.gather, client, [client.submit(fails, pure=False)])


def test_is_referenced(client):
    future = client.submit(identity, 1, pure=False)
    assert dask_client.is_referenced(client, future)
    future.release()
    until(
        lambda: not dask_client.is_referenced(client, future)
    )  # else it is requested again after a reconnect: Submission.reclaim


def test_is_known(client):
    future = client.submit(identity, 1, pure=False)
    assert dask_client.is_known(client, future)
    future.release()
    until(lambda: not dask_client.is_known(client, future))  # else gathering waits for its result


def test_error_of(client):
    future = client.submit(fails, pure=False)
    wait(future)
    assert repr(dask_client.error_of(future)) == "ValueError('on purpose')", (
        "a future stores its exception elsewhere: Submission.why_unread, gathering"
    )
    assert dask_client.error_of(client.submit(identity, 1, pure=False)) is None


def test_lost_connection(cluster):
    with Client(cluster, set_as_default=False) as client:
        future = client.submit(identity, 1, pure=False)
        wait(future, client=client) if "client" in inspect.signature(wait).parameters else future.result(20)
        assert not dask_client.lost_connection(future)
        client.sync(client.scheduler_comm.comm.close)
        until(
            lambda: dask_client.lost_connection(future)
        )  # else a run does not tell why it ended: connection.why_closed
        until(lambda: client.status == "running")


def test_reset_to_pending(cluster):
    with Client(cluster, set_as_default=False) as client:
        future = client.submit(identity, 1, pure=False)
        future.result(20)
        client.sync(client.scheduler_comm.comm.close)
        until(lambda: client.status == "running" and future.status == "cancelled")
        before = future._state
        dask_client.reset_to_pending(client, future)
        assert (future.status, client.futures[future.key]) == ("pending", before), (
            "a cancelled future cannot be reset: Submission.reclaim"
        )
        assert dask_client.error_of(future) is None


def test_cancel_locally(client):
    future = client.submit(identity, 1, pure=False)
    wait(future)
    dask_client.cancel_locally(client, future, "gone")
    assert future.status == "cancelled", "a future is cancelled in another way: Submission.lose"
    assert dask_client.lost_connection(future)
    assert not dask_client.is_known(client, future)
    client.cancel(future, force=True)
    client._send_to_scheduler({"op": "client-releases-keys", "keys": [future.key], "client": client.id})
