"""Pauses between messages: short where one is waited for, Dask's own otherwise and afterwards."""

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

#: Dask's own: to a worker, and from it.
OWN = (0.005, 0.002)
SHORT = 0.001

NODE = {"a": {"cpu": 1}}


def streams(cluster):
    """The streams to and from each node."""
    scheduler = cluster.scheduler
    return {
        name: (scheduler.stream_comms[worker.address], worker.batched_stream)
        for name, worker in cluster.workers.items()
    }


def intervals(cluster):
    return {name: tuple(s.interval for s in both) for name, both in streams(cluster).items()}


@pytest.fixture
def pauses(monkeypatch):
    """Stream → the pauses that Dask made on it, one after each batch."""
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
def test_a_chain_waits_for_no_long_pause(pauses, cost):
    with handoff.local_cluster(NODE) as cluster, Client(cluster) as client:
        handoff.execute(DAG, client)
        towards, back = streams(cluster)["a"]
        pauses.clear()
        chain = [
            Function(i, identity, args=[i - 1] if i else [], extra_args=[] if i else [1], cost=cost)
            for i in range(5)
        ]
        handoff.execute(dag_of(*chain), client)
        assert set(pauses[towards]) == set(pauses[back]) == {SHORT}
        assert len(pauses[back]) >= 5


@pytest.mark.parametrize("cost", [None, {"cpu": 1}])
@pytest.mark.parametrize(("functions", "stocked"), [(24, True), (4, False)])
def test_a_node_with_enough_to_do_keeps_the_pauses_of_dask(pauses, functions, stocked, cost):
    with handoff.local_cluster(NODE) as cluster, Client(cluster) as client:
        gate("wide").open()
        handoff.execute(gated(8, "wide", cost), client)  # they are seen to be short
        settle(cluster)
        door = gate("wide")
        towards, back = streams(cluster)["a"]
        pauses.clear()
        run = handoff.submit(gated(functions, "wide", cost), client)
        door.await_inside(1)
        (node,) = plugin_of(cluster).state.nodes.values()
        until(lambda: len(node.running) + len(node.prefetched) == functions)
        until(lambda: pauses[towards])
        assert pauses[towards][-1] == (OWN[0] if stocked else SHORT)
        pauses.clear()
        door.open()
        run.result()
        assert pauses[back][0] == (OWN[1] if stocked else SHORT)
        assert pauses[back][-1] == SHORT  # when nothing waits there any more


def test_pauses_are_put_back_when_the_plugin_is_removed(pauses):
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
        pauses.clear()
        assert client.submit(identity, 5, workers=["a"]).result() == 5
        assert [set(pauses[stream]) for stream in streams(cluster)["a"]] == [{OWN[0]}, {OWN[1]}]


def test_pauses_are_put_back_while_a_function_is_running(pauses):
    with handoff.local_cluster(NODE) as cluster, Client(cluster) as client:
        door = gate("running")
        run = handoff.submit(gated(1, "running"), client)
        door.await_inside(1)
        client.unregister_scheduler_plugin("handoff")
        until(lambda: not any(stream.buffer for stream in streams(cluster)["a"]))
        pauses.clear()
        door.open()
        assert run.wait(timeout=20)
        assert client.submit(identity, 5).result() == 5
        assert [set(pauses[stream]) for stream in streams(cluster)["a"]] == [{OWN[0]}, {OWN[1]}]


def test_nodes_that_come_later_have_short_pauses_and_those_that_go_leave_nothing(pauses):
    with handoff.local_cluster(NODE) as cluster, Client(cluster) as client:
        handoff.execute(DAG, client)
        options = {**cluster.worker_spec["a"]["options"], "name": "b"}
        cluster.worker_spec["b"] = {"cls": Worker, "options": options}
        cluster.sync(cluster._correct_state)
        handoff.execute(dag_of(Function("f", identity, extra_args=[1], node="b")), client)
        assert {pauses[stream][-1] for stream in streams(cluster)["b"]} == {SHORT}
        del cluster.worker_spec["a"]
        cluster.sync(cluster._correct_state)
        client.unregister_scheduler_plugin("handoff")
        assert intervals(cluster) == {"b": OWN}


def test_a_pause_that_somebody_else_has_set_since_stays():
    with handoff.local_cluster(NODE) as cluster, Client(cluster) as client:
        handoff.execute(DAG, client)
        for stream in streams(cluster)["a"]:
            stream.interval = 0.007
        client.unregister_scheduler_plugin("handoff")
        assert intervals(cluster) == {"a": (0.007, 0.007)}


@pytest.mark.parametrize(
    ("interval", "expected"), [("0", OWN), ("20ms", OWN), ("3ms", (0.003, OWN[1])), ("100us", (1e-4, 1e-4))]
)
def test_the_configured_interval_is_used_where_it_is_the_shorter_one(pauses, interval, expected):
    with (
        dask.config.set({"handoff.stream-interval": interval}),
        handoff.local_cluster(NODE) as cluster,
        Client(cluster) as client,
    ):
        handoff.execute(DAG, client)
        towards, back = streams(cluster)["a"]
        assert (pauses[towards][-1], pauses[back][-1]) == expected


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
