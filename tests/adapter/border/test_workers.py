"""``workers``: workers, on the scheduler and on the worker itself."""

from __future__ import annotations

import dask
import pytest
from distributed import wait
from distributed.batched import BatchedSend
from helpers import gate, identity, pass_gate, until

from handoff_dask._adapter._dask import workers


def fails(*args):
    raise ValueError("on purpose")


def address(cluster, name):
    return cluster.workers[name].address


def name_and(dask_worker, x):
    return dask_worker.name, [x]


def test_call_on(client, cluster, scheduler):
    at = address(cluster, "a")
    answer = client.sync(workers.call_on, scheduler, at, name_and, x=1)
    assert answer == (("a", [1]), None), (
        "functions are called on workers in another way: Membership, Orphans, AttemptStopper"
    )
    answer = client.sync(workers.call_on, scheduler, at, fails)
    assert answer.value is None
    assert "on purpose" in answer.problem, "the exception of a call is reported in another way: Membership"
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "100 ms"}),
        pytest.raises(OSError, match="Timed out"),
    ):
        client.sync(workers.call_on, scheduler, at + "x", name_and, x=1)


def test_stream_to(cluster, scheduler):
    assert isinstance(workers.stream_to(scheduler, address(cluster, "a")), BatchedSend), (
        "streams are stored elsewhere: latency.StreamIntervals"
    )
    assert workers.stream_to(scheduler, "inproc://nobody") is None


def test_stream_from(cluster):
    assert isinstance(workers.stream_from(cluster.workers["a"]), BatchedSend), (
        "streams are stored elsewhere: latency.set_worker_interval"
    )


def test_send_interval(cluster, scheduler):
    intervals = [workers.send_interval(workers.stream_to(scheduler, address(cluster, "a")))]
    intervals.append(workers.send_interval(workers.stream_from(cluster.workers["a"])))
    assert intervals == [0.005, 0.002], "Dask's intervals have changed: see the numbers in latency.py"


def test_set_send_interval(client, cluster, scheduler, on_loop):
    asked = []

    class Interval(float):
        def __radd__(self, time):
            asked.append(time)
            return time + 0.0

        __add__ = __radd__

    stream = workers.stream_to(scheduler, address(cluster, "a"))
    own = workers.send_interval(stream)
    on_loop(workers.set_send_interval, stream, Interval(own))
    wait(client.submit(identity, 1, pure=False, workers=["a"]))
    on_loop(workers.set_send_interval, stream, own)
    assert asked, (
        "Dask does not add the interval to a time when it sends: latency.AdaptiveInterval has no effect"
    )


def test_count_waiting(client, cluster, queued):
    worker = cluster.workers["a"]
    door, _running, waiting = queued("count")
    assert workers.count_waiting(worker) == 1, "waiting tasks are counted in another way: latency"
    door.open()
    wait(waiting)
    assert workers.count_waiting(worker) == 0


def test_running_keys(client, cluster, queued):
    door, future, _waiting = queued("keys")
    assert workers.running_keys(cluster.workers["a"]) == [future.key], (
        "Dask keeps track of threads in another way: Orphans"
    )
    future.release()
    until(lambda: future.key not in cluster.scheduler.tasks)
    assert workers.running_keys(cluster.workers["a"]) == [future.key], "released tasks are left out: Orphans"
    door.open()
    until(lambda: not workers.running_keys(cluster.workers["a"]))


def test_declared_resources(cluster):
    declared = workers.declared_resources(cluster.workers["b"])
    assert (declared["cpu"], declared["slot"]) == (1, 1), (
        "resources are stored elsewhere: capacity.probe_node"
    )


def test_memory_limit(cluster, monkeypatch):
    worker = cluster.workers["a"]
    assert not workers.memory_limit(worker), "a missing limit is stored in another way: capacity.probe_node"
    monkeypatch.setattr(worker.memory_manager, "memory_limit", 2**30)
    assert workers.memory_limit(worker) == 2**30


def test_recount_resources(client, cluster, scheduler, on_loop):
    door = gate("recount")
    future = client.submit(pass_gate, "recount", pure=False, workers=["a"], resources={"slot": 1})
    door.await_inside(1)
    ws = scheduler.workers[address(cluster, "a")]
    assert ws.used_resources["slot"] == 1, "Dask counts used resources in another way: external, Membership"
    ws.used_resources = {}
    on_loop(workers.recount_resources, ws)
    assert ws.used_resources["slot"] == 1
    door.open()
    wait(future)
    until(lambda: ws.used_resources["slot"] == 0)


def test_reported_metrics(cluster, scheduler):
    ws = scheduler.workers[address(cluster, "a")]
    until(lambda: workers.reported_metrics(ws).get("memory"))
    metrics = workers.reported_metrics(ws)
    assert metrics["memory"] > 2**20, "the memory in a worker's metrics has changed: measured"
    assert metrics["cpu"] >= 0, "the processor time in a worker's metrics has changed: measured"
