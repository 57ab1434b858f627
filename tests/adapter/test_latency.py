"""Intervals between message batches: short while a worker waits for messages, Dask's own otherwise."""

from __future__ import annotations

import threading
from collections import defaultdict

import dask
import pytest
from distributed import Client, Worker, batched
from helpers import dag_of, gate, identity, pass_gate, plugin_of, settle, until

import handoff_dask as handoff
from handoff_dask import Function

DAG = dag_of(Function("f", identity, extra_args=[1]))

#: Dask's own intervals, in seconds: to a worker, and from it.
OWN = (0.005, 0.002)
SHORT = 0.001

NODE = {"a": {"cpu": 1}}


def streams(cluster):
    """Return the streams to and from each node."""
    scheduler = cluster.scheduler
    return {
        name: (scheduler.stream_comms[worker.address], worker.batched_stream)
        for name, worker in cluster.workers.items()
    }


def intervals(cluster):
    return {name: tuple(s.interval for s in both) for name, both in streams(cluster).items()}


@pytest.fixture
def intervals_used(monkeypatch):
    """Stream → the interval after each of its batches, in seconds."""
    made = defaultdict(list)
    clock = threading.local()

    def time(original=batched.time):
        clock.now = original()
        return clock.now

    def set_deadline(stream, deadline):
        vars(stream)["next_deadline"] = deadline
        if deadline is not None:
            made[stream].append(round(deadline - clock.now, 5))

    deadline = property(lambda stream: vars(stream)["next_deadline"], set_deadline)
    monkeypatch.setattr(batched, "time", time)
    monkeypatch.setattr(batched.BatchedSend, "next_deadline", deadline, raising=False)
    return made


def gated(n, door, cost=None):
    return dag_of(*[Function(i, pass_gate, extra_args=[door], cost=cost) for i in range(n)])


@pytest.mark.parametrize("cost", [None, {"cpu": 1}])
def test_a_chain_uses_short_intervals(intervals_used, cost):
    with handoff.local_cluster(NODE) as cluster, Client(cluster) as client:
        handoff.execute(DAG, client)
        downstream, upstream = streams(cluster)["a"]
        intervals_used.clear()
        chain = [
            Function(i, identity, args=[i - 1] if i else [], extra_args=[] if i else [1], cost=cost)
            for i in range(5)
        ]
        handoff.execute(dag_of(*chain), client)
        assert set(intervals_used[downstream]) == set(intervals_used[upstream]) == {SHORT}
        assert len(intervals_used[upstream]) >= 5


@pytest.mark.parametrize("cost", [None, {"cpu": 1}])
@pytest.mark.parametrize(("functions", "saturated"), [(24, True), (4, False)])
def test_a_stocked_node_keeps_dasks_intervals(intervals_used, functions, saturated, cost):
    # A wide horizon, so that functions count as short however slowly a busy machine runs them.
    with (
        dask.config.set({"handoff.prefetch.horizon": "10s"}),
        handoff.local_cluster(NODE) as cluster,
        Client(cluster) as client,
    ):
        gate("wide").open()
        handoff.execute(gated(8, "wide", cost), client)  # the core learns that the functions are short
        settle(cluster)
        door = gate("wide")
        downstream, upstream = streams(cluster)["a"]
        intervals_used.clear()
        run = handoff.submit(gated(functions, "wide", cost), client)
        door.await_inside(1)
        (node,) = plugin_of(cluster).state.nodes.values()
        until(lambda: len(node.running) + len(node.prefetched) == functions)
        # The last batch may still be on its way, and no other one follows while the gate is closed.
        expected = OWN[0] if saturated else SHORT
        until(lambda: intervals_used[downstream][-1:] == [expected])
        intervals_used.clear()
        door.open()
        run.result()
        assert intervals_used[upstream][0] == (OWN[1] if saturated else SHORT)
        assert intervals_used[upstream][-1] == SHORT  # no function waits there any more


def test_intervals_are_restored_when_the_plugin_is_removed(intervals_used):
    with handoff.local_cluster({**NODE, "b": {"cpu": 1}}) as cluster, Client(cluster) as client:
        scheduler = cluster.scheduler
        before = intervals(cluster)
        handlers = dict(scheduler.stream_handlers), dict(scheduler.handlers)
        handoff.execute(DAG, client)
        client.unregister_scheduler_plugin("handoff")
        assert before == intervals(cluster) == {"a": OWN, "b": OWN}
        left = {op: h for op, h in scheduler.stream_handlers.items() if not op.startswith("handoff-")}
        assert (left, dict(scheduler.handlers)) == handlers
        assert plugin_of(cluster) is None
        intervals_used.clear()
        assert client.submit(identity, 5, workers=["a"]).result() == 5
        assert [set(intervals_used[stream]) for stream in streams(cluster)["a"]] == [{OWN[0]}, {OWN[1]}]


def test_intervals_are_restored_while_a_function_is_running(intervals_used):
    with handoff.local_cluster(NODE) as cluster, Client(cluster) as client:
        door = gate("running")
        run = handoff.submit(gated(1, "running"), client)
        door.await_inside(1)
        client.unregister_scheduler_plugin("handoff")
        until(lambda: not any(stream.buffer for stream in streams(cluster)["a"]))
        intervals_used.clear()
        door.open()
        assert run.wait(timeout=20)
        assert client.submit(identity, 5).result() == 5
        assert [set(intervals_used[stream]) for stream in streams(cluster)["a"]] == [{OWN[0]}, {OWN[1]}]


def test_later_nodes_have_short_intervals_and_departed_nodes_leave_no_state(intervals_used):
    with handoff.local_cluster(NODE) as cluster, Client(cluster) as client:
        handoff.execute(DAG, client)
        options = {**cluster.worker_spec["a"]["options"], "name": "b"}
        cluster.worker_spec["b"] = {"cls": Worker, "options": options}
        cluster.sync(cluster._correct_state)
        handoff.execute(dag_of(Function("f", identity, extra_args=[1], node="b")), client)
        assert {intervals_used[stream][-1] for stream in streams(cluster)["b"]} == {SHORT}
        del cluster.worker_spec["a"]
        cluster.sync(cluster._correct_state)
        client.unregister_scheduler_plugin("handoff")
        assert intervals(cluster) == {"b": OWN}


def test_an_interval_that_other_code_has_set_since_stays():
    with handoff.local_cluster(NODE) as cluster, Client(cluster) as client:
        handoff.execute(DAG, client)
        for stream in streams(cluster)["a"]:
            stream.interval = 0.007
        client.unregister_scheduler_plugin("handoff")
        assert intervals(cluster) == {"a": (0.007, 0.007)}


@pytest.mark.parametrize(
    ("interval", "expected"), [("0", OWN), ("20ms", OWN), ("3ms", (0.003, OWN[1])), ("100us", (1e-4, 1e-4))]
)
def test_the_configured_interval_is_used_if_it_is_shorter(intervals_used, interval, expected):
    with (
        dask.config.set({"handoff.stream-interval": interval}),
        handoff.local_cluster(NODE) as cluster,
        Client(cluster) as client,
    ):
        handoff.execute(DAG, client)
        downstream, upstream = streams(cluster)["a"]
        assert (intervals_used[downstream][-1], intervals_used[upstream][-1]) == expected


def test_removing_the_plugin_ends_its_runs():
    with handoff.local_cluster(NODE) as cluster, Client(cluster) as client:
        run = handoff.submit(
            dag_of(Function("f", identity, extra_args=[1], cost={"gpu": 1})), client, wait_for_nodes=60
        )
        client.unregister_scheduler_plugin("handoff")
        assert run.wait(timeout=20)
        assert run.status == "cancelled"
        with pytest.raises(handoff.RunError):
            run.result(timeout=20)
