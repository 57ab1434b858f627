"""Removal of the plugin: it leaves no timers, tasks or changes behind, and no failing node prevents that."""

from __future__ import annotations

import asyncio

import dask
from distributed import Client
from helpers import dag_of, gate, identity, pass_gate, plugin_of, settle, until

import handoff_dask as handoff
from handoff_dask import Function

DAG = dag_of(Function("f", identity, extra_args=[1], cost={"cpu": 1}))


async def scheduled(module="handoff_dask"):
    """Return the pending callbacks and the running tasks of the event loop that belong to a module."""
    loop = asyncio.get_running_loop()
    calls = [h for h in (*loop._ready, *loop._scheduled) if not h.cancelled()]
    names = [getattr(h._callback, "__module__", None) or "" for h in calls]
    coroutines = [task.get_coro() for task in asyncio.all_tasks()]
    tasks = [c.cr_code.co_filename for c in coroutines if hasattr(c, "cr_code")]
    return [name for name in names if module in name] + [name for name in tasks if module in name]


def test_timers_end_with_the_plugin():
    with (
        dask.config.set({"distributed.scheduler.no-workers-timeout": "1h", "handoff.client-grace": "1h"}),
        handoff.local_cluster({"a": {"cpu": 1}, "b": {"cpu": 1}}) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        door = gate("timers")
        dag = dag_of(Function("made", identity, extra_args=[1], node="a", cost={"cpu": 1}))
        dag.add_function(Function("held", pass_gate, extra_args=["timers"], node="b", cost={"cpu": 1}))
        for number in range(2):  # one of them waits for a node, with a deadline
            dag.add_function(Function(number, identity, args=["held"], cost={"cpu": 1}))
        with Client(cluster, set_as_default=False) as other:
            run = handoff.submit(dag, other)
            door.await_inside(1)
            other.sync(other.scheduler_comm.comm.close)  # the grace period keeps its runs for an hour
            waiting = handoff.submit(
                dag_of(Function("f", identity, cost={"gpu": 1}, extra_args=[1])), client, wait_for_nodes=3600
            )
            until(lambda: other.id in plugin_of(cluster).disconnected or other.status == "running")
            client.unregister_scheduler_plugin("handoff")
            assert waiting.wait(20)
            del run
        door.open()
        # Only the adapter's: the clients' connections may still be active.
        until(lambda: not client.sync(scheduled, "handoff_dask._adapter"))
        assert handoff.execute(DAG, client)["f"] == 1


def test_intervals_are_restored_while_a_node_is_leaving():
    with (
        handoff.local_cluster({"a": {"cpu": 1}, "b": {"cpu": 1}}) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        before = {a: float(s.interval) for a, s in cluster.scheduler.stream_comms.items()}
        handoff.execute(DAG, client)
        plugin = plugin_of(cluster)
        # As if the hook for a node that leaves had raised an exception.
        plugin.intervals._shortened.add("inproc://gone")
        client.unregister_scheduler_plugin("handoff")
        assert {a: s.interval for a, s in cluster.scheduler.stream_comms.items()} == before


def test_a_node_that_cannot_be_polled_is_polled_again(monkeypatch):
    """Otherwise an orphaned attempt there would keep its allocation forever."""
    polls = []
    with (
        handoff.local_cluster({"a": {"cpu": 1}, "b": {"cpu": 1}}) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        door = gate("polled")
        dag = dag_of(
            Function("made", identity, extra_args=["polled"], node="a"),
            Function("held", pass_gate, args=["made"], cost={"cpu": 1}, node="b"),
        )
        run = handoff.submit(dag, client)
        door.await_inside(1)
        scheduler = cluster.scheduler
        rpc = scheduler.rpc

        class Failing:
            def __init__(self, address):
                self._core = rpc(address)

            async def run(self, **message):
                polls.append(message)
                if len(polls) < 3:
                    raise RuntimeError("not now")
                return await self._core.run(**message)

            def __getattr__(self, name):
                return getattr(self._core, name)

        monkeypatch.setattr(scheduler, "rpc", Failing)
        made = next(key for key in scheduler.tasks if key[0].startswith("identity"))
        client.sync(lose_result, scheduler, made)
        until(lambda: len(polls) > 2)
        monkeypatch.undo()
        door.open()
        assert run.result(20)["held"] is None
        until(lambda: handoff.resources_available("b", {"cpu": 1}, client))
        del run
        settle(cluster)


async def lose_result(scheduler, key):
    scheduler.transitions({key: "released"}, "test")


def test_dask_recomputes_a_result_that_was_lost_before_the_removal():
    with (
        handoff.local_cluster({"a": {"cpu": 1}, "b": {"cpu": 1}}) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        run = handoff.submit(dag_of(Function("f", identity, extra_args=[1], cost={"cpu": 1})), client)
        assert run.result(20)["f"] == 1
        door = gate("lost first")
        busy = [Function(n, pass_gate, extra_args=["lost first"], node=n, cost={"cpu": 1}) for n in "ab"]
        other = handoff.submit(dag_of(*busy), client)
        door.await_inside(2)
        (key,) = [key for key in cluster.scheduler.tasks if key[0].startswith("identity")]
        client.sync(lose_result, cluster.scheduler, key)
        until(lambda: cluster.scheduler.tasks[key].state == "no-worker")
        client.unregister_scheduler_plugin("handoff")
        door.open()
        assert run.futures["f"].result(timeout=20) == 1
        assert other.wait(20)
